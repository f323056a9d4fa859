"""The Fisher information: from each sample, and as Adam's moments give it."""

import itertools
import re
import warnings

import keras
import numpy as np
import pytest
import quadratic
import tensorflow as tf

from entropy_keras import landscape
from entropy_keras.landscape import fisher

SPARSE = "sparse_categorical_crossentropy"


def loop(model, data, loss):
    """Returns the mean of squared gradients, one sample after another."""
    total = 0.0
    for sample in tf.data.Dataset.from_tensor_slices(data).batch(1):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(sample[1], model(sample[0])))
        gradients = tape.gradient(value, model.trainable_variables)
        total += np.concatenate([np.ravel(g) for g in gradients]) ** 2
    return total / len(data[0])


def crossentropy(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    )


def softmax_regression(activation="softmax"):
    rng = np.random.default_rng(0)
    model = quadratic.dense([4], (3, activation))
    inputs, labels = rng.normal(size=[10, 4]), rng.integers(0, 3, 10)
    kernel, bias = model.get_weights()
    scores = np.exp(inputs @ kernel + bias)
    probabilities = scores / scores.sum(1, keepdims=True)
    extended = np.hstack([inputs, np.ones([10, 1])])
    return model, inputs, labels, probabilities, extended


@pytest.mark.parametrize("batch_size", [1000, 4])
def test_empirical_of_softmax_regression(batch_size):
    model, inputs, labels, probabilities, extended = softmax_regression()
    errors = probabilities - np.eye(3)[labels]
    expected = np.einsum("ni,nj->ij", extended**2, errors**2) / 10
    found = landscape.fisher_diagonal(
        model, (inputs, labels), SPARSE, batch_size=batch_size
    )
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-6)
    assert found.dtype == "float64"


@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("form", ["flat", "column", "one_hot"])
def test_true_of_softmax_regression(form, activation):
    model, inputs, labels, probabilities, extended = softmax_regression(
        activation
    )
    variances = probabilities * (1.0 - probabilities)
    expected = np.einsum("ni,nj->ij", extended**2, variances) / 10
    labels = {
        "flat": labels,
        "column": labels[:, np.newaxis],
        "one_hot": np.eye(3)[labels],
    }[form]
    make = (
        keras.losses.CategoricalCrossentropy
        if form == "one_hot"
        else keras.losses.SparseCategoricalCrossentropy
    )
    found = landscape.fisher_diagonal(
        model,
        (inputs, labels),
        make(from_logits=activation is None, dtype="float64"),
        kind="true",
        batch_size=4,
    )
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-6)
    # Whatever labels the data have.
    again = landscape.fisher_diagonal(
        model,
        (inputs, labels[::-1].copy()),
        make(from_logits=activation is None, dtype="float64"),
        kind="true",
    )
    np.testing.assert_allclose(again, found, rtol=1e-12)


