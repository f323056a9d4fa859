"""The paper's experiments: what they are, and that they run and go on."""

import dataclasses
import inspect

import numpy as np
import pytest

from trainers import training
from trainers.experiments.paper import configurations
from trainers.experiments.paper import figures


@pytest.mark.parametrize("name", configurations.EXPERIMENTS)
def test_each_states_its_command_and_trains_its_network(name):
    experiment = configurations.EXPERIMENTS[name]()
    text = inspect.getdoc(configurations.EXPERIMENTS[name])
    assert f"python -m trainers.experiments.paper --experiment={name}" in text
    assert next(iter(experiment)) == "entropy_sgd"
    ours, *_, baseline = experiment.values()
    assert ours.network == baseline.network
    assert ours.batch_size == baseline.batch_size


def test_the_constants_of_the_first_version():
    ours, adam = configurations.figure_4a().values()
    assert (ours.num_langevin_steps, ours.scope, ours.data_weight) == (
        5, 1.0, 0.0,
    )  # fmt: skip
    assert (adam.learning_rate, adam.step_factor, adam.epochs) == (1e-3, 5, 100)
    assert adam.step_fraction * adam.epochs == 30
    ours, _ = configurations.figure_4b().values()
    assert (ours.num_langevin_steps, ours.scope) == (20, 0.1)
    assert ours.data_weight == 1e-4
    ours, sgd = configurations.figure_5().values()
    assert (ours.epochs, ours.epoch_unit) == (15, "updates")
    assert ours.step_fraction * ours.epochs == pytest.approx(5)
    assert ours.data_weight == 0.01
    assert (sgd.learning_rate, sgd.epochs) == (0.1, 200)
    assert sgd.step_fraction * sgd.epochs == 60


def test_the_constants_of_the_later_version():
    experiments = {
        "mnistfc": configurations.iclr_mnistfc(),
        "lenet": configurations.iclr_lenet(),
        "all_cnn_bn": configurations.iclr_all_cnn_bn(),
        "char_lstm": configurations.iclr_char_lstm(),
    }
    for name, experiment in experiments.items():
        ours, *between, baseline = experiment.values()
        for other in between:  # with Adam outside
            assert (ours.optimizer, other.optimizer) == (
                "entropy_sgd", "entropy_adam",
            )  # fmt: skip
            assert other == dataclasses.replace(
                ours, optimizer="entropy_adam", learning_rate=2e-3
            )
        assert ours.num_langevin_steps == (5 if name == "char_lstm" else 20)
        assert ours.langevin_learning_rate == 0.1
        assert ours.averaging_rate == 0.75
        assert ours.scope_growth == 1e-3
        noise, scope = {
            "mnistfc": (1e-3, 1e-4),
            "lenet": (1e-3, 1e-4),
            "all_cnn_bn": (1e-4, 0.03),
            "char_lstm": (1e-4, 0.01),
        }[name]
        assert ours.temperature == pytest.approx(noise**2 / 2)
        assert ours.scope == scope
        assert ours.weight_decay == (1e-3 if name == "all_cnn_bn" else None)
        assert baseline.optimizer == ("sgd" if name == "all_cnn_bn" else "adam")


def tiny(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(96) % 2
    x = (rng.random([96, 28, 28]) * 100 + 100 * y[:, None, None]).astype(
        "uint8"
    )
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x[:64], y_train=y[:64], x_test=x[64:], y_test=y[64:])
    return str(path)


def test_an_experiment_runs_and_goes_on(tmp_path, monkeypatch):
    small = {
        name: dataclasses.replace(
            config, network="small_mnistfc", batch_size=8, epochs=2
        )
        for name, config in configurations.figure_4a().items()
    }
    arguments = small, tmp_path / "run", 1
    common = {"npz": tiny(tmp_path), "width": 0.1}
    rows = figures.run(*arguments, **common)
    found = {name: figures.curves(each) for name, each in rows.items()}
    # Two epochs of 8 updates with 5 gradients each, after each of 10 passes.
    ours, adam = found["entropy_sgd"], found["adam"]
    assert ours["error"].shape == (1, 10)
    assert ours["gradient_evaluations"][-1] == 5 * ours["updates"][-1] == 100
    assert adam["updates"].tolist() == [8, 16]
    monkeypatch.setattr(
        training, "_fit", lambda run: pytest.fail("it was trained again")
    )
    assert figures.run(*arguments, **common) == rows
    figures.draw(tmp_path / "curves.png", found, "tiny")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def made_up(*errors):
    count = len(errors[0])
    return {
        "updates": 10 * np.arange(1, count + 1),
        "gradient_evaluations": 50 * np.arange(1, count + 1),
        "error": np.array(errors, float),
        "loss": np.ones([len(errors), count]),
    }


def test_a_summary_tells_when_the_baseline_is_reached():
    ours, baseline = figures.summary({
        "ours": made_up([9, 3, 1], [9, 5, 1]),
        "adam": made_up([8, 4, 6], [8, 4, 6]),
    })
    assert ours["updates_to_baseline"] == 20  # a mean of 4, the least there
    assert ours["gradients_to_baseline"] == 100
    assert ours["final_error"] == 1
    assert baseline["least_mean_error"] == 4
    never, _ = figures.summary({
        "ours": made_up([9, 9], [9, 9]), "adam": made_up([8, 8], [8, 8])
    })  # fmt: skip
    assert never["updates_to_baseline"] is None
    assert "–" in figures.markdown([never])


def test_the_error_of_a_text_is_its_perplexity():
    row = {
        "updates": 1, "gradient_evaluations": 5, "loss": 2.0,
        "val_accuracy": 0.5, "val_loss": np.log(7.0),
    }  # fmt: skip
    found = figures.curves([[row]], figures.PERPLEXITY)
    assert found["error"] == pytest.approx(np.array([[7.0]]))
    rows = figures.summary({"adam": found})
    assert "| final test perplexity |" in figures.markdown(
        rows, figures.PERPLEXITY
    )
