"""RecalibrateBatchNorm, against statistics by hand."""

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf

import entropy_keras
from entropy_keras import callbacks

X = np.random.default_rng(0).normal(2.0, 3.0, [50, 4]).astype("float32")


def network():
    inputs = keras.Input([4])
    x = keras.layers.Dropout(0.5)(inputs)
    x = keras.layers.Dense(3)(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def recalibrated(model, data, **arguments):
    callback = callbacks.RecalibrateBatchNorm(data, **arguments)
    callback.set_model(model)
    callback.recalibrate()
    return model.get_layer("norm")


def expected_statistics(model, batches):
    dense = model.layers[2]
    hidden = [b @ dense.kernel.numpy() + dense.bias.numpy() for b in batches]
    sizes = [len(b) for b in batches]
    return (
        np.average([h.mean(0) for h in hidden], 0, sizes),
        np.average([h.var(0) for h in hidden], 0, sizes),
    )


@pytest.mark.parametrize("kind", ["array", "pair", "dataset"])
def test_statistics_are_those_of_the_batches_without_dropout(kind):
    data = {
        "array": X,
        "pair": (X, X[:, :1]),
        "dataset": tf.data.Dataset.from_tensor_slices((X, X)).batch(20),
    }[kind]
    model = network()
    norm = recalibrated(model, data, batch_size=20)
    # Batches of 20, 20 and 10, weighted by their sizes.
    mean, variance = expected_statistics(model, [X[:20], X[20:40], X[40:]])
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


def test_everything_else_is_left_alone():
    model = network()
    norm = model.get_layer("norm")
    kept = [v for v in model.variables if "moving" not in v.path]
    before = [v.numpy() for v in kept]
    recalibrated(model, X)
    for variable, value in zip(kept, before, strict=True):
        assert (variable.numpy() == value).all()
    assert norm.momentum == 0.99
    assert "call" not in vars(norm)
    # Inference uses the statistics and does not move them.
    statistics = norm.moving_mean.numpy()
    model(X)
    assert (norm.moving_mean.numpy() == statistics).all()


def test_a_frozen_layer_keeps_its_statistics():
    model = network()
    model.get_layer("norm").trainable = False
    norm = recalibrated(model, X)
    assert (norm.moving_mean.numpy() == 0).all()


def test_statistics_are_fresh_at_each_evaluation_and_at_the_end():
    model = entropy_keras.EntropyModel.from_model(network())
    model.compile(
        entropy_keras.EntropySGD(langevin_learning_rate=1e-3), loss="mse"
    )
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            seen.append(model.get_layer("norm").moving_mean.numpy())
            seen.append(expected_statistics(model, [X])[0])

    model.fit(
        X,
        X[:, :1],
        batch_size=5,
        epochs=2,
        validation_data=(X, X[:, :1]),
        callbacks=[callbacks.RecalibrateBatchNorm(X, batch_size=50), Spy()],
        verbose=0,
    )
    np.testing.assert_allclose(seen[0], seen[1], rtol=1e-4)
    np.testing.assert_allclose(seen[2], seen[3], rtol=1e-4)
    assert abs(seen[2] - seen[0]).max() > 1e-4
    np.testing.assert_allclose(
        model.get_layer("norm").moving_mean,
        expected_statistics(model, [X])[0],
        rtol=1e-4,
    )


def test_without_batch_normalization_nothing_happens():
    inputs = keras.Input([4])
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    before = model.get_weights()
    callback = callbacks.RecalibrateBatchNorm(X)
    callback.set_model(model)
    callback.recalibrate()
    assert (model.get_weights()[0] == before[0]).all()


OTHER = np.random.default_rng(1).normal(-1.0, 2.0, X.shape).astype("float32")


def network_of_two():
    inputs = [keras.Input([4], name=name) for name in "ab"]
    x = keras.layers.Add()(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, x)


class Parts(keras.utils.PyDataset):
    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def halves(pack):
    return Parts(*(pack(X[s], OTHER[s]) for s in (slice(0, 25), slice(25, 50))))


def dataset(*structure):
    return tf.data.Dataset.from_tensor_slices(structure).batch(25)


@pytest.mark.parametrize(
    "data",
    [
        [X, OTHER],
        (X, OTHER),
        {"a": X, "b": OTHER},
        ([X, OTHER], X),
        ((X, OTHER), X, X[:, 0]),
        ({"a": X, "b": OTHER}, X),
        ((X, OTHER),),
        [pandas.DataFrame(X), tf.constant(OTHER)],
        dataset((X, OTHER), X),
        dataset({"a": X, "b": OTHER}, X),
        dataset({"a": X, "b": OTHER}),
        halves(lambda a, b: ([a, b], a)),
        halves(lambda a, b: ((a, b), a, a[:, 0])),
        halves(lambda a, b: {"a": a, "b": b}),
    ],
)
def test_data_of_several_inputs(data):
    norm = recalibrated(network_of_two(), data, batch_size=25)
    np.testing.assert_allclose(norm.moving_mean, (X + OTHER).mean(0), 1e-4)


@pytest.mark.parametrize(
    ("data", "dense"),
    [
        (pandas.Series(X[:, 0]), X[:, :1]),
        (scipy.sparse.csr_matrix(np.maximum(X, 0)), np.maximum(X, 0)),
        (Parts(X[:25], X[25:]), X),
        ((X, None), X),
    ],
    ids=["series", "sparse", "arrays of a PyDataset", "no labels"],
)
def test_data_of_one_input(data, dense):
    inputs = keras.Input(dense.shape[1:], sparse=hasattr(data, "tocoo"))
    hidden = keras.layers.Dense(2)(inputs)
    outputs = keras.layers.BatchNormalization(name="norm")(hidden)
    model = keras.Model(inputs, outputs)
    norm = recalibrated(model, data, batch_size=25)
    mean = dense.mean(0) @ model.layers[1].kernel.numpy()
    np.testing.assert_allclose(norm.moving_mean, mean, 1e-4, 1e-5)


def test_padded_batches_and_texts():
    words = np.array(["a", "b c", "a b c", "c", "a a"], object)
    vectorize = keras.layers.TextVectorization(vocabulary=["a", "b", "c"])
    for data in (words, tf.data.Dataset.from_tensor_slices(words).batch(2)):
        inputs = keras.Input([], dtype="string")
        vectors = keras.layers.Embedding(6, 2)(vectorize(inputs))
        outputs = keras.layers.BatchNormalization(name="norm")(vectors)
        model = keras.Model(inputs, outputs)
        # Batches of lengths 2, 3 and 2, weighted by their 2, 2 and 1 samples.
        batches = [
            model.layers[-2](vectorize(words[i : i + 2])).numpy()
            for i in (0, 2, 4)
        ]
        means = [batch.mean((0, 1)) for batch in batches]
        assert {len(batch[0]) for batch in batches} == {2, 3}
        norm = recalibrated(model, data, batch_size=2)
        expected = np.average(means, 0, [2, 2, 1])
        np.testing.assert_allclose(norm.moving_mean, expected, 1e-4, 1e-6)


class Endless(Parts):
    num_batches = None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([X]), "`data` must be arrays, .* read more than once"),
        ((x for x in [X]), "`data` must be arrays, .* read more than once"),
        (dataset(X).repeat(), "`data` must be a data set that ends"),
        (Endless(X), "`data` must be a data set that ends"),
    ],
)
def test_data_that_cannot_be_read_to_an_end_again(data, message):
    with pytest.raises(ValueError, match=message):
        callbacks.RecalibrateBatchNorm(data)