@pytest.mark.parametrize("column", [False, True])
def test_true_of_logistic_regression(column):
    rng = np.random.default_rng(0)
    model = quadratic.dense([4], (1, "sigmoid"))
    inputs, labels = rng.normal(size=[10, 4]), rng.integers(0, 2, [10, 1])
    kernel, bias = model.get_weights()
    p = 1.0 / (1.0 + np.exp(-(inputs @ kernel + bias)))
    extended = np.hstack([inputs, np.ones([10, 1])])
    expected = np.mean(extended**2 * p * (1.0 - p), axis=0)
    found = landscape.fisher_diagonal(
        model,
        (inputs, labels if column else labels[:, 0]),
        keras.losses.BinaryCrossentropy(dtype="float64"),
        kind="true",
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def convolutional():
    return keras.Sequential([
        keras.Input([6, 6, 1]),
        keras.layers.Conv2D(2, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Flatten(),
        keras.layers.Dense(3),
    ])


def recurrent():
    return keras.Sequential([
        keras.Input([4, 2]),
        keras.layers.LSTM(3),
        keras.layers.Dense(3),
    ])


@pytest.mark.parametrize(
    ("build", "room"),
    [
        (convolutional, None),
        (convolutional, 300),
        pytest.param(recurrent, 300, marks=pytest.mark.nightly),
    ],
)
def test_equals_a_loop_over_samples(build, room, monkeypatch):
    if room:  # Three samples or so at a time.
        monkeypatch.setattr(fisher, "_ROOM", room)
    model = build()
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=[7, *model.input_shape[1:]]).astype("float32")
    labels = rng.integers(0, 3, 7)
    expected = loop(model, (inputs, labels), crossentropy)
    before = [np.copy(v) for v in model.variables]
    data = inputs, labels
    if room is None:
        data = tf.data.Dataset.from_tensor_slices(data).batch(4)
    found = landscape.fisher_diagonal(model, data, crossentropy)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_true_is_the_diagonal_of_gauss_newton():
    model = quadratic.dense([3], (4, "tanh"), (3, None))
    rng = np.random.default_rng(0)
    data = rng.normal(size=[9, 3]), rng.integers(0, 3, 9)
    operator = landscape.gauss_newton_operator(model, data, crossentropy)
    np.testing.assert_allclose(
        landscape.fisher_diagonal(model, data, crossentropy, kind="true"),
        np.diag(operator @ np.eye(operator.shape[0])),
        rtol=1e-9,
    )


@pytest.mark.parametrize("kind", fisher.KINDS)
def test_regularization_is_left_out(kind):
    rng = np.random.default_rng(0)
    data = rng.normal(size=[5, 3]), rng.integers(0, 3, 5)
    found = []
    for regularizer in (None, "l2"):
        model = keras.Sequential([
            keras.Input([3], dtype="float64"),
            keras.layers.Dense(
                3, kernel_regularizer=regularizer, dtype="float64"
            ),
        ])
        model.set_weights([rng.normal(size=[3, 3]), np.zeros(3)])
        rng = np.random.default_rng(1)
        model.set_weights([rng.normal(size=[3, 3]), np.zeros(3)])
        found.append(
            landscape.fisher_diagonal(model, data, crossentropy, kind=kind)
        )
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "data", "loss", "message"),
    [
        ("sampled", (np.eye(4), np.zeros(4, int)), SPARSE, "`kind` must be"),
        (
            "empirical",
            (np.eye(4), np.zeros(4, int), np.ones(4)),
            SPARSE,
            "`data` must be `(x, y)` without sample weights",
        ),
        (
            "true",
            (np.eye(4), np.zeros([4, 2], int)),
            "mse",
            "`data` must be of one label per sample",
        ),
        (
            "true",
            (np.eye(4), np.eye(4)[:, :3]),
            "mse",
            "`loss` must be minus the logarithm of a probability",
        ),
        (
            "true",
            (np.eye(4), np.eye(4)[:, :3]),
            keras.losses.CategoricalCrossentropy(label_smoothing=0.5),
            "`loss` must be minus the logarithm of a probability",
        ),
    ],
)
def test_bad_arguments_are_refused(kind, data, loss, message):
    model = quadratic.dense([4], (3, "softmax"))
    if loss == "mse" and data[1].shape == (4, 2):
        loss = lambda y, p: tf.reduce_sum(p, -1)  # noqa: E731
    with pytest.raises(ValueError, match=re.escape(message)):
        landscape.fisher_diagonal(model, data, loss, kind=kind)


@pytest.mark.parametrize("kind", ["empirical", "true"])
def test_an_objective_gives_the_same_and_is_compiled_once(kind):
    model = quadratic.dense([4], (3, "softmax"))
    data = np.eye(4), np.array([0, 1, 2, 0])
    traces = []

    def counted(labels, predictions):
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(labels, predictions)

    objective = landscape.Objective(model, data, counted)
    found = landscape.fisher_diagonal(objective, kind=kind)
    expected = landscape.fisher_diagonal(
        model, data, "sparse_categorical_crossentropy", kind=kind
    )
    np.testing.assert_array_equal(found, expected)
    # `every_label` looks at the outputs, and does not compile that.
    eager = 1 if kind == "true" else 0
    count = len(traces)
    model.set_weights([0.5 * weight for weight in model.get_weights()])
    other = landscape.fisher_diagonal(objective, kind=kind)
    assert len(traces) == count + eager
    expected = landscape.fisher_diagonal(
        model, data, "sparse_categorical_crossentropy", kind=kind
    )
    np.testing.assert_array_equal(other, expected)
    assert np.abs(other - found).max() > 1e-3


def test_samples_are_not_looked_at_in_training():
    model = quadratic.dense([4], (3, "softmax"))
    objective = landscape.Objective(
        model, (np.eye(4), np.eye(4)[:, :3]), "mse", training=True
    )
    with pytest.raises(ValueError, match="`training` must be False"):
        landscape.fisher_diagonal(objective)


