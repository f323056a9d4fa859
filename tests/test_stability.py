"""The study of what one training example changes."""

import json

import keras
import numpy as np
import pytest

from trainers import data
from trainers import networks
from trainers.experiments.stability import replacement
from trainers.experiments.stability import study

RNG = np.random.default_rng(0)
ARM = replacement.ARMS["SGD"]


def examples(count):
    images = RNG.uniform(size=[count, 28, 28, 1]).astype("float32")
    return data.Split(images, RNG.integers(0, 10, count).astype("int32"))


def setting_with(**changes):
    setting = replacement.Setting("small_mnistfc", 0.2, 10, passes=2)
    return setting._replace(**changes)


def gradient_of(model, image, label):
    """Returns the gradient of one cross entropy with 784-13-10, by hand."""
    kernel, bias, out, out_bias = model.get_weights()
    x = image.ravel()
    hidden = x @ kernel + bias
    active = np.maximum(hidden, 0)
    logits = active @ out + out_bias
    by_logits = np.exp(logits) / np.exp(logits).sum()
    by_logits[label] -= 1
    by_hidden = (out @ by_logits) * (hidden > 0)
    parts = np.outer(x, by_hidden), by_hidden, np.outer(active, by_logits)
    return np.concatenate([part.ravel() for part in (*parts, by_logits)])


def test_equal_sets_make_equal_runs_and_others_do_not():
    train, watched = examples(30), examples(7)
    runner = replacement.Runner(ARM, 0.1, setting_with(), 30, seed=1)
    other = replacement.replaced(train, 4, by=examples(1))
    change = replacement.measure([runner], train, [train, other], watched)
    assert change.weights.shape == change.losses.shape == (1, 2, 2)
    assert (change.weights[0, 0] == 0).all()
    assert (change.losses[0, 0] == 0).all()
    assert (change.weights[0, 1] > 0).all()
    assert change.expected.shape == (2, 7)
    (base,), again = change.base, runner.run(other, watched)
    np.testing.assert_allclose(
        change.weights[0, 1],
        np.linalg.norm(again.weights - base.weights, axis=1),
    )
    difference = np.abs(again.losses - base.losses)
    np.testing.assert_allclose(change.losses[0, 1], difference.mean(axis=1))
    np.testing.assert_allclose(
        np.abs(change.expected[1]), difference[-1], rtol=1e-6
    )


def test_one_step_on_all_data_changes_by_the_difference_of_two_gradients():
    train, by = examples(20), examples(1)
    setting = setting_with(batch_size=20, passes=1)
    runner = replacement.Runner(ARM, 0.1, setting, 20, seed=2)
    first = [
        gradient_of(runner.model, split.images[i], split.labels[i])
        for split, i in ((train, 3), (by, 0))
    ]
    other = replacement.replaced(train, 3, by=by)
    assert (other.labels != train.labels).sum() <= 1
    assert (other.images != train.images).any(axis=(1, 2, 3)).sum() == 1
    change = replacement.measure([runner], train, [other], train)
    # Nesterov's first step is 1 + momentum times that of gradient descent.
    expected = 1.9 * 0.1 * np.linalg.norm(first[1] - first[0]) / 20
    assert change.weights[0, 0, 0] == pytest.approx(expected, rel=1e-4)


def test_the_better_learning_rate_is_chosen():
    train = examples(20)
    arm = ARM._replace(learning_rates=(1e-6, 0.05))
    rate, losses = replacement.choose_learning_rate(
        arm, setting_with(), train, train, seeds=[0]
    )
    assert rate == 0.05
    assert losses[0.05] < losses[1e-6]


def test_the_largest_gradient_is_that_of_one_example():
    split = examples(5)
    model = networks.build("small_mnistfc", width=0.2)
    expected = max(
        np.linalg.norm(gradient_of(model, *sample))
        for sample in zip(*split, strict=True)
    )
    largest = replacement.largest_gradient(model, split)
    assert largest == pytest.approx(expected, rel=1e-5)


@pytest.mark.nightly
def test_a_study_says_what_it_measured(tmp_path):
    whole = examples(60)
    whole.images[::2, 5, 5] = 0  # dark at times is not dark
    splits = data.Data(
        whole._replace(images=whole.images * (np.arange(28) > 0)[:, None]),
        examples(10),
        examples(9),
        10,
    )
    arms = {
        name: arm._replace(learning_rates=arm.learning_rates[2:3])
        for name, arm in replacement.ARMS.items()
        if name != "Entropy-SGD, mean gradient"
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacement, "ARMS", arms)
        content, changes = study.run(
            splits,
            setting_with(),
            num_samples=40,
            num_seeds=2,
            num_replacements=2,
            seed=0,
        )
    # Two passes of 4 mini-batches: 8 gradients, in groups of 5 or one by one.
    rows = content["optimizers"]
    assert rows["SGD"]["num_updates"] == 8
    assert rows["Entropy-SGD"]["num_updates"] == 2
    constants = content["equation_10"]
    assert constants["pixels_always_black"] == 28
    assert constants["ratio_exact_if_the_gap_were_0"] == 1
    assert constants["ratio_exact_if_the_gap_were_0.03"] < 1
    assert rows["SGD"]["loss_change_over_sgd"] == [1, 1, 1]
    level, *_ = rows["SGD"]["loss_change_at_train_loss"]
    for name, change in changes.items():
        assert change.losses.shape == (2, 2, 2)
        assert rows[name]["weight_change"] == pytest.approx(
            [
                change.weights[..., -1].mean(),
                change.weights[..., -1].std(ddof=1),
            ],
            abs=1e-5,
        )
        ratios = change.losses[..., -1] / changes["SGD"].losses[..., -1]
        ratio, low, high = rows[name]["loss_change_over_sgd"]
        assert ratio == pytest.approx(np.exp(np.log(ratios).mean()), abs=1e-4)
        assert low <= ratio <= high
        assert all(run.train_loss.min() <= level + 1e-4 for run in change.base)
    study.write(tmp_path, content, changes, batches=4)
    assert (tmp_path / "stability.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "stability.json").read_text())
    assert written["optimizers"] == rows
    assert written["versions"]["keras"] == keras.__version__


def test_a_ratio_has_the_error_of_the_means_over_seeds():
    # Two seeds, two replacements; means of the logarithms 1 and 3.
    ours = np.exp([[[9.0, 0.0], [9.0, 3.0]], [[9.0, 2.0], [9.0, 3.0]]])
    ratio = study.ratio(ours, np.ones_like(ours))
    # Their deviation is sqrt(2), over the root of two.
    np.testing.assert_allclose(ratio, np.exp([2.0, 0.0, 4.0]), atol=1e-4)
