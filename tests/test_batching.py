"""Batches of `fit` become groups, and groups mini-batches."""

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf

import entropy_keras
from entropy_keras import batching
from entropy_keras import joining


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        (6, 3, [[0, 1], [2, 3], [4, 5]]),
        (7, 3, [[0, 1, 2], [3, 4, 5], [6, 0, 1]]),  # ceil(7 / 3) = 3
        (2, 5, [[0], [1], [0], [1], [0]]),  # fewer samples than mini-batches
        (1, 2, [[0], [0]]),
    ],
)
def test_split_drops_nothing_and_repeats_from_the_start(size, count, expected):
    minibatch = batching.split(tf.range(size), count)
    assert [minibatch(i).numpy().tolist() for i in range(count)] == expected


def test_split_keeps_structure_and_absent_weights():
    group = ({"a": tf.range(4), "b": tf.ones([4, 2])}, (tf.range(4),), None)
    x, y, sample_weight = batching.split(group, 2)(1)
    assert x["a"].numpy().tolist() == [2, 3]
    assert x["b"].shape == [2, 2]
    assert y[0].numpy().tolist() == [2, 3]
    assert sample_weight is None


def test_split_of_ragged_tensors():
    ragged = tf.ragged.constant([[1], [2, 2], [3], [4, 4, 4]])
    minibatch = batching.split(ragged, 2)
    assert minibatch(1).to_list() == [[3], [4, 4, 4]]


@pytest.mark.parametrize(("size", "count"), [(6, 3), (7, 3), (2, 5)])
def test_split_of_sparse_tensors_is_that_of_dense_ones(size, count):
    dense = tf.reshape(tf.range(1, 2 * size + 1) % 3, [size, 2])
    of_dense = batching.split(dense, count)
    of_sparse = batching.split(tf.sparse.from_dense(dense), count)
    for index in range(count):
        actual = of_sparse(tf.constant(index))
        assert actual.shape[1:] == [2]
        expected = of_dense(index).numpy().tolist()
        assert tf.sparse.to_dense(actual).numpy().tolist() == expected


@pytest.mark.parametrize("jit_compile", [False, True])
def test_split_in_a_graph_of_unknown_size(jit_compile):
    @tf.function(
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec([None], tf.int32)],
    )
    def second(group):
        return batching.split(group, 2)(tf.constant(1))

    assert second(tf.range(6)).numpy().tolist() == [3, 4, 5]
    assert second(tf.range(5)).numpy().tolist() == [3, 4, 0]


def test_grouped_dataset_keeps_the_order_and_the_short_end():
    dataset = tf.data.Dataset.range(11).map(lambda i: (i, -i)).batch(2)
    groups = list(batching.group_dataset(dataset, 3).as_numpy_iterator())
    assert [x.tolist() for x, _ in groups] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
    ]
    assert groups[1][1].tolist() == [-6, -7, -8, -9, -10]


def test_batches_of_a_known_size_are_grouped_alike():
    dataset = tf.data.Dataset.range(11).map(lambda i: (i, {"label": -i}))
    dataset = dataset.batch(2, drop_remainder=True)
    groups = list(batching.group_dataset(dataset, 3).as_numpy_iterator())
    assert [x.tolist() for x, _ in groups] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert groups[1][1]["label"].tolist() == [-6, -7, -8, -9]


@pytest.mark.parametrize(
    "second",
    [
        lambda x: x[:2],
        lambda x: x[0],
        lambda x: tf.sparse.from_dense(x),
    ],
    ids=["another size", "no rows", "sparse"],
)
def test_sizes_that_differ_within_a_batch_do_not_count(second):
    dataset = tf.data.Dataset.range(1, 7).batch(3, drop_remainder=True)
    dataset = dataset.map(lambda x: (x, second(x)))
    assert batching._batch_size(dataset.element_spec) is None


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (tf.data.Dataset.range(10).batch(2), 2),
        (tf.data.Dataset.range(10).batch(2, drop_remainder=True), 2),
        (tf.data.Dataset.range(10).batch(2).repeat(), -1),
        (tf.data.Dataset.range(10).filter(lambda i: i > 2).batch(2), -2),
    ],
    ids=["finite", "of a known size", "infinite", "unknown"],
)
def test_grouped_dataset_keeps_its_cardinality(dataset, expected):
    grouped = batching.group_dataset(dataset, 3)
    assert int(grouped.cardinality()) == expected
    assert next(iter(grouped)).shape == [6]


