"""One table: every configuration x model x kind of data x precision.

Each pair of values of two factors meets in at least one case. A case is
trained once, and each test looks at one property of what came of it.
"""

import contextlib
import inspect
import itertools
import json
import types

import covering
import keras
import numpy as np
import pytest
import tensorflow as tf
from lookahead import Lookahead

import entropy_keras
from entropy_keras import passes

EntropySGD = entropy_keras.EntropySGD
presets = entropy_keras.presets

MINIBATCH, NUM_MINIBATCHES, EPOCHS = 4, 8, 3
NUM_SAMPLES = MINIBATCH * NUM_MINIBATCHES - 1  # the last one is short

CONFIGURATIONS = {
    "defaults": lambda: EntropySGD(0.2, seed=1),
    "mean_gradient": lambda: EntropySGD(
        0.1,
        estimator="mean_gradient",
        num_langevin_steps=2,
        share_batch=True,
        seed=1,
    ),
    # On one replica it is EntropySGD, and it remembers more.
    "elastic": lambda: entropy_keras.ElasticEntropySGD(
        0.2,
        sampler="split_sgld",
        scope=30.0,
        scale_by_scope=True,
        averaging_rate=None,
        seed=1,
    ),
    "paper_v1": lambda: presets.paper_v1(
        num_langevin_steps=3, temperature=1e-8, data_weight=1.0, seed=1
    ),
    "adam": lambda: EntropySGD(
        outer_optimizer=keras.optimizers.Adam(0.01),
        scope=entropy_keras.ExponentialScope(0.03, 1e-3, 5.0),
        langevin_learning_rate=keras.optimizers.schedules.CosineDecay(0.2, 100),
        num_langevin_steps=1,
        global_clipnorm=1.0,
        seed=1,
    ),
    "adam_inside": lambda: EntropySGD(
        learning_rate=0.5,
        sampler=entropy_keras.InnerOptimizer(keras.optimizers.Adam(0.01)),
        num_langevin_steps=3,
        seed=1,
    ),
    "sghmc": lambda: EntropySGD(
        0.5,
        sampler="sghmc",
        estimator=entropy_keras.Displacement(subtract_noise=True),
        metric="relative",
        temperature=1e-4,
        seed=1,
    ),
    "sgnht": lambda: EntropySGD(
        0.5,
        sampler="sgnht",
        metric="learned",
        temperature=1e-4,
        start="stationary",
        scope=1.0,
        seed=1,
    ),
    "santa": lambda: EntropySGD(
        0.5,
        sampler="santa",
        metric="rms_gradients",
        temperature=1e-6,
        langevin_learning_rate=1e-3,
        seed=1,
    ),
    "perturbation": lambda: EntropySGD(
        0.1,
        sampler=entropy_keras.GaussianPerturbation(),
        metric="learned",
        estimator="mean_gradient",
        temperature=1e-4,
        start="stationary",
        scope=1.0,
        seed=1,
    ),
    "sharpness_aware": lambda: entropy_keras.SharpnessAware(learning_rate=0.05),
    "sharpness_aware_momentum": lambda: entropy_keras.SharpnessAware(
        0.5, adaptive=True, direction="momentum", learning_rate=0.05
    ),
    "lookahead": lambda: Lookahead(0.5),
    "sgd": lambda: keras.optimizers.SGD(0.05),
}


