"""Updates whose mini-batches come in several groups."""

import time

import keras
import lookahead
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras

BATCH, STEPS, UPDATES = 4, 6, 4
ROWS = BATCH * STEPS * UPDATES
X = np.random.default_rng(0).normal(size=[ROWS, 5, 3]).astype("float32")
Y = X[:, 0, :1] ** 2


def entropy_sgd(num_groups, **arguments):
    defaults = {
        "temperature": 1e-3,
        "langevin_learning_rate": 0.02,
        "seed": 3,
    }
    arguments = defaults | arguments
    return entropy_keras.EntropySGD(
        0.5,
        num_langevin_steps=STEPS,
        groups_per_update=num_groups,
        **arguments,
    )


CASES = {
    "plain": lambda n: entropy_sgd(n),
    "noise_taken_out": lambda n: entropy_sgd(
        n,
        estimator=entropy_keras.Displacement(subtract_noise=True),
        averaging_rate=None,
        start="stationary",
    ),
    "adam_inside": lambda n: entropy_sgd(
        n,
        sampler=entropy_keras.InnerOptimizer(keras.optimizers.Adam(0.01)),
        langevin_learning_rate=None,
        metric="rms_gradients",
    ),
    "thermostat": lambda n: entropy_sgd(n, sampler="sgnht"),
    "mean_gradient": lambda n: entropy_sgd(
        n,
        estimator="mean_gradient",
        metric="learned",
        start="stationary",
    ),
}


def batches(count=STEPS * UPDATES):
    slices = tf.data.Dataset.from_tensor_slices((X, Y))
    return slices.batch(BATCH, drop_remainder=True).take(count)


def make_model(optimizer, policy="float32", recurrent=False, **arguments):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    first = layers.Flatten()
    if recurrent:
        first = layers.SimpleRNN(4, stateful=True)
    network = keras.Sequential([
        keras.Input(batch_shape=[BATCH, 5, 3]),
        first,
        layers.BatchNormalization(dtype=policy),
        layers.Dropout(0.2, dtype=policy),
        layers.Dense(1, kernel_regularizer="l2", dtype=policy),
        layers.Activation("linear", dtype="float32"),
    ])
    network.dtype_policy = keras.DTypePolicy(policy)
    model = entropy_keras.EntropyModel.from_model(network)
    model.compile(
        optimizer,
        loss="mse",
        metrics=["mae"],
        **({"jit_compile": False} | arguments),
    )
    return model


def trained(optimizer, data=None, epochs=2, **arguments):
    model = make_model(optimizer, **arguments)
    history = model.fit(
        data or batches(), epochs=epochs, shuffle=False, verbose=0
    ).history
    state = [*model.variables, *model.optimizer.variables]
    return [v.numpy() for v in state], history


def assert_same(one, other):
    # Compiled steps may round differently in the first step of a leg.
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for name, values in one[1].items():
        np.testing.assert_allclose(values, other[1][name], rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        "plain",
        "mean_gradient",
        *(
            pytest.param(case, marks=pytest.mark.nightly)
            for case in ("noise_taken_out", "adam_inside", "thermostat")
        ),
    ],
)
def test_an_update_of_several_groups_is_that_of_one(case):
    whole = trained(CASES[case](1), recurrent=case == "plain")
    start = make_model(CASES[case](1), recurrent=case == "plain")
    before = start.layers[-2].kernel.numpy()
    assert not any(np.array_equal(before, value) for value in whole[0])
    parts = trained(CASES[case](3), recurrent=case == "plain")
    assert_same(parts, whole)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"jit_compile": True}, marks=pytest.mark.nightly),
        {"run_eagerly": True},
        {"policy": "mixed_bfloat16"},
    ],
)
def test_in_any_mode_and_precision(arguments):
    whole = trained(entropy_sgd(1), epochs=1, **arguments)
    assert_same(trained(entropy_sgd(3), epochs=1, **arguments), whole)


def test_an_optimizer_of_ones_own_goes_on_too():
    class OfGroups(lookahead.Lookahead):
        gradients_per_update = STEPS

    whole = trained(OfGroups(0.5))
    assert_same(trained(OfGroups(0.5, groups_per_update=3)), whole)


def test_an_epoch_is_a_pass_and_begins_at_the_start():
    # 10 mini-batches are two updates of 6, the last with the first 2 again.
    missing = batches(10).concatenate(batches(2))
    parts = trained(entropy_sgd(3), batches(10), epochs=3)
    assert_same(parts, trained(entropy_sgd(1), missing, epochs=3))
    assert len(parts[1]["loss"]) == 3