class Recorder(keras.layers.Layer):
    """Records the batches that it sees, which needs eager execution."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        if tf.executing_eagerly():
            self.seen.append(inputs.numpy()[:, 0].tolist())
        return inputs * self.scale


def recording_model(**arguments):
    inputs = keras.Input([1])
    recorder = Recorder()
    model = entropy_keras.EntropyModel(inputs, recorder(inputs))
    arguments = {"learning_rate": 0.0, "num_langevin_steps": 2, **arguments}
    model.compile(
        entropy_keras.EntropySGD(**arguments), loss="mse", run_eagerly=True
    )
    recorder.seen.clear()
    return model, recorder.seen


class Batches(keras.utils.PyDataset):
    num_batches = 4

    def __getitem__(self, index):
        x = SAMPLES[2 * index : 2 * index + 2]
        return x, x


SAMPLES = np.arange(7, dtype="float32").reshape(7, 1)


class EndlessBatches(Batches):
    num_batches = None

    def __getitem__(self, index):
        return super().__getitem__(index % 4)


def batches():
    for start in range(0, 7, 2):
        yield SAMPLES[start : start + 2], SAMPLES[start : start + 2]


DATA = {
    "arrays": lambda: {"x": SAMPLES, "y": SAMPLES, "batch_size": 2},
    "tensors": lambda: {
        "x": tf.constant(SAMPLES),
        "y": tf.constant(SAMPLES),
        "batch_size": 2,
    },
    "dataset": lambda: {
        "x": tf.data.Dataset.from_tensor_slices((SAMPLES, SAMPLES)).batch(2)
    },
    "dataset of unknown size": lambda: {
        "x": tf.data.Dataset
        .from_tensor_slices((SAMPLES, SAMPLES))
        .filter(lambda x, y: True)
        .batch(2)
    },
    "py_dataset": lambda: {"x": Batches()},
    "py_dataset of two workers": lambda: {"x": Batches(workers=2)},
    "endless py_dataset": lambda: {"x": EndlessBatches(), "steps_per_epoch": 2},
    "generator": lambda: {"x": batches(), "steps_per_epoch": 2},
}


# Keras says so of any data set of unknown size.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("kind", DATA)
def test_an_epoch_is_one_pass_in_order(kind):
    model, seen = recording_model()
    model.fit(**DATA[kind](), shuffle=False, verbose=0)
    # Two updates of two mini-batches; the last group holds samples 4, 5, 6 and
    # takes the first of them again.
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 4]]
    assert int(model.optimizer.iterations) == 2


def test_the_reported_batch_is_the_extra_one_with_data_weight():
    model, seen = recording_model(data_weight=1.0, num_langevin_steps=1)
    model.fit(SAMPLES[:4], SAMPLES[:4], batch_size=2, shuffle=False, verbose=0)
    # The pass at x runs first, and on the last mini-batch.
    assert seen == [[2, 3], [0, 1]]


def test_share_batch_sees_one_batch_per_update():
    model, seen = recording_model(share_batch=True)
    model.fit(SAMPLES[:4], SAMPLES[:4], batch_size=2, shuffle=False, verbose=0)
    assert seen == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_steps_per_epoch_counts_updates():
    model, _ = recording_model()
    dataset = tf.data.Dataset.from_tensor_slices((SAMPLES, SAMPLES))
    dataset = dataset.repeat().batch(2)
    model.fit(dataset, steps_per_epoch=5, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 5


def test_validation_keeps_the_batch_size_of_a_minibatch():
    model, seen = recording_model()
    model.fit(
        SAMPLES,
        SAMPLES,
        batch_size=2,
        validation_data=(SAMPLES, SAMPLES),
        shuffle=False,
        verbose=0,
    )
    assert seen[4:] == [[0, 1], [2, 3], [4, 5], [6]]


def test_train_on_batch_takes_a_group():
    model, seen = recording_model()
    model.train_on_batch(SAMPLES[:6], SAMPLES[:6])
    assert seen == [[0, 1, 2], [3, 4, 5]]


def test_weights_of_samples_and_classes_reach_their_minibatch():
    x = np.ones([4, 1], "float32")
    labels = np.array([0, 1, 1, 0])
    weights = np.array([0.0, 3.0, 3.0, 0.0])
    arrays = {"batch_size": 2, "x": x, "y": labels}
    slices = tf.data.Dataset.from_tensor_slices
    expected = []
    for data in (
        {"sample_weight": weights, **arrays},
        {"class_weight": {0: 0.0, 1: 3.0}, **arrays},
        {"x": slices((x, labels, weights)).batch(2)},
        {
            "x": slices((x, labels)).batch(2),
            "class_weight": {0: 0.0, 1: 3.0},
        },
    ):
        model, _ = recording_model(
            learning_rate=1.0, langevin_learning_rate=0.01, temperature=0.0
        )
        model.fit(shuffle=False, verbose=0, **data)
        expected.append(float(model.get_weights()[0]))
    for weighting in (
        {"sample_weight": weights},
        {"class_weight": {0: 0.0, 1: 3.0}},
    ):
        model, _ = recording_model(
            learning_rate=1.0, langevin_learning_rate=0.01, temperature=0.0
        )
        model.train_on_batch(x, labels, **weighting)
        expected.append(float(model.get_weights()[0]))
    # All count the samples of class 1 three times: the loss in each mini-batch
    # is 3 (w - 1)**2 / 2, which the start w = 1 already minimises.
    assert expected == [1.0] * 6
    unweighted, _ = recording_model(
        learning_rate=1.0, langevin_learning_rate=0.01, temperature=0.0
    )
    unweighted.fit(x, labels, batch_size=2, shuffle=False, verbose=0)
    assert float(unweighted.get_weights()[0]) < 1.0


def test_joined_batches_keep_an_absent_part():
    batches = [((np.ones([2, 1]), None), np.ones([2]), None)] * 3
    (one, other), y = joining.Joining(batches, 3).join(batches)
    assert one.shape == (6, 1)
    assert other is None
    assert y.shape == (6,)


def test_joined_batches_of_sparse_and_ragged_tensors():
    dense = np.array([[0, 1], [2, 0]])
    batch = (
        tf.sparse.from_dense(dense),
        tf.ragged.constant([[1], [2, 2]]),
        scipy.sparse.csr_matrix(dense),
    )
    group = joining.Joining([batch, batch], 2).join([batch, batch])
    assert tf.sparse.to_dense(group[0]).numpy().tolist() == [[0, 1], [2, 0]] * 2
    assert group[1].to_list() == [[1], [2, 2]] * 2
    assert group[2].toarray().tolist() == [[0, 1], [2, 0]] * 2


def test_validation_split_trains_on_the_first_part():
    model, seen = recording_model()
    history = model.fit(
        SAMPLES[:6], SAMPLES[:6], batch_size=2, validation_split=0.3,
        shuffle=False, verbose=0,
    )  # fmt: skip
    assert seen == [[0, 1], [2, 3], [4, 5]]  # the last is the validation
    assert int(model.optimizer.iterations) == 1
    assert "val_loss" in history.history


def graph_model(model, **arguments):
    keras.utils.set_random_seed(0)
    model = entropy_keras.EntropyModel.from_model(model())
    optimizer = entropy_keras.EntropySGD(
        0.1, num_langevin_steps=2, langevin_learning_rate=0.01, seed=0
    )
    model.compile(optimizer, loss="mse", **arguments)
    return model


FEATURES = np.random.default_rng(0).normal(size=[21, 3]).astype("float32")


def dense(sparse=False):
    inputs = keras.Input([3], sparse=sparse)
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


def sparse_dense():
    return dense(sparse=True)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "endless"])
def test_steps_per_execution_changes_nothing_but_the_dispatch(kind):
    weights = []
    for steps in (1, 3):
        model = graph_model(dense, steps_per_execution=steps)
        dataset = tf.data.Dataset.from_tensor_slices((FEATURES, FEATURES[:, 0]))
        data = {
            "arrays": (FEATURES, FEATURES[:, 0], 2),
            "dataset": (dataset.batch(2),),
            "endless": (dataset.batch(2).repeat(),),
        }[kind]
        steps = 6 if kind == "endless" else None
        model.fit(
            *data, epochs=2, shuffle=False, verbose=0, steps_per_epoch=steps
        )
        # 11 mini-batches are 6 groups of 2.
        assert int(model.optimizer.iterations) == 2 * 6
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def tuples():
    class Difference(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            one, (other, _) = inputs
            return self.dense(one) - self.dense(other)

    return Difference()


def test_nested_inputs_reach_the_model_in_each_kind_of_data():
    x = (FEATURES, (FEATURES**2, FEATURES[:, 0]))
    y = FEATURES[:, :1]
    slices = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    results = []
    for data in ((x, y, 2), (slices,), (slices.as_numpy_iterator(),)):
        model = graph_model(tuples)
        steps = 6 if len(data) == 1 else None
        model.fit(*data, steps_per_epoch=steps, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_sparse_inputs_train_as_dense_ones():
    x = np.where(FEATURES > 0, FEATURES, 0.0)
    sparse = tf.sparse.from_dense(x)
    slices = tf.data.Dataset.from_tensor_slices((sparse, FEATURES[:, 0]))
    results = []
    for data in ((x, FEATURES[:, 0], 2), (sparse, FEATURES[:, 0], 2),
                 (slices.batch(2),)):  # fmt: skip
        model = graph_model(dense if data[0] is x else sparse_dense)
        model.fit(*data, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_ragged_inputs_train():
    rows = [FEATURES.ravel()[: 1 + i % 4].tolist() for i in range(20)]
    ragged = tf.ragged.constant(rows)

    class Mean(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(tf.reduce_mean(inputs, axis=1)[:, tf.newaxis])

    slices = tf.data.Dataset.from_tensor_slices((ragged, FEATURES[:20, 0]))
    results = []
    for data in ((ragged, FEATURES[:20, 0], 2), (slices.batch(2),)):
        model = graph_model(Mean)
        model.fit(*data, shuffle=False, verbose=0)
        results.append(model.get_weights())
        assert int(model.optimizer.iterations) == 5
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


class AddIfThere(keras.layers.Layer):
    def call(self, one, other=None):
        return one if other is None else one + other

    def compute_output_shape(self, one_shape, other_shape=None):
        return one_shape


def test_an_optional_input_may_be_absent():
    one = keras.Input([3], name="one")
    other = keras.Input([3], name="other", optional=True)
    outputs = keras.layers.Dense(1)(AddIfThere()(one, other))
    plain = keras.Model({"one": one, "other": other}, outputs)
    model = graph_model(lambda: plain)
    x = {"one": FEATURES, "other": None}
    model.fit(x, FEATURES[:, 0], batch_size=2, verbose=0)
    assert int(model.optimizer.iterations) == 6


def texts():
    vectorize = keras.layers.TextVectorization(
        vocabulary=["a", "b", "c"], output_sequence_length=3
    )
    inputs = keras.Input([], dtype="string")
    vectors = keras.layers.Embedding(6, 2)(vectorize(inputs))
    flat = keras.layers.Flatten()(vectors)
    return keras.Model(inputs, keras.layers.Dense(1)(flat))


def columns():
    inputs = keras.Input([2])
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


WORDS = np.array(["a b", "b", "c a", "a", "b b c"], object)
TARGETS = np.arange(5, dtype="float32")[:, np.newaxis]
FRAME = pandas.DataFrame({"a": np.arange(5.0), "b": np.arange(5) % 3})


class ArrayLike:
    """What only tells that NumPy can read it."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


