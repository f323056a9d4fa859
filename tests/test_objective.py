"""The loss as a pure function, and its products: closed forms, any model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import landscape

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, dtype="float64"
)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64")


@pytest.fixture(autouse=True)
def _double_precision():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def sequential(shape, *layers):
    """Returns a model with random biases, too."""
    model = keras.Sequential([keras.Input(shape), *layers])
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0.0, 0.5, variable.shape))
    return model


def samples(shape, classes=3, count=10):
    rng = np.random.default_rng(1)
    return rng.normal(size=[count, *shape]), rng.integers(0, classes, count)


def dense_matrix(operator):
    return operator @ np.eye(operator.shape[0])


def difference_product(objective, vector, step=1e-5):
    """Returns the derivative of the gradient along a vector."""
    position = objective.position()
    ahead = objective.gradient(position + step * vector)
    behind = objective.gradient(position - step * vector)
    return ((ahead - behind) / (2.0 * step)).numpy()


def assert_product_is_right(model, data, loss, **options):
    """Compares the Hessian's product with differences of the gradient."""
    objective = landscape.Objective(model, data, loss, **options)
    vector = np.random.default_rng(3).normal(size=objective.num_parameters)
    expected = difference_product(objective, vector)
    actual = landscape.hessian_vector_product(
        model, data, vector, loss, **options
    )
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(
        actual, expected, atol=1e-7 * np.abs(expected).max()
    )


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


def regression(name):
    """Returns data, loss, and what each sample adds to kron(xx', .)."""
    inputs, labels = samples([4])
    extended = np.hstack([inputs, np.ones([10, 1])])
    if name == "linear":
        targets = np.random.default_rng(4).normal(size=[10, 3])
        curvature = np.broadcast_to(np.eye(3) * 2 / 3, [10, 3, 3])
        return extended, (inputs, targets), "mse", lambda _: curvature
    if name == "logistic":

        def of_logistic(logits):
            p = 1 / (1 + np.exp(-logits))
            return (p * (1 - p))[:, :, np.newaxis]

        return extended, (inputs, labels[:, None] % 2), BINARY, of_logistic

    def of_softmax(logits):
        p = softmax(logits)
        return np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum(
            "ni,nj->nij", p, p
        )

    return extended, (inputs, labels), CROSSENTROPY, of_softmax


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["linear", "logistic", "softmax"])
def test_hessian_of_regression(name, weighted):
    extended, data, loss, curvature = regression(name)
    model = sequential([4], keras.layers.Dense(1 if name == "logistic" else 3))
    weights = np.ones(10)
    if weighted:
        weights = np.arange(10.0)
        data = (*data, weights)
    logits = model.predict_on_batch(data[0])
    expected = sum(
        weight * np.kron(np.outer(x, x), block) / 10
        for weight, x, block in zip(
            weights, extended, curvature(logits), strict=True
        )
    )
    for make in (landscape.hessian_operator, landscape.gauss_newton_operator):
        # 4 leaves a ragged last batch.
        actual = dense_matrix(make(model, data, loss, batch_size=4))
        np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_of_linear_regression(weighted):
    extended, (inputs, targets), loss, _ = regression("linear")
    model = sequential([4], keras.layers.Dense(3))
    weights = np.arange(10.0) if weighted else np.ones(10)
    data = (inputs, targets, weights) if weighted else (inputs, targets)
    objective = landscape.Objective(model, data, loss, batch_size=3)
    position = objective.position()
    residuals = extended @ position.numpy().reshape(5, 3) - targets
    value = (weights @ residuals**2).sum() / 30
    gradient = 2 / 30 * extended.T @ (weights[:, None] * residuals)
    actual = float(objective.value(position))
    assert actual == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(
        objective.gradient(position), gradient.ravel(), rtol=1e-11
    )


def tanh_network():
    return sequential([4], keras.layers.Dense(5, "tanh"), keras.layers.Dense(3))