def test_callbacks_set_the_order_of_each_epoch():
    epoch = tf.Variable(0, dtype=tf.int64)

    class Order(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            time.sleep(0.1)  # for what may read ahead
            epoch.assign(number)

    rows = tf.data.Dataset.from_tensors(0).flat_map(
        lambda _: tf.data.Dataset.range(4).map(lambda i: i + 4 * epoch)
    )
    count = tf.data.experimental.assert_cardinality(4)
    data = rows.apply(count).map(
        lambda i: (tf.reshape(tf.cast(i, tf.float32), [1, 1]), tf.ones([1, 1]))
    )
    seen = []

    class Layer(keras.layers.Layer):
        def call(self, x):
            tf.py_function(lambda v: seen.append(v.numpy().ravel()), [x], [])
            return x

    inputs = keras.Input([1])
    model = entropy_keras.EntropyModel(
        inputs, keras.layers.Dense(1)(Layer()(inputs))
    )
    optimizer = entropy_keras.EntropySGD(
        num_langevin_steps=4, groups_per_update=2
    )
    model.compile(optimizer, loss="mse", run_eagerly=True)
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[Order()])
    found = [int(v[0]) for v in seen if len(v)]
    assert found == list(range(12))


def test_masks_go_on_to_the_metrics():
    x = np.random.default_rng(0).integers(1, 5, [16, 6])
    x[:, 3:] = 0
    y = np.where(x > 0, x == 2, 1).astype("int32")
    found = []
    for num_groups in (1, 2):
        keras.utils.set_random_seed(0)
        inputs = keras.Input([6], dtype="int32")
        hidden = keras.layers.Embedding(5, 4, mask_zero=True)(inputs)
        outputs = keras.layers.Dense(2, "softmax")(hidden)
        model = entropy_keras.EntropyModel(inputs, outputs)
        model.compile(
            entropy_keras.EntropySGD(
                num_langevin_steps=4, groups_per_update=num_groups, seed=0
            ),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
        )
        data = tf.data.Dataset.from_tensor_slices((x, y))
        data = data.batch(4, drop_remainder=True)
        found.append(model.fit(data, shuffle=False, verbose=0).history)
    for name, values in found[0].items():
        assert values == pytest.approx(found[1][name])
    assert 0 < found[0]["accuracy"][0] < 1


