"""The comparison of optimizers keeps its own rules."""

import dataclasses
import sys
import types

import keras
import numpy as np
import pandas
import pytest
import scipy.stats
import sklearn.datasets

from trainers import ablation
from trainers import comparison
from trainers import methods
from trainers import report
from trainers import search
from trainers import sets
from trainers import standings

X, Y = sklearn.datasets.load_digits(return_X_y=True)
X = (X / 16).astype("float32")
Y = Y.astype("int32")
DATA = ((X[:320], Y[:320]), (X[320:500], Y[320:500]), (X[500:700], Y[500:700]))
METHODS = ("sgd", "sam", "entropy_sgd")


@pytest.fixture(autouse=True)
def _one_choice_each(monkeypatch):
    # Each choice is traced for itself.
    for name in METHODS:
        method = methods.METHODS[name]
        one = {key: options[:1] for key, options in method.choices.items()}
        monkeypatch.setitem(
            methods.METHODS, name, dataclasses.replace(method, choices=one)
        )


def compared(workdir, **arguments):
    return search.compare(
        sets.perceptron(64, 10, 16),
        DATA,
        METHODS,
        3,
        workdir=workdir,
        num_trials=4,
        num_searches=1,
        num_seeds=2,
        jit_compile=False,
        **arguments,
    )


def test_it_keeps_its_rules_and_goes_on(tmp_path, monkeypatch):
    tested = []
    judge = comparison.Runner.judge

    def watched(runner, data, *rest):
        tested.append(data is DATA[2])
        return judge(runner, data, *rest)

    monkeypatch.setattr(comparison.Runner, "judge", watched)
    winners = compared(tmp_path)
    runs = [run for winner in winners for run in winner["runs"]]
    # 3 passes of 10 mini-batches of 32, whatever an update takes.
    assert {run["gradient_evaluations"] for run in runs} == {30}
    assert [run["updates"] for run in winners[0]["runs"]] == [30, 30]
    assert [run["updates"] for run in winners[1]["runs"]] == [15, 15]
    assert [run["updates"] for run in winners[2]["runs"]] == [6, 6]
    # The test set is seen by the winners' new seeds, and by them alone.
    assert sum(tested) == 3 * 2
    assert all(run["tested"] for run in runs)
    trained = []
    monkeypatch.setattr(
        comparison.Runner, "run", lambda *arguments: trained.append(1)
    )
    again = compared(tmp_path)
    assert not trained
    assert standings.table(again) == standings.table(winners)
    # Without the time for anything new, what is whole is kept.
    assert compared(tmp_path / "other", max_minutes=1e-9) == []


@pytest.mark.nightly
def test_what_changes_nothing_makes_no_difference(tmp_path):
    network = sets.perceptron(64, 10, 8)

    def normalized(regularizer):
        layers = network(regularizer).layers
        return keras.Sequential([
            keras.Input([64]),
            keras.layers.BatchNormalization(),
            *layers,
        ])

    for make, settings in ((network, 2), (normalized, 3)):
        compared = search.Comparison(
            make, *DATA, tmp_path / str(settings), passes=3, batch_size=32,
            jit_compile=False,
        )  # fmt: skip
        winners = compared.winners(["entropy_sgd"], 1, 4, 2)
        variants = [
            ablation.Variant("scope", "times 1", {"scope": 1.0}, {}),
            ablation.Variant(
                "step_size", "times 1e-3", {"step_size": 1e-3}, {}
            ),
            *(v for v in ablation.VARIANTS if v.factor == "recalibrate"),
        ]
        rows = ablation.ablate(compared, winners, variants)
        assert len(rows) == settings
        assert rows[0]["difference"] == rows[0]["standard_error"] == 0
        assert rows[1]["difference"] > 10


def made_up(errors):
    """Returns winners with these test errors, by method and search."""
    return [
        {
            "method": name,
            "at_edge": [],
            "runs": [
                {
                    "test": {"error": e, "loss": 1.0},
                    "seconds": 1.0, "updates": 1, "gradient_evaluations": 1,
                }
                for e in found
            ],
        }
        for name, searches in errors.items()
        for found in searches
    ]  # fmt: skip


