"""Mini-batches of different shapes, packed into one group."""

import gc

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import entropy_keras
from entropy_keras import batching
from entropy_keras import class_weights
from entropy_keras import compilation
from entropy_keras import packing

RANDOM = np.random.default_rng(0)


@pytest.fixture
def _collected():
    """Ends iterators that wait in cycles for the garbage collection.

    TensorFlow waits for up to half of the time that one has lived.
    """
    yield
    gc.collect()


def normal(*shape):
    return RANDOM.normal(size=shape).astype("float32")


def sparse(*shape):
    return tf.sparse.from_dense(np.maximum(normal(*shape), 0.0))


def ragged(*lengths):
    return tf.RaggedTensor.from_row_lengths(normal(sum(lengths), 2), lengths)


def text(*shape):
    return tf.constant(RANDOM.choice(["", "a", "bc"], shape))


# Three batches of each kind, and what a data set tells of them.
KINDS = {
    "sequences": (
        [normal(2, 3), normal(2, 5), normal(1, 0)],
        tf.TensorSpec([None, None]),
    ),
    "images": (
        [normal(2, 3, 4, 3), normal(1, 2, 2, 3), normal(3, 5, 1, 3)],
        tf.TensorSpec([None, None, None, 3]),
    ),
    "scalars": ([*np.arange(3)], tf.TensorSpec([], tf.int64)),
    "texts": (
        [text(2, 3), text(2, 1), text(1, 2)],
        tf.TensorSpec([None, None], tf.string),
    ),
    "ragged": (
        [ragged(2, 0), ragged(1, 3, 1), ragged(2)],
        tf.RaggedTensorSpec([None, None, 2], ragged_rank=1),
    ),
    "sparse": (
        [sparse(2, 3), sparse(1, 4), sparse(3, 2)],
        tf.SparseTensorSpec([None, None]),
    ),
    "structures": (
        [
            {"a": (normal(2, 3), normal(2)), "b": ragged(1, 2)},
            {"a": (normal(1, 4), normal(1)), "b": ragged(3)},
            {"a": (normal(2, 2), normal(2)), "b": ragged(0, 0)},
        ],
        {
            "a": (tf.TensorSpec([None, None]), tf.TensorSpec([None])),
            "b": tf.RaggedTensorSpec([None, None, 2], ragged_rank=1),
        },
    ),
}  # fmt: skip


def lists(batch):
    """Returns a batch as nested lists, and with it the types of its parts."""
    return [
        (type(leaf).__name__, tf.sparse.to_dense(leaf).numpy().tolist())
        if isinstance(leaf, tf.SparseTensor)
        else (leaf.to_list() if isinstance(leaf, tf.RaggedTensor)
              else tf.convert_to_tensor(leaf).numpy().tolist())
        for leaf in tf.nest.flatten(batch)
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["dataset", "batches"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_unpacked_is_what_was_packed(kind, form):
    batches, specs = KINDS[kind]
    if form == "batches":
        groups = [packing.pack_batches(batches, specs)]
    else:
        dataset = tf.data.Dataset.from_generator(
            lambda: iter(batches), output_signature=specs
        )
        groups = list(packing.pack_dataset(dataset, 3))
    (group,) = groups
    assert int(packing.num_packed(group)) == 3
    for index, batch in enumerate(batches):
        assert lists(packing.unpack(group, index)) == lists(batch)
        in_graph = tf.function(packing.unpack)(group, tf.constant(index))
        assert lists(in_graph) == lists(batch)


def test_sparse_arrays_of_scipy_are_packed_as_those_of_tensorflow():
    dense = [np.diag([1.0, 2.0]), np.array([[0.0, 3.0, 0.0]])]
    group = packing.pack_batches(
        [scipy.sparse.csr_matrix(array) for array in dense],
        tf.SparseTensorSpec([None, None]),
    )
    for index, array in enumerate(dense):
        actual = tf.sparse.to_dense(packing.unpack(group, index))
        assert actual.numpy().tolist() == array.tolist()


@pytest.mark.parametrize("kind", ["images", "sparse", "ragged"])
def test_a_graph_knows_the_shapes_that_the_data_set_tells(kind):
    batches, specs = KINDS[kind]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=specs
    )
    group = packing.pack_dataset(dataset, 2).element_spec
    shapes = []

    @tf.function(input_signature=[group])
    def trace(group):
        shapes.append(packing.unpack(group, tf.constant(0)).shape.as_list())
        return 0

    trace.get_concrete_function()
    assert shapes == [specs.shape.as_list()]


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (tf.TensorSpec([None, 2]), False),
        (tf.TensorSpec([8]), False),
        (tf.RaggedTensorSpec([None, None]), False),
        (tf.RaggedTensorSpec([None, None, None], ragged_rank=1), True),
        (tf.SparseTensorSpec([None, 9]), False),
        (tf.SparseTensorSpec([None, None]), True),
        (tf.TensorSpec([]), True),
        (tf.TensorSpec(None), True),
        ((tf.TensorSpec([4, 2]), tf.TensorSpec([None])), False),
        ((tf.TensorSpec([4, 2]), tf.TensorSpec([1])), True),
    ],
)
def test_what_cannot_be_joined_along_the_first_axis(specs, expected):
    assert packing.differ(specs) is expected


