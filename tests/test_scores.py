"""The Fisher information as an operator, against its definition."""

import keras
import numpy as np
import pytest
import quadratic
import tensorflow as tf

from entropy_keras import landscape

RNG = np.random.default_rng(0)
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, dtype="float64"
)


def network(penalty=None):
    last = keras.layers.Dense(3, kernel_regularizer=penalty, dtype="float64")
    model = keras.Sequential([
        *quadratic.dense([3], (4, "tanh")).layers, last
    ])  # fmt: skip
    model.build([None, 3])
    rng = np.random.default_rng(0)
    last.kernel.assign(rng.normal(size=[4, 3]))
    return model, (rng.normal(size=[7, 3]), rng.integers(0, 3, 7))


def dense(operator):
    return operator @ np.eye(operator.shape[0], dtype=operator.dtype)


def by_definition(model, inputs, labels, loss, shares=None):
    """Returns the mean of outer products of single samples' gradients.

    Args:
        model: The model.
        inputs: Of each sample.
        labels: The labels that count, of shape `[samples, draws]`.
        loss: The loss.
        shares: How much each of them counts; `None` for alike.
    """
    labels = np.asarray(labels)
    if shares is None:
        shares = np.full(labels.shape[:2], 1.0 / labels.shape[1])
    total = 0.0
    for row in range(len(inputs)):
        for draw, share in enumerate(shares[row]):
            with tf.GradientTape() as tape:
                value = loss(
                    labels[row, draw][np.newaxis], model(inputs[row][None])
                )
            found = tape.gradient(value, model.trainable_variables)
            gradient = np.concatenate([np.ravel(part) for part in found])
            total = total + share * np.outer(gradient, gradient)
    return total / len(inputs)


def probabilities(model, inputs):
    logits = np.exp(model(inputs).numpy())
    return logits / logits.sum(1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1000, 3])
def test_equal_their_definitions(batch_size):
    model, (inputs, labels) = network()
    data = inputs, labels
    found = {
        kind: dense(
            landscape.fisher_operator(
                model, data, CROSSENTROPY, kind=kind, batch_size=batch_size
            )
        )
        for kind in ("empirical", "true")
    }
    every = np.tile(np.arange(3), [7, 1])
    expected = {
        "empirical": by_definition(
            model, inputs, labels[:, np.newaxis], CROSSENTROPY
        ),
        "true": by_definition(
            model, inputs, every, CROSSENTROPY, probabilities(model, inputs)
        ),
    }
    for kind, matrix in expected.items():
        np.testing.assert_allclose(found[kind], matrix, atol=1e-9)
        diagonal = landscape.fisher_diagonal(
            model, data, CROSSENTROPY, kind=kind, batch_size=batch_size
        )
        np.testing.assert_allclose(np.diag(found[kind]), diagonal, atol=1e-9)


def test_true_is_gauss_newton_and_the_mean_of_drawn_labels():
    found = []
    for penalty in (None, keras.regularizers.L2(0.1)):
        model, data = network(penalty=penalty)
        objective = landscape.Objective(model, data, CROSSENTROPY)
        true = dense(landscape.fisher_operator(objective, kind="true"))
        found.append((true, dense(landscape.gauss_newton_operator(objective))))
    (true, curvature), (with_penalty, other) = found
    np.testing.assert_allclose(true, curvature, rtol=1e-9, atol=1e-12)
    # The penalty is left out, and part of the other.
    np.testing.assert_allclose(with_penalty, true, rtol=1e-9, atol=1e-12)
    assert np.trace(other - curvature) == pytest.approx(12 * 0.2)
    draws, errors = 100_000, []
    for seed in (0, 1):
        drawn = dense(
            landscape.fisher_operator(
                objective, kind="monte_carlo", num_draws=draws, seed=seed
            )
        )
        errors.append(np.abs(drawn - true).max() / np.abs(true).max())
    assert 0.0 < max(errors) < 0.02
    assert errors[0] != errors[1]
    one = landscape.fisher_operator(objective, kind="monte_carlo")
    assert np.linalg.matrix_rank(dense(one)) <= 7