def parts(*arrays):
    for start in range(0, 5, 2):
        yield tuple(
            None if array is None else tf.constant(array[start : start + 2])
            for array in arrays
        )


class PartsOf(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.parts = list(parts(*arrays))

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.parts[index]


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(2)


FLOATS = FRAME.to_numpy("float32")


# Every case is one of a kind that Keras trains on, in batches of two.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    ("build", "data"),
    [
        (texts, lambda: {"x": WORDS, "y": TARGETS, "batch_size": 2}),
        (
            texts,
            lambda: {"x": tf.constant(WORDS), "y": TARGETS, "batch_size": 2},
        ),
        (texts, lambda: {"x": slices(WORDS, TARGETS)}),
        (texts, lambda: {"x": parts(WORDS, TARGETS)}),
        (texts, lambda: {"x": PartsOf(WORDS, TARGETS)}),
        (columns, lambda: {"x": FRAME, "y": FRAME["a"], "batch_size": 2}),
        (columns, lambda: {"x": FRAME, "y": FRAME[["a"]], "batch_size": 2}),
        (
            columns,
            lambda: {
                "x": ArrayLike(FLOATS),
                "y": ArrayLike(TARGETS),
                "batch_size": 2,
            },
        ),
        (columns, lambda: {"x": FLOATS, "y": TARGETS, "steps_per_epoch": 3}),
        (
            columns,
            lambda: {
                "x": slices(FLOATS, TARGETS).map(lambda x, y: (x, y, None))
            },
        ),
        (
            columns,
            lambda: {
                "x": slices(FLOATS, TARGETS).map(lambda x, y: (x, y, None)),
                "class_weight": {1: 2.0, 4: 3.0},
            },
        ),
        (columns, lambda: {"x": parts(FLOATS, TARGETS, None)}),
        (columns, lambda: {"x": PartsOf(FLOATS, TARGETS)}),
    ],
)
def test_without_inner_steps_it_is_sgd_on_any_data(build, data):
    weights = []
    for optimizer in (
        keras.optimizers.SGD(0.01),
        entropy_keras.EntropySGD(0.01, num_langevin_steps=0, data_weight=1.0),
        entropy_keras.EntropySGD(0.01, num_langevin_steps=2),
    ):
        keras.utils.set_random_seed(0)
        model = build()
        before = model.get_weights()
        if weights:
            model = entropy_keras.EntropyModel.from_model(model)
        model.compile(optimizer, loss="mse", run_eagerly=True)
        model.fit(**data(), shuffle=False, verbose=0)
        weights.append(model.get_weights())
    # Grouped, it takes other steps, and trains.
    assert any((a != b).any() for a, b in zip(weights[2], before, strict=True))
    for sgd, entropy_sgd in zip(*weights[:2], strict=True):
        np.testing.assert_allclose(entropy_sgd, sgd, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "absent",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: (x, None),
        lambda x: (x, None, None),
    ],
)
def test_data_of_no_labels(absent):
    data = slices(SAMPLES).map(absent)
    pairs = slices(SAMPLES, SAMPLES)
    assert [
        keras.utils.unpack_x_y_sample_weight(group)[0].numpy().tolist()
        for group in batching.group_dataset(data, 2)
    ] == [x.numpy().tolist() for x, _ in batching.group_dataset(pairs, 2)]
    for kind in (
        lambda: data,
        lambda: iter([absent(SAMPLES)]),
        lambda: PartsOf(SAMPLES),
    ):
        with pytest.raises(ValueError, match="^`y` must be the labels"):
            batching.group_fit_arguments({"x": kind()}, 2, needs_labels=True)
        batching.group_fit_arguments({"x": kind()}, 2, needs_labels=False)


