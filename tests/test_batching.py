"""Batches of `fit` become groups, and groups mini-batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import batching


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


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (tf.data.Dataset.range(10).batch(2), 2),
        (tf.data.Dataset.range(10).batch(2).repeat(), -1),
        (tf.data.Dataset.range(10).filter(lambda i: i > 2).batch(2), -2),
    ],
    ids=["finite", "infinite", "unknown"],
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
    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = SAMPLES[2 * index : 2 * index + 2]
        return x, x


SAMPLES = np.arange(7, dtype="float32").reshape(7, 1)


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
    "py_dataset": lambda: {"x": Batches()},
    "generator": lambda: {"x": batches(), "steps_per_epoch": 2},
}


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
    expected = []
    for data in (
        {"sample_weight": np.array([0.0, 3.0, 3.0, 0.0])},
        {"class_weight": {0: 0.0, 1: 3.0}},
    ):
        model, _ = recording_model(
            learning_rate=1.0, langevin_learning_rate=0.01, temperature=0.0
        )
        model.fit(x, labels, batch_size=2, shuffle=False, verbose=0, **data)
        expected.append(float(model.get_weights()[0]))
    # Both count the samples of class 1 three times: the loss in each mini-batch
    # is 3 (w - 1)**2 / 2, which the start w = 1 already minimises.
    assert expected == [1.0, 1.0]
    unweighted, _ = recording_model(
        learning_rate=1.0, langevin_learning_rate=0.01, temperature=0.0
    )
    unweighted.fit(x, labels, batch_size=2, shuffle=False, verbose=0)
    assert float(unweighted.get_weights()[0]) < 1.0


def test_generator_groups_keep_an_absent_sample_weight():
    def triples():
        for x, y in batches():
            yield x, y, None

    group = next(iter(batching._group_batches(triples(), 3)))
    assert group[0].shape == (6, 1)
    assert group[2] is None