def test_mini_batches_of_unknown_and_of_different_shapes():
    def rows(number):
        for i in range(number):
            length = 2 + i % 3
            yield X[BATCH * i : BATCH * (i + 1), :length], Y[:BATCH]

    spec = (
        tf.TensorSpec([BATCH, None, 3], tf.float32),
        tf.TensorSpec([BATCH, 1], tf.float32),
    )
    data = tf.data.Dataset.from_generator(
        lambda: rows(12), output_signature=spec
    ).apply(tf.data.experimental.assert_cardinality(12))
    found = []
    for num_groups in (1, 3):
        keras.utils.set_random_seed(0)
        inputs = keras.Input([None, 3])
        pooled = keras.layers.GlobalAveragePooling1D()(inputs)
        outputs = keras.layers.Dense(1)(pooled)
        model = entropy_keras.EntropyModel(inputs, outputs)
        model.compile(entropy_sgd(num_groups), loss="mse")
        model.fit(data, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("bad", "policy"), [(0, "float32"), (3, "mixed_float16"), (5, "float32")]
)
def test_a_bad_number_in_any_leg_is_written_nowhere(bad, policy):
    model = make_model(entropy_sgd(3), policy)
    model.fit(batches(STEPS), shuffle=False, verbose=0)
    kept = [
        v
        for v in [*model.variables, *model.optimizer.variables]
        if v.path.rsplit("/", 1)[-1]
        not in ("failure", "dynamic_scale", "step_counter")
    ]
    before = [v.numpy() for v in kept]
    x = X[: BATCH * STEPS].copy()
    x[BATCH * bad] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, Y[: len(x)]))
    data = data.batch(BATCH, drop_remainder=True)
    if policy == "float32":
        with pytest.raises(FloatingPointError, match="at update 1"):
            model.fit(data, shuffle=False, verbose=0)
    else:
        scale = float(model.optimizer.dynamic_scale.numpy())
        model.fit(data, shuffle=False, verbose=0)
        assert float(model.optimizer.dynamic_scale.numpy()) == scale / 2
    for old, variable in zip(before, kept, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


class Looking(keras.layers.Layer):
    """Calls a function whenever a mini-batch passes."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def call(self, inputs):
        def look(x):
            self.look()
            time.sleep(0.01)  # reading is faster
            return x

        looked_at = tf.numpy_function(
            look,
            [inputs],
            inputs.dtype,
            stateful=False,  # else TensorFlow does it and reading in turn
        )
        return tf.ensure_shape(looked_at, inputs.shape)


def test_no_group_is_read_before_it_is_due():
    read, ahead = [], []

    def rows():
        for i in range(20):
            read.append(i)
            yield X[BATCH * i : BATCH * (i + 1), 0], Y[:BATCH]

    data = tf.data.Dataset.from_generator(
        rows,
        output_signature=(
            tf.TensorSpec([BATCH, 3], tf.float32),
            tf.TensorSpec([BATCH, 1], tf.float32),
        ),
    )
    inputs = keras.Input([3])
    looking = Looking(lambda: ahead.append(len(read) - len(ahead)))
    outputs = keras.layers.Dense(1)(looking(inputs))
    model = entropy_keras.EntropyModel(inputs, outputs)
    optimizer = entropy_keras.EntropySGD(
        0.1, num_langevin_steps=20, groups_per_update=10
    )
    model.compile(optimizer, loss="mse", jit_compile=False)
    model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)
    assert len(ahead) == 20
    # A group of two is in use, one waits, and one is being made.
    assert 0 < max(ahead) <= 8


def test_data_that_end_within_an_update_leave_its_last_mini_batches():
    model = make_model(entropy_sgd(3))
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(batches(8), steps_per_epoch=2, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 1


def test_a_file_goes_on_bit_for_bit(tmp_path):
    model = make_model(CASES["adam_inside"](3))
    model.fit(batches(), shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.groups_per_update == 3
    for one in (model, again):
        one.fit(batches(), shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_step_is_traced_once():
    traced = []

    class Counted(entropy_keras.EntropyModel):
        def call(self, inputs, training=False):
            traced.append(None)
            return self.dense(inputs)

        def build(self, shape):
            self.dense = keras.layers.Dense(1)
            self.dense.build(shape)

    model = Counted()
    model.compile(entropy_sgd(3), loss="mse", jit_compile=False)
    data = batches().map(lambda x, y: (x[:, 0], y))
    model.fit(data, shuffle=False, verbose=0)
    # The first step and the loop of a leg, in the first, middle and last one.
    assert len(traced) <= 2 + 3 * 2
    traced.clear()
    model.fit(data, epochs=2, shuffle=False, verbose=0)
    assert not traced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_groups": 0}, "`groups_per_update` must be a positive integer"),
        ({"num_groups": 1.5}, "`groups_per_update` must be a positive integer"),
        ({"num_groups": 4}, "a divisor of the mini-batches of an update, 6"),
        ({"num_groups": 7}, "a divisor of the mini-batches of an update, 6"),
        ({"num_groups": 2, "share_batch": True}, "a divisor of"),
        ({"num_groups": 2, "data_weight": 0.1}, "1 with a data_weight"),
        (
            {"num_groups": 2, "diagnostics": True},
            "1 with a data_weight",
        ),
    ],
)
def test_numbers_that_cannot_work_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model(entropy_sgd(**arguments))


def test_what_cannot_go_on_is_refused():
    with pytest.raises(ValueError, match="`x` must be a tf.data.Dataset"):
        make_model(entropy_sgd(2)).fit(X, Y, batch_size=BATCH)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be"):
        make_model(entropy_sgd(2)).fit(batches().repeat(), shuffle=False)
    with pytest.raises(ValueError, match="1 for `train_on_batch`"):
        make_model(entropy_sgd(2)).train_on_batch(X, Y)
    with pytest.raises(ValueError, match="`steps_per_execution` must be 1"):
        make_model(entropy_sgd(2), steps_per_execution=2)


class Outside(lookahead.Lookahead):
    gradients_per_update = 4

    def propose(self, gradient_at, anchor, slots, clock):
        return entropy_keras.Proposal(gradient_at(anchor, 0))


class Short(lookahead.Lookahead):
    gradients_per_update = 4

    def propose(self, gradient_at, anchor, slots, clock):
        end = gradient_at.repeat(lambda i, p: gradient_at(p, i), anchor, 3)
        return entropy_keras.Proposal(end)


class Twice(lookahead.Lookahead):
    gradients_per_update = 4

    def propose(self, gradient_at, anchor, slots, clock):
        for _ in range(2):
            anchor = gradient_at.repeat(
                lambda i, p: gradient_at(p, i), anchor, 4
            )
        return entropy_keras.Proposal(anchor)


class First(lookahead.Lookahead):
    gradients_per_update = 4

    def propose(self, gradient_at, anchor, slots, clock):
        gradient_at.repeat(lambda i, p: gradient_at(p, i), anchor, 4)
        return entropy_keras.Proposal(gradient_at.first)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Outside, "asks for a gradient outside of `repeat`"),
        (Short, "an optimizer that does not"),
        (Twice, "an optimizer that does not"),
        (First, "an optimizer that reads `first`"),
    ],
)
def test_proposals_that_cannot_go_on_are_refused(optimizer, message):
    model = make_model(optimizer(groups_per_update=2))
    with pytest.raises(ValueError, match=message):
        model.fit(batches(), shuffle=False, verbose=0)