@keras.saving.register_keras_serializable(package="test_conformance")
class Probe(keras.layers.Layer):
    """Passes its input on; counts passes in training, and Python calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(0)
        self.num_calls = 0

    def call(self, inputs, training=False):
        if training:
            self.num_calls += 1
            self.seeds.next()
        return inputs


@keras.saving.register_keras_serializable(package="test_conformance")
class Recurrent(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(10, 4, dtype=policy)
        self.recurrent = keras.layers.SimpleRNN(4, unroll=True, dtype=policy)
        self.probe = Probe(dtype=policy)
        self.readout = keras.layers.Dense(2, dtype=policy)

    def call(self, inputs, training=False):
        x = self.recurrent(self.embedding(inputs))
        return self.readout(self.probe(x, training=training))


def recurrent():
    return Recurrent()


def dense():
    inputs = keras.Input([6])
    x = keras.layers.Dense(8)(Probe()(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dropout(0.1)(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def convolutional():
    return keras.Sequential([
        keras.Input([6]),
        Probe(),
        keras.layers.Reshape([6, 1]),
        keras.layers.Conv1D(4, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, kernel_regularizer="l2"),
    ])


def two_headed():
    body, title = keras.Input([6], name="body"), keras.Input([6], name="title")
    x = keras.layers.Concatenate()([Probe()(body), title])
    outputs = {"class": keras.layers.Dense(2, name="class")(x),
               "sum": keras.layers.Dense(1, name="sum")(x)}  # fmt: skip
    return keras.Model({"body": body, "title": title}, outputs)


MODELS = {m.__name__: m for m in (dense, convolutional, recurrent, two_headed)}
FEATURES = np.random.default_rng(0).normal(size=[NUM_SAMPLES, 6])
LABELS = (FEATURES[:, 0] > 0).astype("int32")
TOKENS = (np.abs(FEATURES[:, :3]) * 3).astype("int32") + 2 * LABELS[:, None]


def samples(model):
    """Returns the inputs, the targets and the loss that a model takes."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if model == "recurrent":
        return TOKENS, LABELS, loss
    if model == "two_headed":
        x = {"body": FEATURES, "title": FEATURES**2}
        y = {"class": LABELS, "sum": FEATURES.sum(1, keepdims=True)}
        return x, y, {"class": loss, "sum": "mae"}
    return FEATURES, LABELS, loss


def batch(data, index):
    rows = slice(index * MINIBATCH, (index + 1) * MINIBATCH)
    return keras.tree.map_structure(lambda array: array[rows], data)


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return NUM_MINIBATCHES

    def __getitem__(self, index):
        return batch(self.data, index)


def arrays(x, y, num_updates):
    return {"x": x, "y": y, "batch_size": MINIBATCH}


def dataset(x, y, num_updates):
    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(MINIBATCH)}


def py_dataset(x, y, num_updates):
    return {"x": Batches((x, y))}


def generator(x, y, num_updates):
    indices = itertools.cycle(range(NUM_MINIBATCHES))
    return {
        "x": (batch((x, y), index) for index in indices),
        "steps_per_epoch": num_updates,
    }


INPUTS = {f.__name__: f for f in (arrays, dataset, py_dataset, generator)}
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")
FACTORS = (tuple(CONFIGURATIONS), tuple(MODELS), tuple(INPUTS), PRECISIONS)


CASES = covering.cases(FACTORS)


class Recorder(keras.callbacks.Callback):
    """Counts updates, and the Python calls of the probe in each epoch."""

    def __init__(self, probe):
        super().__init__()
        self.probe, self.num_updates, self.calls = probe, 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.num_updates += 1

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(self.probe.num_calls)


def probe_of(model):
    return next(m for m in model._flatten_layers() if isinstance(m, Probe))