def test_padded_data_sets():
    rows = [[1.0], [2.0, 3.0], [4.0, 0.0, 5.0]]
    data = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=tf.TensorSpec([None])
    )
    inputs = keras.Input([None, 1])
    outputs = keras.layers.BatchNormalization(name="norm")(inputs)
    data = data.padded_batch(2).map(lambda x: x[:, :, tf.newaxis])
    norm = recalibrated(keras.Model(inputs, outputs), data)
    # Means 6 / 4 of two samples and 9 / 3 of one.
    np.testing.assert_allclose(norm.moving_mean, [2.0], 1e-6)


def test_no_data_is_an_error():
    callback = callbacks.RecalibrateBatchNorm(
        tf.data.Dataset.from_tensor_slices(X[:0]).batch(5)
    )
    callback.set_model(network())
    with pytest.raises(ValueError, match="`data` must be a data set of at"):
        callback.recalibrate()


def test_a_layer_that_is_called_twice_gets_the_mean_of_its_calls():
    norm = keras.layers.BatchNormalization(name="norm")
    inputs = keras.Input([2]), keras.Input([2])
    model = keras.Model(inputs, norm(inputs[0]) + norm(inputs[1]))
    recalibrated(model, (np.zeros([8, 2]), np.full([8, 2], 10.0)))
    np.testing.assert_array_equal(norm.moving_mean, [5.0, 5.0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_checkpoints_hold_half_precision(dtype, tmp_path):
    def model():
        inputs = keras.Input([4])
        outputs = keras.layers.Dense(1, dtype=dtype)(inputs)
        model = entropy_keras.EntropyModel(inputs, outputs)
        model.compile(entropy_keras.EntropySGD(1.0, seed=0), loss="mse")
        return model

    trained, loaded = model(), model()
    checkpoint = callbacks.Checkpoint(tmp_path / "checkpoint.npz")
    x = 0.1 * X[:40]
    trained.fit(x, x[:, :1], verbose=0, callbacks=[checkpoint])
    assert checkpoint.restore(loaded) == 1
    for one, other in zip(trained.weights, loaded.weights, strict=True):
        assert one.dtype == other.dtype == dtype
        np.testing.assert_array_equal(one, other)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"PK\x03\x04 and no more")
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"whole checkpoint.*checkpoint\.npz"):
        callbacks.Checkpoint(path).restore(model)