def test_the_statistics_are_those_of_scipy():
    rng = np.random.default_rng(0)
    one = rng.normal(5, 0.1, [3, 6])
    other = one + rng.normal(0.3, 0.1, [3, 6])
    best, second = standings.table(made_up({"b": other, "a": one}))
    assert best["method"] == "a"
    assert best["behind_the_best"] == 0
    differences = (other - one).ravel()
    assert second["behind_the_best"] == pytest.approx(differences.mean())
    expected = scipy.stats.ttest_rel(other.ravel(), one.ravel()).pvalue
    assert second["p_value"] == pytest.approx(expected)
    seeds = scipy.stats.sem(differences)
    searches = scipy.stats.sem((other - one).mean(1))
    assert second["standard_error"] == pytest.approx(max(seeds, searches))
    assert second["worse_than_best"]
    assert "(the same)" not in standings.markdown([best, second])


def test_less_than_two_errors_is_the_same():
    rng = np.random.default_rng(0)
    one = rng.normal(5, 1, [3, 6])
    other = one + rng.normal(0.1, 1, [3, 6])
    rows = standings.table(made_up({"a": one, "b": other}))
    assert not any(row["worse_than_best"] for row in rows)
    assert "(the same)" in standings.markdown(rows)


def test_trials_are_within_their_space_and_edges_are_told():
    method = methods.Method(lambda *_: None, {"a": (1e-3, 1.0)}, {"b": (1, 2)})
    drawn = methods.trials(method, 200, seed=3)
    values = np.array([v["a"] for v, _ in drawn])
    assert values.min() >= 1e-3
    assert values.max() <= 1.0
    assert abs(np.log10(values).mean() + 1.5) < 0.2  # log-uniform
    assert {c["b"] for _, c in drawn} == {1, 2}
    assert drawn == methods.trials(method, 200, seed=3)
    assert methods.at_edge(method, {"a": 1.1e-3}, {"b": 1}) == ["a"]
    assert methods.at_edge(method, {"a": 0.03}, {"b": 1}) == []
    three = methods.Method(lambda *_: None, {}, {"b": (1, 2, 3)})
    assert methods.at_edge(three, {}, {"b": 3}) == ["b"]
    assert methods.at_edge(three, {}, {"b": 2}) == []


def test_a_folder_belongs_to_one_network(tmp_path):
    def build(activation, rate):
        def made(regularizer):
            inner = keras.Sequential([
                keras.Input([64]), keras.layers.Dense(8, activation),
                keras.layers.Dropout(rate),
            ])  # fmt: skip
            dense = keras.layers.Dense(10, kernel_regularizer=regularizer)
            return keras.Sequential([keras.Input([64]), inner, dense])

        return made

    def claim(*network):
        search.Comparison(
            build(*network), *DATA, tmp_path, passes=1, batch_size=32
        )

    claim("relu", 0.5)
    claim("relu", 0.5)  # other names
    for other in (("tanh", 0.5), ("relu", 0.1)):
        with pytest.raises(ValueError, match="with another network"):
            claim(*other)
    few = (X[:20], Y[:20])
    with pytest.raises(ValueError, match="`train` must be at least one mini-b"):
        search.Comparison(
            build("relu", 0.5), few, *DATA[1:], tmp_path, passes=1,
            batch_size=32,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["sgd", "entropy_sgd"])