NETWORKS = {
    "tanh": lambda: (tanh_network(), samples([4])),
    "max_pooling": lambda: (
        sequential(
            [6, 6, 1],
            keras.layers.Conv2D(2, 3, activation="softplus"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ),
        samples([6, 6, 1]),
    ),
    "lstm": lambda: (
        sequential([4, 2], keras.layers.LSTM(3), keras.layers.Dense(3)),
        samples([4, 2]),
    ),
    "embedding": lambda: (
        sequential(
            [4],
            keras.layers.Embedding(6, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "tanh"),
        ),
        (samples([4], 6)[1].reshape(5, 2).repeat(2, 1), samples([4])[1][:5]),
    ),
    "group_normalization": lambda: (
        sequential(
            [4],
            keras.layers.Dense(4),
            keras.layers.GroupNormalization(2),
            keras.layers.Dense(3, "tanh"),
        ),
        samples([4]),
    ),
    "layer_normalization": lambda: (
        sequential(
            [4],
            keras.layers.Dense(4),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(3, "tanh"),
        ),
        samples([4]),
    ),
    "batch_normalization": lambda: (
        sequential(
            [4],
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, "tanh"),
        ),
        samples([4]),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_product_equals_differences_of_the_gradient(name):
    model, data = NETWORKS[name]()
    assert_product_is_right(model, data, CROSSENTROPY, batch_size=4)


def test_never_compiled_with_xla():
    # XLA has no second derivative of max pooling in float64, and a wrong one
    # in float32.
    model, data = NETWORKS["max_pooling"]()
    model.compile(loss=CROSSENTROPY, jit_compile=True)
    assert_product_is_right(model, data, loss=None)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gauss_newton_of_a_network(activation):
    inputs, labels = samples([4])
    model = sequential(
        [4], keras.layers.Dense(5, activation), keras.layers.Dense(3)
    )
    actual = dense_matrix(
        landscape.gauss_newton_operator(
            model, (inputs, labels), CROSSENTROPY, batch_size=4
        )
    )
    with tf.GradientTape() as tape:
        logits = model(inputs)
    jacobians = tape.jacobian(logits, model.trainable_variables)
    jacobian = np.concatenate(
        [np.reshape(part, [10, 3, -1]) for part in jacobians], axis=2
    )
    curvature = regression("softmax")[3](logits.numpy())
    expected = np.einsum(
        "nap,nab,nbq->pq", jacobian, curvature, jacobian, optimize=True
    )
    np.testing.assert_allclose(actual, expected / 10, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(actual)
    assert eigenvalues[0] > -1e-14
    assert eigenvalues[-1] > 0.1


def regularized_network():
    l2 = keras.regularizers.L2(0.3)
    layer = keras.layers.Dense(3, kernel_regularizer=l2)
    return sequential([4], layer), layer


@pytest.mark.parametrize("compiled", [False, True])
def test_regularization_counts_once_whatever_the_batches(compiled):
    inputs, targets = samples([4])[0], np.zeros([10, 3])
    model, layer = regularized_network()
    loss = "mse"
    if compiled:
        model.compile(
            loss=keras.losses.MeanSquaredError(dtype="float64"), metrics=["mae"]
        )
        loss = None
    extended = np.hstack([inputs, np.ones([10, 1])])
    # L2(0.3) adds 0.3 times the square of the kernel, not of the bias.
    penalty = np.diag([0.6] * 12 + [0.0] * 3)
    expected = np.kron(extended.T @ extended / 10, np.eye(3) * 2 / 3) + penalty
    for make in (landscape.hessian_operator, landscape.gauss_newton_operator):
        operator = make(model, (inputs, targets), loss, batch_size=4)
        np.testing.assert_allclose(dense_matrix(operator), expected, atol=1e-12)
    objective = landscape.Objective(model, (inputs, targets), loss)
    fit = np.mean(model.predict_on_batch(inputs) ** 2)
    actual = float(objective.value(objective.position()))
    assert actual == pytest.approx(
        fit + 0.3 * np.sum(layer.kernel.numpy() ** 2)
    )


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_result_does_not_depend_on_the_batches(kind):
    model, (inputs, labels) = NETWORKS["tanh"]()
    weights = np.linspace(0.0, 2.0, 10)
    vector = np.random.default_rng(0).normal(size=43)
    results = []
    for batch_size in (1000, 10, 7, 1):
        data, options = (inputs, labels, weights), {"batch_size": batch_size}
        if kind == "dataset":
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
            options = {}
        objective = landscape.Objective(model, data, CROSSENTROPY, **options)
        assert objective.num_samples == 10
        assert len(objective.batches) == -(-10 // batch_size)
        position = objective.position()
        products = [
            make(model, data, CROSSENTROPY, **options) @ vector
            for make in (
                landscape.hessian_operator,
                landscape.gauss_newton_operator,
            )
        ]
        results.append(
            np.concatenate([
                [objective.value(position)],
                objective.gradient(position),
                *products,
            ])
        )
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-12)


def two_outputs():
    inputs = keras.Input([4], name="points")
    hidden = keras.layers.Dense(3, "tanh")(inputs)
    outputs = {
        "number": keras.layers.Dense(1, name="number")(hidden),
        "kind": keras.layers.Dense(3, name="kind")(hidden),
    }
    model = keras.Model({"points": inputs}, outputs)
    model.compile(
        "adam",
        loss={
            "number": keras.losses.MeanSquaredError(dtype="float64"),
            "kind": CROSSENTROPY,
        },
        loss_weights={"number": 0.5, "kind": 2.0},
        metrics={"kind": ["accuracy"]},
    )
    points, kinds = samples([4])
    data = {"points": points}, {"number": points[:, :1], "kind": kinds}
    return model, data


def test_two_outputs_before_and_after_the_model_is_used():
    """The compiled loss is not left half built by the first look at it."""
    model, (inputs, targets) = two_outputs()
    objective = landscape.Objective(model, (inputs, targets), batch_size=4)
    value = float(objective.value(objective.position()))
    outputs = model.predict_on_batch(inputs)
    number = np.mean((outputs["number"] - targets["number"]) ** 2)
    logs = np.log(softmax(outputs["kind"]))
    kind = -logs[np.arange(10), targets["kind"]].mean()
    assert value == pytest.approx(0.5 * number + 2.0 * kind, rel=1e-10)
    assert_product_is_right(model, (inputs, targets), loss=None)
    operator = landscape.gauss_newton_operator(model, (inputs, targets))
    assert np.linalg.eigvalsh(dense_matrix(operator))[0] > -1e-14

    results = model.evaluate(inputs, targets, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(value, rel=1e-6)
    assert set(results) == {
        "loss", "number_loss", "kind_loss", "kind_accuracy",
    }  # fmt: skip
    assert results["number_loss"] == pytest.approx(number, rel=1e-6)
    losses = model.fit(inputs, targets, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    objective = landscape.Objective(model, (inputs, targets))
    assert objective.value(objective.position()) < value


def test_frozen_layers_are_left_out():
    model, data = tanh_network(), samples([4])
    whole = dense_matrix(landscape.hessian_operator(model, data, CROSSENTROPY))
    model.layers[0].trainable = False
    part = landscape.hessian_operator(model, data, CROSSENTROPY)
    np.testing.assert_allclose(dense_matrix(part), whole[25:, 25:], atol=1e-14)


def noisy_network():
    return sequential(
        [4],
        keras.layers.Dense(6, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5, seed=1),
        keras.layers.Dense(3),
    )


def test_inference_is_the_default():
    model, (inputs, labels) = noisy_network(), samples([4])
    model.layers[1].moving_mean.assign(np.full(6, 0.3))
    objective = landscape.Objective(model, (inputs, labels), CROSSENTROPY)
    expected = CROSSENTROPY(labels, model(inputs, training=False))
    actual = float(objective.value(objective.position()))
    assert actual == pytest.approx(float(expected), rel=1e-12)


def test_normalization_is_differentiated_twice():
    # TensorFlow's own moments lose a term of the second derivative.
    model = sequential(
        [4],
        keras.layers.Dense(6, "tanh"),
        keras.layers.LayerNormalization(),
        keras.layers.Dense(3),
    )
    assert_product_is_right(model, samples([4]), CROSSENTROPY)


def test_batch_statistics_in_training():
    model, (inputs, labels) = NETWORKS["batch_normalization"]()
    dense, normalization, output = model.layers
    objective = landscape.Objective(
        model, (inputs, labels), CROSSENTROPY, training=True
    )
    before = dense(inputs).numpy()
    scaled = (before - before.mean(0)) / np.sqrt(
        before.var(0) + normalization.epsilon
    )
    scaled = scaled * normalization.gamma.numpy() + normalization.beta.numpy()
    expected = CROSSENTROPY(labels, output(scaled))
    actual = float(objective.value(objective.position()))
    assert actual == pytest.approx(float(expected), rel=1e-10)
    assert_product_is_right(
        model, (inputs, labels), CROSSENTROPY, training=True
    )


def test_dropout_drops_the_same_units_each_time():
    model, data = noisy_network(), samples([4])
    objective = landscape.Objective(model, data, CROSSENTROPY, training=True)
    position = objective.position()
    values = {float(objective.value(position)) for _ in range(3)}
    assert len(values) == 1
    inference = landscape.Objective(model, data, CROSSENTROPY)
    assert float(inference.value(position)) not in values
    # Otherwise differences would see another loss on either side.
    assert_product_is_right(model, data, CROSSENTROPY, training=True)


@pytest.mark.parametrize("training", [False, True])
def test_model_is_left_as_it_was(training):
    model, data = noisy_network(), samples([4])
    model.compile("adam", loss=CROSSENTROPY, metrics=["accuracy"])
    model.fit(*data, verbose=0)
    variables = [
        *model.variables,
        *model.metrics_variables,
        *model.optimizer.variables,
        *(v for layer in model.layers for v in layer.non_trainable_variables),
    ]
    before = [variable.numpy().copy() for variable in variables]
    objective = landscape.Objective(model, data, training=training)
    moved = objective.position() + 1.0
    objective.value(moved)
    objective.gradient(moved)
    vector = np.ones(objective.num_parameters)
    for product in (
        landscape.hessian_vector_product,
        landscape.gauss_newton_vector_product,
    ):
        product(model, data, vector, training=training)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, variable.path)
    assert not any(tf.is_tensor(loss) for loss in model.losses)


def test_single_precision():
    keras.config.set_dtype_policy("float32")
    model, data = tanh_network(), samples([4])
    objective = landscape.Objective(
        model, data, "sparse_categorical_crossentropy"
    )
    assert objective.dtype == "float32"


def test_position_is_split_and_joined():
    model = tanh_network()
    objective = landscape.Objective(model, samples([4]), CROSSENTROPY)
    position = objective.position()
    parts = objective.split(position)
    for part, variable in zip(parts, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(part, variable.numpy())
    np.testing.assert_array_equal(objective.join(parts), position)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])


def frozen():
    model = tanh_network()
    model.trainable = False
    return model


INPUTS, LABELS = samples([4])
DATASET = tf.data.Dataset.from_tensor_slices((INPUTS, LABELS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": unbuilt}, "`model` must be a built Keras model; call it"),
        ({"model": lambda: len}, "`model` must be a built Keras model"),
        ({"model": frozen}, "`model` must be a model with trainable weights"),
        ({"loss": None}, "`loss` must be given, or the model compiled"),
        *(
            (
                {"loss": keras.losses.MeanSquaredError(reduction=reduction)},
                "`loss` must be a mean over samples",
            )
            for reduction in ("sum", None, "mean_with_sample_weight")
        ),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"batch_size": 2.0}, "`batch_size` must be a positive integer"),
        ({"data": [INPUTS, LABELS]}, "`data` must be arrays .*data=list"),
        ({"data": (INPUTS, LABELS[:5])}, r"one and .*lengths \[5, 10\]"),
        ({"data": (INPUTS[:0], LABELS[:0])}, r"positive .*lengths \[0\]"),
        ({"data": (np.float64(1.0), np.float64(2.0))}, r"lengths \[0\]"),
        ({"data": DATASET}, "`data` must be arrays .* `batch` it"),
        (
            {
                "data": (
                    tf.RaggedTensor.from_row_lengths(INPUTS, [4, 6]),
                    [0, 1],
                )
            },
            "`data` must be dense arrays: use `to_tensor` of ragged ones",
        ),
        (
            {"data": (tf.sparse.from_dense(INPUTS), LABELS)},
            "`data` must be dense arrays: .* `tf.sparse.to_dense` of sparse",
        ),
        (
            {"loss": {"one": "mse", "other": "mse"}},
            "`loss` must be one loss: compile the model with the losses of sev",
        ),
        (
            {"loss": ["mse", "mse"]},
            "`loss` must be one loss: compile the model",
        ),
        ({"data": DATASET.take(0).batch(2)}, "`data` must be not empty"),
        ({"data": DATASET.repeat().batch(2)}, "`data` must be .*`take` a part"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    arguments = {
        "model": tanh_network,
        "data": (INPUTS, LABELS),
        "loss": CROSSENTROPY,
    } | arguments
    model = arguments.pop("model")()
    with pytest.raises(ValueError, match=message):
        landscape.Objective(model, **arguments)


def test_compiled_sum_over_samples_is_refused():
    model = tanh_network()
    model.compile(loss=[keras.losses.MeanSquaredError(reduction="sum")])
    with pytest.raises(ValueError, match="`loss` must be a mean over samples"):
        landscape.Objective(model, (INPUTS, LABELS))


@pytest.mark.parametrize("length", [42, 44])
def test_vector_of_another_length_is_refused(length):
    for product in (
        landscape.hessian_vector_product,
        landscape.gauss_newton_vector_product,
    ):
        with pytest.raises(
            ValueError, match=rf"of shape \(43,\).*shape \({length},\)"
        ):
            product(
                tanh_network(), (INPUTS, LABELS), np.ones(length), CROSSENTROPY
            )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["x", "y", "sample_weight"])
@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_data_that_are_not_finite_are_named(part, form, bad):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    arrays = {
        "x": np.ones([5, 2], "float32"),
        "y": np.ones([5, 1], "float32"),
        "sample_weight": np.ones([5], "float32"),
    }
    arrays[part][3] = bad
    data = tuple(arrays.values())
    if form == "dataset":
        data = tf.data.Dataset.from_tensor_slices(data).batch(2)
    with pytest.raises(ValueError, match=rf"^`data` must be fin.* in {part} "):
        landscape.trace(model, data, loss="mse")


def test_labels_may_be_absent():
    class Reconstruction(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, use_bias=False)

        def call(self, inputs):
            outputs = self.dense(inputs)
            self.add_loss(tf.reduce_mean((outputs - inputs) ** 2))
            return outputs

    model = Reconstruction()
    x = np.eye(2, dtype="float32")
    model(x)
    model.compile()
    found = [
        landscape.hessian_matrix(model, data, verbose=0)
        for data in (
            (x, None),
            (x, None, None),
            tf.data.Dataset.from_tensor_slices((x,)).batch(2),
        )
    ]
    # mean over 4 entries of (w - 1)**2: the second derivative is 2 / 4.
    for matrix in found:
        np.testing.assert_allclose(matrix, 0.5 * np.eye(4), atol=1e-6)
    plan = landscape.Plan(scope=1.0, num_steps=20)
    drawn = [
        landscape.Chains(landscape.Objective(model, data), 1).draw(plan)
        for data in ((x, None), (x,))
    ]
    assert (drawn[0] == drawn[1]).all()


def test_masked_sequences_depend_on_the_batches():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([4, 1]),
        keras.layers.Masking(),
        keras.layers.SimpleRNN(2, return_sequences=True),
        keras.layers.Dense(1),
    ])
    x = np.random.default_rng(0).normal(size=[6, 4, 1]).astype("float32")
    x[3:, 1:] = 0.0  # three whole sequences, three of one step
    y = np.ones([6, 4, 1], "float32")
    mask = (x != 0).astype("float32")
    errors = (model(x).numpy() - y) ** 2 * mask
    whole, single = (
        float(objective.value(objective.position()))
        for objective in (
            landscape.Objective(model, (x, y), "mse", batch_size=size)
            for size in (6, 1)
        )
    )
    # All steps that are not masked alike, or each sequence alike.
    np.testing.assert_allclose(whole, errors.sum() / mask.sum(), rtol=1e-5)
    by_sequence = errors.sum((1, 2)) / mask.sum((1, 2))
    np.testing.assert_allclose(single, by_sequence.mean(), rtol=1e-5)


def test_gauss_newton_sees_the_mask():
    """Linear in the weights that are trained, so that it is the Hessian."""
    model = keras.Sequential([
        keras.Input([4], dtype="int32"),
        keras.layers.Embedding(5, 2, mask_zero=True, trainable=False),
        keras.layers.Dense(1),
    ])
    x = np.array([[1, 2, 3, 4], [1, 0, 0, 0], [2, 3, 0, 0]])
    data = x, np.ones([3, 4, 1], "float32")
    curvature = landscape.gauss_newton_operator(model, data, "mse")
    hessian = landscape.hessian_operator(model, data, "mse")
    identity = np.eye(3, dtype="float32")
    np.testing.assert_allclose(
        curvature @ identity, hessian @ identity, rtol=1e-5, atol=1e-7
    )


def test_one_loss_for_several_outputs_is_refused():
    inputs = keras.Input([2])
    outputs = [keras.layers.Dense(1)(inputs) for _ in range(2)]
    model = keras.Model(inputs, outputs)
    x = np.ones([4, 2])
    with pytest.raises(ValueError, match="`loss` must be left out for a model"):
        landscape.trace(model, (x, [x[:, :1], x[:, 1:]]), "mse")


def test_a_function_of_all_samples_at_once_is_refused():
    model = sequential([2], keras.layers.Dense(1))
    data = np.ones([4, 2]), np.ones([4, 1])
    with pytest.raises(ValueError, match="a function that returns a value for"):
        landscape.trace(model, data, lambda y, p: keras.ops.sum((y - p) ** 2))


def test_a_loss_in_single_precision_is_not_called_exact():
    model = sequential([2], keras.layers.Dense(1))
    data = np.ones([4, 2]), np.ones([4, 1])
    keras.config.set_floatx("float32")  # as it is when only layers are told
    model.compile("sgd", "mse")
    assert landscape.Objective(model, data).precision == 2.0**-23
    assert landscape.Objective(model, data, "mse").precision == 2.0**-52