def test_an_element_that_is_one_tuple_of_inputs_stays_one():
    pair = slices(SAMPLES, -SAMPLES)
    grouped = batching.group_dataset(pair.map(lambda a, b: ((a, b),)), 2)
    ((a, b),) = next(iter(grouped))
    np.testing.assert_array_equal(a, -b)


@pytest.mark.parametrize("varying", [False, True])
def test_an_optional_input_may_be_absent_from_a_data_set(varying):
    data = slices(SAMPLES, SAMPLES).map(lambda x, y: ({"a": x, "b": None}, y))
    if varying:
        data = data.map(
            lambda x, y: ({**x, "a": x["a"][:, : tf.shape(y)[1]]}, y)
        )
    group = next(iter(batching.group_dataset(data, 2)))
    assert group[0]["b"] is None
    x, y = batching.split(group, 2)(1)
    assert x["b"] is None
    assert x["a"].numpy().tolist() == y.numpy().tolist() == [[2.0], [3.0]]


def test_steps_per_epoch_that_does_not_divide_the_data():
    model, seen = recording_model()
    data = slices(SAMPLES, SAMPLES)  # 4 batches, 2 groups
    model.fit(data, steps_per_epoch=1, epochs=3, shuffle=False, verbose=0)
    # An epoch takes up the data where the one before it has stopped.
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 4], [0, 1], [2, 3]]