def adam_after_all_sequences(outcomes, updates, **options):
    """Returns Adam with one weight for each sequence of gradients.

    The mean over its weights is an expectation, with no randomness left.
    """
    sequences = np.array(list(itertools.product(outcomes, repeat=updates)))
    adam = keras.optimizers.Adam(**options)
    weight = keras.Variable(np.zeros(len(sequences)), dtype="float64")
    for gradients in sequences.T:
        adam.apply([gradients], [weight])
    return adam


PAIR_SUMS = np.add.outer([0.0, 3.0], [0.0, 3.0]).ravel()


@pytest.mark.parametrize("beta_2", [0.9, 0.999])
@pytest.mark.parametrize("updates", [2, 6])
def test_expectation_of_adams_moments(updates, beta_2):
    """Batches of two samples whose gradients are 0 or 3."""
    adam = adam_after_all_sequences(
        PAIR_SUMS / 2.0, updates, beta_1=0.9, beta_2=beta_2
    )
    if beta_2 == 0.9:
        found = landscape.fisher_from_adam(adam, batch_size=2)
        assert found.min() > -1e-6
    else:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            found = landscape.fisher_from_adam(adam, batch_size=2)
    # The variance of one sample is 9/4. Adam computes in float32.
    assert found.mean() == pytest.approx(9.0 / 4.0, rel=1e-4)


def test_expectation_for_batches_without_repetition():
    """Two samples of three at a time."""
    samples = np.array([0.0, 3.0, 12.0])
    batches = [np.mean(pair) for pair in itertools.combinations(samples, 2)]
    adam = adam_after_all_sequences(batches, 6, beta_1=0.9, beta_2=0.9)
    found = landscape.fisher_from_adam(adam, batch_size=2, num_samples=3)
    assert found.mean() == pytest.approx(samples.var(), rel=1e-4)


def test_share_of_the_variance_after_many_updates():
    # 18/19, and from 0: one gradient has no variance.
    assert fisher.variance_share(0.9, 1000) == pytest.approx(18 / 19)
    assert fisher.variance_share(0.5, 1000) == pytest.approx(2 / 3)
    assert fisher.variance_share(0.9, 1) == pytest.approx(0.0, abs=1e-12)


def test_unequal_windows_make_negative_entries_and_a_warning():
    for beta_2 in (0.9, 0.999):
        adam = keras.optimizers.Adam(beta_1=0.9, beta_2=beta_2)
        weight = keras.Variable([0.0, 0.0])
        for update in range(60):
            gradient = np.array([update >= 30, (-1.0) ** update])
            adam.apply([gradient], [weight])
        if beta_2 == 0.9:
            assert landscape.fisher_from_adam(adam, 1).min() >= 0.0
        else:
            with pytest.warns(UserWarning, match=r"50\.00% of the entries"):
                assert landscape.fisher_from_adam(adam, 1)[0] < 0.0


def test_adam_of_a_training_run_near_a_minimum():
    """Small steps around a solution: the empirical Fisher information."""
    regression = quadratic.Regression(at_minimum=True)
    model = regression.model
    model.compile(
        keras.optimizers.AdamW(1e-7, beta_1=0.99, beta_2=0.99), loss="mse"
    )
    exact = landscape.fisher_diagonal(model, regression.data)
    data = tf.data.Dataset.from_tensor_slices(regression.data)
    data = data.repeat().shuffle(200, seed=0).batch(2)
    model.fit(data, steps_per_epoch=1500, shuffle=False, verbose=0)
    found = landscape.fisher_from_adam(model.optimizer, batch_size=2)
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, rtol=0.6)
    assert found.sum() == pytest.approx(exact.sum(), rel=0.25)


def used(optimizer, updates=3):
    weight = keras.Variable([1.0])
    for _ in range(updates):
        optimizer.apply([np.ones(1)], [weight])
    return optimizer


ADAM = keras.optimizers.Adam


@pytest.mark.parametrize(
    ("optimizer", "numbers", "message"),
    [
        (used(keras.optimizers.SGD()), (1,), "`optimizer` must be `keras"),
        (used(ADAM(clipnorm=1.0)), (1,), "`optimizer` .* without clipping"),
        (used(ADAM(), 1), (1,), "`optimizer` must be used for two updates"),
        (used(ADAM(beta_1=0.0)), (1,), "`beta_1` must be positive"),
        (used(ADAM()), (0,), "`batch_size` must be a positive integer"),
        (used(ADAM()), (8, 8), "`num_samples` must be None or an integer"),
        (None, (1,), "`optimizer` must be `keras"),
    ],
)
def test_what_adam_must_be(optimizer, numbers, message):
    with pytest.raises(ValueError, match=message):
        landscape.fisher_from_adam(optimizer, *numbers)
