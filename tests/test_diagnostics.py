"""The diagnostics, against a quadratic by hand."""

import keras
import numpy as np
import pytest

import entropy_keras

NAMES = {
    "displacement",
    "force_norm",
    "gradient_norm",
    "cosine",
    "noise_to_drift",
    "scope",
    "gradient_evaluations",
}


def compiled(**arguments):
    inputs = keras.Input([2])
    dense = keras.layers.Dense(1, use_bias=False)
    model = entropy_keras.EntropyModel(inputs, dense(inputs))
    dense.kernel.assign([[3.0], [4.0]])
    model.compile(
        entropy_keras.EntropySGD(diagnostics=True, **arguments), loss="mse"
    )
    return model


def logs_of(model, updates=1):
    # The two samples of each mini-batch make the loss (w1**2 + w2**2) / 2.
    x = np.tile(np.eye(2), [updates * 2, 1])
    history = model.fit(
        x, np.zeros([len(x), 1]), batch_size=2, shuffle=False, verbose=0
    )
    return {name: values[0] for name, values in history.history.items()}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_values_of_one_update(jit_compile):
    model = compiled(
        num_langevin_steps=2,
        langevin_learning_rate=0.1,
        scope=0.5,
        temperature=1e-4,
        averaging_rate=1.0,
        sampler=entropy_keras.SGLD(0.0),
        learning_rate=0.0,
    )
    model.jit_compile = jit_compile
    logs = logs_of(model)
    assert set(logs) >= NAMES
    # The gradient is w, of norm 5; two steps of size 0.1, the second of which
    # feels the pull, end at w * (0.9 - 0.1 * (0.9 + 0.5 * -0.1)) = 0.815 w.
    np.testing.assert_allclose(logs["gradient_norm"], 5.0, rtol=1e-5)
    np.testing.assert_allclose(logs["displacement"], 5 * 0.185, rtol=0.02)
    np.testing.assert_allclose(logs["force_norm"], 5 * 0.185, rtol=0.02)
    assert 0.999 < logs["cosine"] <= 1.0 + 1e-6
    # sqrt(2 * 0.1 * 1e-4 * 2 weights) over 0.1 * 5.
    expected = np.sqrt(2 * 0.1 * 1e-4 * 2) / 0.5
    np.testing.assert_allclose(logs["noise_to_drift"], expected, rtol=1e-5)
    assert logs["scope"] == 0.5
    assert logs["gradient_evaluations"] == 2


def test_scope_and_count_are_the_latest():
    model = compiled(
        num_langevin_steps=1,
        data_weight=1.0,
        scope=entropy_keras.ExponentialScope(1.0, 1.0, 100.0),
        sampler="split_sgld",
        langevin_learning_rate=0.01,
        learning_rate=0.01,
    )
    logs = logs_of(model, updates=2)
    assert logs["scope"] == 2.0
    assert logs["gradient_evaluations"] == 4
    # The count goes on, and the means start again.
    assert logs_of(model, updates=2)["gradient_evaluations"] == 8


@pytest.mark.parametrize("jit_compile", [False, True])
def test_means_are_over_the_first_update_and_every_tenth_after_it(jit_compile):
    model = compiled(
        num_langevin_steps=2,
        temperature=0.0,
        learning_rate=0.5,
        averaging_rate=1.0,
        langevin_learning_rate=1.0,
        sampler=entropy_keras.SGLD(0.0),
        scope=0.5,
    )
    model.jit_compile = jit_compile
    # A step of size 1 ends at 0 and the pull then at w / 2, so a quarter is
    # taken off: the norm of the weights, and of their gradient.
    norms = 5 * 0.75 ** np.arange(30)
    for first, last, measured in ((0, 4, [0]), (4, 15, [4, 14]), (15, 19, 15)):
        logs = logs_of(model, updates=last - first)
        np.testing.assert_allclose(
            logs["gradient_norm"], norms[measured].mean(), rtol=1e-5
        )
        assert logs["gradient_evaluations"] == 2 * last


def test_without_asking_there_are_none():
    model = compiled()
    model.compile(entropy_keras.EntropySGD(0.1), loss="mse")
    assert not NAMES & set(logs_of(model))


def test_they_change_nothing():
    weights = []
    for diagnostics in (False, True):
        model = compiled(seed=0)
        optimizer = entropy_keras.EntropySGD(
            0.1, seed=0, diagnostics=diagnostics, temperature=1e-4
        )
        model.compile(optimizer, loss="mse")
        logs_of(model, updates=10)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(*weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # The mean square of the weights is 12.5, the gradient has norm 5.
        (
            {"metric": "relative", "langevin_learning_rate": 0.01},
            (2 * 0.01 * 1e-2 * 12.5 * 2) ** 0.5 / (0.01 * 12.5 * 5),
        ),
        # Not the step size that is tied to the outer learning rate.
        (
            {
                "sampler": entropy_keras.InnerOptimizer(
                    keras.optimizers.SGD(0.02)
                )
            },
            (2 * 0.02 * 1e-2 * 2) ** 0.5 / (0.02 * 5),
        ),
    ],
)
def test_noise_is_measured_against_the_drift_of_the_step(arguments, expected):
    model = compiled(num_langevin_steps=1, temperature=1e-2, **arguments)
    assert logs_of(model)["noise_to_drift"] == pytest.approx(expected, rel=1e-4)