LENGTHS = [3, 5, 2, 4, 1]
SEQUENCES = [normal(2 + n % 2, n) for n in LENGTHS]
LABELS = [normal(len(x), 1) for x in SEQUENCES]


class Pairs(keras.utils.PyDataset):
    def __init__(self, pairs, **arguments):
        super().__init__(**arguments)
        self.pairs = list(pairs)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def pairs():
    return zip(SEQUENCES, LABELS, strict=True)


def dataset_of(batches):
    batches = list(batches)
    return tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=tuple(
            tf.TensorSpec([None] * part.ndim, part.dtype) for part in batches[0]
        ),
    )


FORMS = {
    "dataset": dataset_of,
    "generator": lambda batches: (batch for batch in batches),
    "py_dataset": Pairs,
    "py_dataset of two workers": lambda batches: Pairs(batches, workers=2),
}


class Recorder(keras.layers.Layer):
    """Records the batches that it sees, and returns scaled means of rows."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        if not isinstance(x, keras.KerasTensor):
            tf.py_function(lambda x: self.seen.append(x.numpy()), [x], [])
        return self.scale * tf.reduce_mean(x, 1, keepdims=True)

    def compute_output_shape(self, shape):
        return (shape[0], 1)


def recording_model(num_minibatches, **arguments):
    inputs = keras.Input([None])
    recorder = Recorder()
    model = entropy_keras.EntropyModel(inputs, recorder(inputs))
    optimizer = entropy_keras.EntropySGD(
        0.5,
        num_langevin_steps=num_minibatches,
        langevin_learning_rate=0.1,
        seed=0,
    )
    model.compile(optimizer, loss="mse", **arguments)
    return model, recorder.seen


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# Keras says so of data that do not tell their number of batches.
ends = pytest.mark.filterwarnings("ignore:Your input ran out of data")


@ends
@pytest.mark.parametrize("num_minibatches", [3, 7])
@pytest.mark.parametrize("form", FORMS)
def test_mini_batches_are_those_of_the_user_in_order(form, num_minibatches):
    model, seen = recording_model(num_minibatches)
    model.fit(FORMS[form](pairs()), shuffle=False, verbose=0)
    # The last group of 5 batches, two of three or five of seven, takes its
    # first ones again.
    again = {3: [3], 7: [0, 1]}[num_minibatches]
    assert_same(seen, [*SEQUENCES, *(SEQUENCES[index] for index in again)])
    assert int(model.optimizer.iterations) == -(-5 // num_minibatches)


@ends
@pytest.mark.parametrize(
    "batched",
    [
        lambda rows: rows.padded_batch(3),
        lambda rows: rows.bucket_by_sequence_length(
            lambda x, y: tf.shape(x)[0], [3, 5], [4, 2, 2]
        ),
        lambda rows: rows.ragged_batch(2).map(lambda x, y: (x.to_tensor(), y)),
    ],
    ids=["padded", "bucketed", "from ragged"],
)
def test_the_batches_of_tensorflow(batched):
    rows = [(normal(n), normal(1)) for n in [3, 1, 4, 2, 5, 6, 2, 3]]
    batches = batched(
        tf.data.Dataset.from_generator(
            lambda: iter(rows),
            output_signature=(tf.TensorSpec([None]), tf.TensorSpec([1])),
        )
    )
    expected = [x for x, _ in batches.as_numpy_iterator()]
    assert len({x.shape for x in expected}) > 1
    model, seen = recording_model(2)
    model.fit(batches, shuffle=False, verbose=0)
    assert_same(seen[: len(expected)], expected)


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize(
    "arguments", [{"run_eagerly": True}, {"steps_per_execution": 2}]
)
def test_an_endless_data_set_in_other_modes(arguments):
    model, seen = recording_model(3, **arguments)
    data = dataset_of(pairs()).repeat()
    model.fit(data, steps_per_epoch=4, shuffle=False, verbose=0)
    assert_same(seen, (3 * SEQUENCES)[:12])


@ends
@pytest.mark.parametrize("form", FORMS)
def test_without_inner_steps_it_is_sgd_on_the_same_batches(form):
    weights = []
    for optimizer in (
        keras.optimizers.SGD(0.1),
        entropy_keras.EntropySGD(0.1, num_langevin_steps=0, data_weight=1.0),
    ):
        keras.utils.set_random_seed(0)
        inputs = keras.Input([None, 1])
        hidden = keras.layers.GlobalAveragePooling1D()(inputs)
        model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
        if weights:
            model = entropy_keras.EntropyModel.from_model(model)
        model.compile(optimizer, loss="mse")
        data = FORMS[form]((x[..., np.newaxis], y) for x, y in pairs())
        model.fit(data, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert_same(*weights)


def trained(data, **arguments):
    model, _ = recording_model(2, run_eagerly=True)
    model.fit(data, shuffle=False, verbose=0, **arguments)
    (weight,) = model.get_weights()
    assert weight != 1.0
    return weight


@ends
def test_packed_and_concatenated_groups_train_alike():
    # Where shapes are the same, both ways apply.
    data = dataset_of((normal(3, 2), normal(3, 1), normal(3)) for _ in range(4))
    known = data.map(
        lambda x, y, w: (
            tf.ensure_shape(x, [None, 2]),
            tf.ensure_shape(y, [None, 1]),
            w,
        )
    )
    assert packing.differ(data.element_spec)
    assert not packing.differ(known.element_spec)
    assert trained(data) == trained(known)


@ends
@pytest.mark.parametrize("form", FORMS)
def test_weights_of_samples_are_packed_with_them(form):
    triples = [(x, y, normal(len(x))) for x, y in pairs()]
    absent = [(x, y, None) for x, y in pairs()]
    expected = trained(dataset_of(triples))
    assert trained(FORMS[form](triples)) == expected
    if form == "dataset":
        data = dataset_of(pairs()).map(lambda x, y: (x, y, None))
    else:
        data = FORMS[form](absent)
    assert trained(data) == trained(dataset_of(pairs())) != expected


@ends
@pytest.mark.parametrize("form", ["dataset", "py_dataset"])
@pytest.mark.parametrize("kind", ["indices", "column", "one-hot"])
def test_weights_of_classes_are_those_of_samples(kind, form):
    batches = []
    for x in SEQUENCES:
        labels = np.arange(len(x)) % 3
        y = {
            "indices": labels,
            "column": labels[:, np.newaxis].astype("float32"),
            "one-hot": np.eye(3, dtype="float32")[labels],
        }[kind]
        weights = np.array([5.0, 1.0, 0.25], "float32")[labels]
        batches.append((x, y, weights))
    weighted = trained(dataset_of(batches))
    data = FORMS[form](batch[:2] for batch in batches)
    assert trained(data, class_weight={0: 5.0, 2: 0.25}) == weighted
    assert trained(FORMS[form](batch[:2] for batch in batches)) != weighted


@pytest.mark.parametrize("form", ["dataset", "py_dataset"])
def test_weights_of_both_classes_and_samples_are_refused(form):
    data = FORMS[form]((x, y, y[:, 0]) for x, y in pairs())
    model, _ = recording_model(2, run_eagerly=True)
    with pytest.raises(Exception, match="`class_weight` must be None unless"):
        model.fit(data, class_weight={0: 1.0}, shuffle=False, verbose=0)


@pytest.mark.parametrize("labels", [[0, 2, 1], [[0], [2], [1]], np.eye(3)])
def test_class_weights_in_a_graph_are_those_of_arrays(labels):
    pair = (np.ones([3, 1]), np.array(labels))
    data = tf.data.Dataset.from_tensors(pair)
    weigh = class_weights.weighting({1: 2.0, 2: 3.0}, data.element_spec)
    (in_graph,) = data.map(weigh)
    expected = (
        [1.0, 2.0, 3.0]
        if np.ndim(labels) == 2 and len(labels[0]) == 3
        else [1.0, 3.0, 2.0]
    )
    assert in_graph[2].numpy().tolist() == expected
    of_arrays = class_weights.weighted(pair, {1: 2.0, 2: 3.0})
    assert of_arrays[2].tolist() == expected


@ends
@pytest.mark.parametrize("form", ["generator", "py_dataset"])
def test_tensors_of_one_batch_may_differ_in_their_rows(form):
    class Sums(keras.Model):
        def __init__(self):
            super().__init__()
            self.recorder = Recorder()

        def call(self, inputs):
            nodes, edges = inputs
            return self.recorder(nodes) + tf.reduce_sum(edges)

    batches = [
        ((normal(n, 2), normal(e, 3)), normal(n, 1))
        for n, e in [(2, 5), (2, 1), (3, 3), (1, 4)]
    ]
    model = entropy_keras.EntropyModel.from_model(Sums())
    model.compile(
        entropy_keras.EntropySGD(
            0.5, num_langevin_steps=3, langevin_learning_rate=0.1
        ),
        loss="mse",
    )
    model.fit(FORMS[form](batches), shuffle=False, verbose=0)
    nodes = [x for (x, _), _ in batches]
    assert_same(model.recorder.seen, [*nodes, nodes[3], nodes[3]])


@ends
def test_static_and_varying_data_take_turns():
    model, seen = recording_model(2)
    fixed = normal(4, 3)
    labels = normal(4, 1)
    for _ in range(2):
        seen.clear()
        model.fit(fixed, labels, batch_size=2, shuffle=False, verbose=0)
        assert_same(seen, [fixed[:2], fixed[2:]])
        seen.clear()
        model.fit(dataset_of(pairs()), shuffle=False, verbose=0)
        assert_same(seen, [*SEQUENCES, SEQUENCES[4]])


def test_xla_is_refused_by_name():
    model, _ = recording_model(2, jit_compile=True)
    with pytest.raises(ValueError, match="^`jit_compile` must be False or"):
        model.fit(dataset_of(pairs()), shuffle=False, verbose=0)


@ends
def test_xla_is_left_out_where_it_was_chosen(monkeypatch):
    monkeypatch.setattr(compilation, "prefers_xla", lambda model: True)
    inputs = keras.Input([None, 1])
    hidden = keras.layers.GlobalAveragePooling1D()(inputs)
    model = entropy_keras.EntropyModel(inputs, keras.layers.Dense(1)(hidden))
    model.compile(
        entropy_keras.EntropySGD(
            0.1, num_langevin_steps=2, langevin_learning_rate=0.1
        ),
        loss="mse",
    )
    assert model.jit_compile
    model.make_train_function()
    model.fit(
        dataset_of((x[..., np.newaxis], y) for x, y in pairs()),
        shuffle=False,
        verbose=0,
    )
    assert int(model.optimizer.iterations) == 3


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize(
    ("later", "message"),
    [
        ([normal(2, 3)], "batches of the form TensorSpec"),
        ([normal(2)], "batches of the form TensorSpec"),
        ([normal(2, 2), normal(3, 1)], "as many rows as one another"),
    ],
    ids=["another shape", "another rank", "other rows"],
)
@pytest.mark.parametrize("form", ["generator", "py_dataset"])
def test_what_the_first_batches_did_not_announce_is_refused(
    form, later, message
):
    first = (normal(2, 2), normal(2, 1))
    batch = (later[0], later[-1] if len(later) > 1 else normal(2, 1))
    model, _ = recording_model(2, run_eagerly=True)
    data = FORMS[form]([first] * 4 + [batch])
    with pytest.raises(Exception, match=message):
        model.fit(data, shuffle=False, verbose=0)


def test_ranks_that_differ_or_are_unknown_are_refused():
    batches = [(normal(2, 2), normal(2)), (normal(2), normal(2))]
    with pytest.raises(ValueError, match="^`x` must be .* keep their ranks"):
        recording_model(2)[0].fit(
            FORMS["generator"](batches), shuffle=False, verbose=0
        )
    unknown = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=(tf.TensorSpec(None), tf.TensorSpec([None])),
    )
    with pytest.raises(ValueError, match="`x` must be .* of known ranks"):
        batching.group_dataset(unknown, 2)