def test_steps_per_epoch_divides_arrays_without_a_batch_size():
    model, seen = recording_model()
    model.fit(SAMPLES, SAMPLES, steps_per_epoch=2, shuffle=False, verbose=0)
    # As in Keras, 7 / 2 samples a step: 4, in two mini-batches, and 3.
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 4]]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_generator_that_ends_early_trains_on_what_there_is():
    model, seen = recording_model()
    model.fit(batches(), steps_per_epoch=5, shuffle=False, verbose=0)
    assert seen == [[0, 1], [2, 3], [4, 5], [6, 4]]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "data",
    [
        lambda: np.ones([0, 1]),
        lambda: slices(SAMPLES, SAMPLES).take(0),
        lambda: slices(SAMPLES, SAMPLES).filter(lambda x, y: False),
        lambda: iter([]),
    ],
    ids=["array", "data set", "data set of unknown size", "generator"],
)
def test_data_without_a_sample_are_refused(data):
    model, _ = recording_model()
    x = data()
    y = x if isinstance(x, np.ndarray) else None
    with pytest.raises(ValueError, match="^`x` must be a data set of at least"):
        model.fit(x, y, shuffle=False, verbose=0)


class Loader:
    """The form of the loaders of other frameworks."""

    def __len__(self):
        return 4

    def __iter__(self):
        return batches()


@pytest.mark.parametrize("x", [Loader(), ["a", "b"], [1.0, 2.0]])
def test_what_keras_would_not_slice_is_refused(x):
    model, _ = recording_model()
    with pytest.raises(ValueError, match="^`x` must be arrays, a tf.data"):
        model.fit(x, SAMPLES[:2], verbose=0)


def test_inputs_that_are_all_absent_are_refused():
    with pytest.raises(ValueError, match="^`x` must be"):
        graph_model(dense).fit(None, FEATURES, verbose=0)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_shuffled_py_dataset_makes_other_groups_in_each_epoch(shuffle):
    grouped = joining.GroupedPyDataset(PartsOf(SAMPLES), 2, shuffle=shuffle)
    epochs = set()
    for _ in range(20):
        grouped.on_epoch_begin()
        groups = [np.ravel(grouped[i][0]) for i in range(grouped.num_batches)]
        np.testing.assert_array_equal(
            np.sort(np.concatenate(groups)), np.sort(SAMPLES[:6].ravel())
        )
        epochs.add(frozenset(tuple(sorted(group)) for group in groups))
        grouped.on_epoch_end()
    assert len(epochs) == (3 if shuffle else 1)  # which of three is alone