def test_columns_of_a_logistic_model():
    model = quadratic.dense([4], (1, "sigmoid"))
    inputs, labels = RNG.normal(size=[10, 4]), RNG.integers(0, 2, [10, 1])
    kernel, bias = model.get_weights()
    p = 1.0 / (1.0 + np.exp(-(inputs @ kernel + bias)))
    extended = np.hstack([inputs, np.ones([10, 1])])
    model.compile(loss=keras.losses.BinaryCrossentropy(dtype="float64"))
    true = landscape.fisher_operator(model, (inputs, labels), kind="true")
    expected = extended.T @ (p * (1.0 - p) * extended) / 10
    np.testing.assert_allclose(dense(true), expected, rtol=1e-5)


def test_two_outputs_and_sequences_have_an_empirical_one():
    inputs = keras.Input([5, 3])
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    flat = keras.layers.Flatten()(hidden)
    model = keras.Model(
        inputs, [keras.layers.Dense(2)(hidden), keras.layers.Dense(1)(flat)]
    )
    model.compile(loss=["mse", "mae"], loss_weights=[1.0, 0.5])
    shapes = [6, 5, 3], [6, 5, 2], [6, 1]
    x, *y = (RNG.normal(size=shape).astype("float32") for shape in shapes)
    gradients = []
    for row in range(6):
        part = slice(row, row + 1)
        single = x[part], [labels[part] for labels in y]
        objective = landscape.Objective(model, single)
        gradients.append(objective.gradient(objective.position()))
    gradients = np.stack(gradients)
    operator = landscape.fisher_operator(model, (x, y), batch_size=4)
    vector = RNG.normal(size=operator.shape[0]).astype("float32")
    np.testing.assert_allclose(
        operator @ vector, gradients.T @ (gradients @ vector) / 6, atol=1e-5
    )


def masked():
    model = keras.Sequential([
        keras.Input([4], dtype="int32"),
        keras.layers.Embedding(5, 2, mask_zero=True),
        keras.layers.Dense(1),
    ])
    x = np.array([[1, 2, 3, 4], [1, 0, 0, 0], [2, 3, 0, 0]])
    return model, (x, RNG.normal(size=[3, 4, 1])), "mse", {}


def normalized():
    model = keras.Sequential([
        keras.Input([2]),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1),
    ])
    data = RNG.normal(size=[3, 2]), RNG.normal(size=[3, 1])
    return model, data, "mse", {"training": True}


@pytest.mark.parametrize("make", [masked, normalized])
def test_samples_that_depend_on_each_other_are_refused(make):
    model, data, loss, options = make()
    with pytest.raises(ValueError, match="`model` must be one whose loss of a"):
        landscape.fisher_operator(model, data, loss, **options)


def test_the_diagonal_refuses_samples_that_depend_on_each_other():
    model, data, loss, _ = masked()
    with pytest.raises(ValueError, match="`model` must be one whose loss of a"):
        landscape.fisher_diagonal(model, data, loss)
    # As many steps in each: the mean of the means is the mean.
    x, y = data
    found = landscape.fisher_diagonal(
        model, (np.sort(x[:1])[[0, 0]], y[:2]), loss
    )
    assert found.shape == (13,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "sampled"}, "`kind` must be one of"),
        ({"num_draws": 0}, "`num_draws` must be a positive integer"),
        ({"seed": -1}, "`seed` must be a non-negative integer"),
        (
            {"kind": "true", "loss": "mse"},
            r"`loss` must be minus the logarithm .* `gauss_newton_operator`",
        ),
        (
            {
                "kind": "monte_carlo",
                "loss": keras.losses.CategoricalCrossentropy(
                    from_logits=True, label_smoothing=0.5
                ),
            },
            "`loss` must be minus the logarithm",
        ),
        (
            {"data": (np.eye(3), np.eye(3), np.ones(3))},
            "`data` must be `\\(x, y\\)` without sample weights",
        ),
    ],
)
def test_bad_arguments_are_refused(changed, message):
    given = {"data": (np.eye(3), np.eye(3)), "loss": "categorical_crossentropy"}
    with pytest.raises(ValueError, match=message):
        landscape.fisher_operator(network()[0], **(given | changed))