@contextlib.contextmanager
def under_precision(policy):
    """Sets the global policy, as a script does in its first lines."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    if policy == "float64":
        keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def train(configuration, model_name, inputs):
    """Trains three epochs, and one more without outer steps."""
    keras.utils.set_random_seed(2)
    plain, (x, y, loss) = MODELS[model_name](), samples(model_name)
    model = entropy_keras.EntropyModel.from_model(plain)
    model.compile(CONFIGURATIONS[configuration](), loss=loss)
    entropy_sgd = model._multi_gradient()
    per_update = entropy_sgd.minibatches_per_update if entropy_sgd else 1
    recorder = Recorder(probe_of(model))

    def fit(epochs):
        model.fit(
            **INPUTS[inputs](x, y, -(-NUM_MINIBATCHES // per_update)),
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[recorder],
        )

    def loss_of_all():
        with keras.StatelessScope():  # which keeps all state as it is
            outputs = model(
                keras.tree.map_structure(tf.constant, x), training=True
            )
        return float(model.compute_loss(x, y, outputs))

    losses = [loss_of_all()]
    fit(EPOCHS)
    before = [v.numpy() for v in model.trainable_variables]
    learning_rate = float(model.optimizer.learning_rate)
    model.optimizer.learning_rate = 0.0
    fit(1)
    after = [v.numpy() for v in model.trainable_variables]
    model.optimizer.learning_rate = learning_rate
    losses.append(loss_of_all())
    return types.SimpleNamespace(
        model=model,
        minibatches_per_update=per_update,
        gradients_per_update=(
            entropy_sgd.gradients_per_update if entropy_sgd else 1
        ),
        losses=losses,
        recorder=recorder,
        weights=(before, after),
    )


# What has tests of its own beside a relative that stays.
NIGHTLY = {
    "paper_v1", "sgnht", "perturbation", "sharpness_aware_momentum"
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(case, marks=[pytest.mark.nightly] * (case[0] in NIGHTLY))
        for case in CASES
    ],
    ids=["-".join(case) for case in CASES],
)
def trained(request):
    """A case after its training, still under its precision."""
    *case, precision = request.param
    with under_precision(precision):
        yield train(*case)


def test_each_pair_of_values_meets():
    for one, other in itertools.combinations(range(len(FACTORS)), 2):
        met = {(case[one], case[other]) for case in CASES}
        assert met == set(itertools.product(FACTORS[one], FACTORS[other]))


def test_the_loss_goes_down(trained):
    assert np.isfinite(trained.losses).all()
    assert trained.losses[-1] < trained.losses[0]


def test_an_epoch_is_one_pass_over_the_data(trained):
    updates = -(-NUM_MINIBATCHES // trained.minibatches_per_update)
    assert trained.recorder.num_updates == (EPOCHS + 1) * updates


def test_the_reported_number_of_gradients_is_that_of_the_passes(trained):
    # A generator of seeds counts them in the second entry of its state.
    _, num_passes = probe_of(trained.model).seeds.state.numpy()
    # An update that overflows in half precision leaves no trace.
    num_updates = trained.recorder.num_updates
    if trained.model._multi_gradient() is not None:
        num_updates = int(trained.model.optimizer.iterations)
    assert num_passes == trained.gradients_per_update * num_updates


def test_nothing_is_traced_after_the_first_epoch(trained):
    calls = trained.recorder.calls
    assert calls[0] > 0
    assert calls == calls[:1] * (EPOCHS + 1)


def test_the_inner_loop_leaves_nothing_in_the_weights(trained):
    for before, after in zip(*trained.weights, strict=True):
        np.testing.assert_array_equal(after, before)


def test_weights_have_the_precision_of_the_policy(trained):
    dtypes = {v.dtype for v in trained.model.trainable_variables}
    assert dtypes == {keras.config.dtype_policy().variable_dtype}


def arguments_of(optimizer):
    """Returns the arguments that an optimizer holds as attributes."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    values = {
        name: getattr(optimizer, name)
        for name in inspect.signature(type(optimizer)).parameters
        # Keras gives the default outer optimizer a new name each time.
        if hasattr(optimizer, name) and name != "outer_optimizer"
    }
    assert "learning_rate" in values
    return {
        name: float(value)
        if isinstance(value, keras.Variable)
        else keras.saving.serialize_keras_object(value)
        for name, value in values.items()
    }


def test_a_configuration_survives_json(trained):
    config = keras.saving.serialize_keras_object(trained.model.optimizer)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert keras.saving.serialize_keras_object(again) == config
    assert arguments_of(again) == arguments_of(trained.model.optimizer)


def test_a_file_restores_every_bit(trained, tmp_path):
    trained.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, entropy_keras.EntropyModel)

    def state(model):
        # Keras leaves out the state of random seeds, EntropySGD does not.
        seeds = passes.carried_states(model) if model._multi_gradient() else []
        return model.weights + model.optimizer.variables + seeds

    actual, expected = state(loaded), state(trained.model)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy(), a.path)