def test_a_run_with_dropout_is_a_function_of_its_seed(name):
    def build(regularizer):
        del regularizer
        return keras.Sequential([
            keras.Input([64]), keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ])  # fmt: skip

    method = methods.METHODS[name]
    (values, choices), *_ = methods.trials(method, 1, seed=0)
    runner = comparison.Runner(
        build, method, choices, DATA[0], passes=1, batch_size=32,
        jit_compile=False,
    )  # fmt: skip

    def trained(seed):
        runner.run(values, seed)
        (state,) = (v for v in runner.model.variables if "seed" in v.path)
        return runner.model.get_weights(), state.numpy().tolist()

    first, other, again = trained(3), trained(4), trained(3)
    assert first[1] == again[1] != other[1]
    for a, b in zip(first[0], again[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_that_are_not_finite_are_written_as_none(tmp_path):
    path = tmp_path / "found.json"
    report.write_json(path, {"a": [{"p": np.nan, "q": (1.5, np.inf)}]})
    assert report.read_json(path) == {"a": [{"p": None, "q": [1.5, None]}]}


def test_flatness_is_that_of_the_weights_that_were_tested(tmp_path):
    compared = search.Comparison(
        sets.perceptron(64, 10, 8), *DATA, tmp_path, passes=3, batch_size=32,
        early_stopping=True, jit_compile=False,
    )  # fmt: skip
    winners = compared.winners(["sgd"], 1, 4, 2)
    (winner,) = winners
    run = winner["runs"][0]
    trial = winner["values"], winner["choices"]
    runner, found = compared.trained("sgd", trial, run["seed"], tested=True)
    assert runner.judge(DATA[2])["error"] == run["test"]["error"]
    assert min(found["curve"]["error"]) == run["validation"]["error"]
    last = runner.run(winner["values"], run["seed"])
    assert "curve" not in last  # which is another training
    kept = ablation.flatness(compared, winners, 1)[0]["length_of_weights"]
    compared.trained("sgd", trial, run["seed"], tested=True)
    assert kept == pytest.approx(
        np.sqrt(sum((w**2).sum() for w in runner.model.get_weights())), rel=1e-5
    )


def test_wrong_labels_are_as_many_as_asked_for():
    noisy = sets.with_wrong_labels(Y, 0.2)
    assert (noisy != Y).mean() == pytest.approx(0.2, abs=1e-3)
    assert set(noisy) == set(range(10))


def test_the_table_of_diamonds_has_ranks_for_grades(monkeypatch):
    cut = pandas.Categorical(["Fair", "Ideal"] * 5, ["Fair", "Good", "Ideal"])
    table = pandas.DataFrame({"carat": np.arange(10) / 10, "cut": cut})
    found = types.SimpleNamespace(diamonds=table)
    monkeypatch.setitem(sys.modules, "plotnine", types.ModuleType("plotnine"))
    monkeypatch.setitem(sys.modules, "plotnine.data", found)
    parts = sets.tabular("diamonds", sets.Sizes(5, 2)).data
    assert [x.shape for x, _ in parts] == [(5, 1), (2, 1), (3, 1)]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    np.testing.assert_array_equal(y[np.argsort(x[:, 0])], [0, 2] * 5)


def test_a_table_of_a_user_is_standardized_where_it_is_trained(tmp_path):
    x = np.random.default_rng(0).normal([5, -3, 0], [1, 9, 1], [60, 3])
    x[:, 2] = np.arange(60) >= 50  # constant where it is trained
    y = np.where(x[:, 0] > 5, "yes", "no")
    path = tmp_path / "table.npz"
    np.savez(path, x_train=x[:50], y_train=y[:50], x_test=x[50:], y_test=y[50:])
    chosen = sets.tabular(str(path), sets.Sizes(30, 20))
    train, validation, test = chosen.data
    np.testing.assert_allclose(train[0].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train[0].std(0), [1, 1, 0], rtol=1e-5)
    np.testing.assert_array_equal(test[0][:, 2], 1)
    # One map for all three, which keeps rows and classes together.
    slope = np.polyfit(x[50:, 1], test[0][:, 1], 1)
    every = np.sort(np.concatenate([train[0], validation[0]])[:, 1])
    np.testing.assert_allclose(
        every, np.polyval(slope, np.sort(x[:50, 1])), atol=1e-4
    )
    threshold = np.polyval(np.polyfit(x[50:, 0], test[0][:, 0], 1), 5)
    for rows, classes in chosen.data:
        np.testing.assert_array_equal(rows[:, 0] > threshold, classes)
    np.savez(path, x_train=x[:50, None], y_train=y[:50])
    with pytest.raises(ValueError, match=r"`x_train` must be rows of numbers"):
        sets.tabular(str(path), sets.Sizes(30, 20))
    np.savez(
        path, x_train=x[:50], y_train=y[:50], x_test=x[50:, :1], y_test=y[50:]
    )
    with pytest.raises(ValueError, match="`x_test` must be of as many columns"):
        sets.tabular(str(path), sets.Sizes(30, 20))
