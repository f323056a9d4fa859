"""Trains on logical devices, and prints what `test_devices` looks at.

A process of its own, since logical devices are set before TensorFlow starts;
with the argument `four` on four of them, else on two.
"""

import json
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import entropy_keras
from entropy_keras import landscape

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    CPU, [tf.config.LogicalDeviceConfiguration()] * 4
)
TWO = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
STEPS, SIZE = 3, 4  # mini-batches in a group, rows of one on each replica
ROWS = 2 * STEPS * SIZE
RNG = np.random.default_rng(0)
layers = keras.layers


def data(num_groups):
    x = RNG.normal(size=[num_groups * ROWS, 6]).astype("float32")
    return x, (x[:, :1] * x[:, 1:2]).astype("float32")


def network(*, normalize=False, synchronized=False, dropout=0.0, policy=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([6])
    x = layers.Dense(8, kernel_regularizer="l2", dtype=policy)(inputs)
    if normalize:
        x = layers.BatchNormalization(synchronized=synchronized)(x)
    x = layers.ReLU(dtype=policy)(x)
    if dropout:
        x = layers.Dropout(dropout, seed=1)(x)
    outputs = layers.Dense(1, dtype=policy)(x)
    model = entropy_keras.EntropyModel(inputs, outputs)
    if policy:
        model.dtype_policy = keras.DTypePolicy(policy)
    return model


def entropy_sgd(**arguments):
    defaults = {
        "learning_rate": 0.5, "num_langevin_steps": STEPS, "seed": 3,
        "temperature": 0.0,
    }  # fmt: skip
    return entropy_keras.EntropySGD(**(defaults | arguments))


def compiled(make, strategy=None, **arguments):
    if strategy is None:
        strategy = tf.distribute.get_strategy()
    with strategy.scope():
        model = network(**arguments)
        model.compile(make(), loss="mse", metrics=["mae"], jit_compile=False)
    return model


def fit(model, x, y, **arguments):
    arguments = {"batch_size": 2 * SIZE, "shuffle": False} | arguments
    return model.fit(x, y, verbose=0, **arguments).history


def everything(model):
    return [v.numpy() for v in model.weights]


def distance(one, other):
    return float(max(abs(a - b).max() for a, b in zip(one, other, strict=True)))


def average_of_single_devices(make, strategy=TWO, **arguments):
    """Updates of all replicas, and by one model each that are averaged."""
    count = strategy.num_replicas_in_sync
    x, y = data(8 // count * count // 2)
    both = compiled(make, strategy, **arguments)
    logs = fit(both, x, y, batch_size=count * SIZE)
    single = compiled(make, **arguments)
    optimizer = single._multi_gradient()
    rows = count * SIZE * optimizer.minibatches_per_update
    weights, losses = everything(single), []
    for start in range(0, len(x), rows):
        found = []
        for first in range(start, start + rows, rows // count):
            single.set_weights(weights)
            optimizer.iterations.assign(start // rows)
            part = slice(first, first + rows // count)
            losses.append(single.train_on_batch(x[part], y[part])[0])
            found.append(everything(single))
        weights = [np.mean(each, 0) for each in zip(*found, strict=True)]
    return {
        "difference": distance(everything(both), weights),
        "moved": distance(
            everything(both), everything(compiled(make, **arguments))
        ),
        "loss": [logs["loss"][0], float(np.mean(losses))],
    }


def elastic():
    """Updates of replicas with anchors of their own, and the same by hand.

    By hand, each replica is a model on one device, whose displacement is what
    plain SGD at 1 adds to its weights.
    """
    rate, pull, num_updates = 0.5, 0.75, 6
    x, y = data(num_updates)

    def coupled():
        return entropy_keras.ElasticEntropySGD(
            rate, elasticity=pull, num_langevin_steps=STEPS, seed=3,
            temperature=0.0,
        )  # fmt: skip

    both = compiled(coupled, TWO)
    start = everything(both)
    fit(both, x[: 3 * ROWS], y[: 3 * ROWS])
    with tempfile.TemporaryDirectory() as folder:
        both.save(f"{folder}/model.keras")
        with TWO.scope():
            loaded = keras.models.load_model(f"{folder}/model.keras")
    for model in (both, loaded):
        fit(model, x[3 * ROWS :], y[3 * ROWS :])
    single = compiled(lambda: entropy_sgd(learning_rate=1.0))
    mean, own = start, [start, start]
    for first in range(0, len(x), ROWS):
        new = []
        for replica, weights in enumerate(own):
            rows = slice(
                first + replica * ROWS // 2, first + (replica + 1) * ROWS // 2
            )
            single.set_weights(weights)
            single.train_on_batch(x[rows], y[rows])
            new.append([
                w - rate * ((w - after) + pull * (w - m))
                for w, after, m in zip(
                    weights, everything(single), mean, strict=True
                )
            ])
        own = new
        mean = [np.mean(each, 0) for each in zip(*own, strict=True)]
    return {
        "difference": distance(everything(both), mean),
        "moved": distance(mean, start),
        "apart": distance(own[0], own[1]),
        "resumed": distance(everything(both), everything(loaded)),
    }


def synchronized(**arguments):
    """50 updates with each gradient averaged, and those of one device."""
    x, y = data(50)

    def make(chains):
        return lambda: entropy_sgd(
            chains=chains, temperature=1e-4, clipnorm=0.3
        )

    both = compiled(make("synchronized"), TWO, **arguments)
    fit(both, x, y)
    # One device takes the rows of both replicas' mini-batches together.
    order = np.arange(len(x)).reshape(50, 2, STEPS, SIZE)
    order = order.transpose(0, 2, 1, 3).ravel()
    one = compiled(make("per_replica"), **arguments)
    fit(one, x[order], y[order])
    return {"difference": distance(everything(both), everything(one))}


def legs(chains):
    """Updates of two replicas in three legs, and from one group each."""
    x, y = data(4)
    normalize = chains == "per_replica"

    def trained(num_groups, x, y):
        model = compiled(
            lambda: entropy_sgd(
                chains=chains, temperature=1e-4, groups_per_update=num_groups
            ),
            TWO,
            normalize=normalize,
            dropout=0.2,
        )
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(
            2 * SIZE, drop_remainder=True
        )
        logs = model.fit(batches, verbose=0).history
        return everything(model), logs["loss"][0]

    weights, loss = trained(STEPS, x, y)
    # A group is cut in two, so the halves of mini-batches lie elsewhere in it.
    order = np.arange(len(x)).reshape(4, STEPS, 2, SIZE)
    order = order.transpose(0, 2, 1, 3).ravel()
    expected, loss_of_one = trained(1, x[order], y[order])
    return {
        "difference": distance(weights, expected),
        "moved": distance(
            weights, everything(compiled(entropy_sgd, normalize=normalize))
        ),
        "loss": [loss, loss_of_one],
    }


def short_leg(chains):
    """A linear model whose second update begins with a batch of one row."""
    x = RNG.normal(size=[13, 3])
    y = x @ [1.0, -1.0, 0.5]
    with TWO.scope():
        inputs = keras.Input([3])
        model = entropy_keras.EntropyModel(
            inputs, layers.Dense(1, use_bias=False)(inputs)
        )
        optimizer = entropy_sgd(
            groups_per_update=3, chains=chains, scope=0.5,
            langevin_learning_rate=0.1, averaging_rate=0.75,
            sampler=entropy_keras.SGLD(momentum=0.0),
        )  # fmt: skip
        model.compile(optimizer, loss="mse", jit_compile=False)
    model.set_weights([np.zeros([3, 1])])
    batches = tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(4)
    logs = model.fit(batches, shuffle=False, verbose=0).history

    def gradient(w, rows):
        return 2 * x[rows].T @ (x[rows] @ w - y[rows]) / len(rows)

    # What each replica gets of each mini-batch: 4, 4, 4, then 1, 4, 4 rows.
    parts = [[s, s + 2] for s in (0, 4, 8, 12, 0, 4)]
    rows = [[np.arange(s, min(s + 2, 13)) for s in pair] for pair in parts]
    w = np.zeros(3)
    for update in (rows[:3], rows[3:]):
        position, mean = np.array([w, w]), np.array([w, w])
        for pair in update:
            slopes = [
                gradient(p, r) if len(r) else None
                for p, r in zip(position, pair, strict=True)
            ]
            if chains == "synchronized":
                common = np.mean([s for s in slopes if s is not None], 0)
                slopes = [common, common]
            for i, slope in enumerate(slopes):
                if slope is not None:
                    pull = 0.5 * (position[i] - w)
                    position[i] = position[i] - 0.1 * (slope + pull)
                    mean[i] = 0.25 * mean[i] + 0.75 * position[i]
        w = w - 0.5 * (w - mean.mean(0))
    found = model.get_weights()[0][:, 0]
    return {
        "difference": float(np.abs(found - w).max()),
        "loss": logs["loss"][0],
    }


def collectives():
    """Elements of each all-reduce of an update."""
    model = compiled(entropy_sgd, TWO, normalize=True)
    x, y = data(1)
    with TWO.scope():
        model.optimizer.build(model.trainable_variables)
    fit(model, x, y)
    reduced = []
    extended = type(TWO.extended)
    plain = extended.batch_reduce_to

    def counted(self, reduce_op, pairs, *rest):
        reduced.extend(int(np.prod(p[0].values[0].shape)) for p in pairs)
        return plain(self, reduce_op, pairs, *rest)

    extended.batch_reduce_to = counted
    batch = next(iter(TWO.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS)
    )))  # fmt: skip

    @tf.function
    def step(batch):
        return TWO.run(model.train_step, args=(batch,))

    graph = step.get_concrete_function(batch).graph.as_graph_def()
    extended.batch_reduce_to = plain
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    return {
        "reduced": reduced,
        "compiled": [
            node.op for node in nodes if node.op.startswith("Collective")
        ],
        "weights": int(sum(np.prod(v.shape) for v in model.weights)),
    }


def failure(policy=None):
    """A number that is not finite on the second replica only."""
    model = compiled(entropy_sgd, TWO, normalize=True, policy=policy)
    x, y = data(2)
    fit(model, x[:ROWS], y[:ROWS])
    before = everything(model)
    x[-1] = np.nan
    message = ""
    try:
        fit(model, x[ROWS:], y[ROWS:])
    except FloatingPointError as error:
        message = str(error)
    return {
        "message": message,
        "difference": distance(everything(model), before),
        "scale": float(model.optimizer.dynamic_scale.numpy()) if policy else 0,
    }


def noise():
    """Displacement by noise alone on each replica, and on one device."""

    def make():
        return entropy_sgd(
            learning_rate=1.0, temperature=1.0, scope=0.0,
            langevin_learning_rate=1e-8, averaging_rate=1.0,
        )  # fmt: skip

    x, y = data(1)
    both, one = compiled(make, TWO), compiled(make)
    start = everything(one)
    fit(both, x, y)
    fit(one, x[:ROWS], y[:ROWS])
    total = np.concatenate([
        (a - b).ravel() for a, b in zip(everything(both), start, strict=True)
    ])
    first = np.concatenate([
        (a - b).ravel() for a, b in zip(everything(one), start, strict=True)
    ])
    second = 2 * total - first  # the mean of both is what was applied
    return {
        "deviations": [float(first.std()), float(second.std())],
        "correlation": float(np.corrcoef(first, second)[0, 1]),
        "expected": float(np.sqrt(2e-8 * STEPS)),
    }


def masks():
    """The units that dropout leaves, on each replica."""

    class Recorder(layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(
                shape=[SIZE, 6], trainable=False, initializer="zeros"
            )

        def call(self, inputs, training=False):
            if training:
                self.seen.assign(tf.cast(inputs != 0, "float32"))
            return inputs

    with TWO.scope():
        inputs = keras.Input([6])
        x = Recorder()(layers.Dropout(0.5, seed=1)(inputs))
        model = entropy_keras.EntropyModel(inputs, layers.Dense(1)(x))
        model.compile(entropy_sgd(), loss="mse", jit_compile=False)
    fit(model, np.ones([ROWS, 6], "float32"), np.ones([ROWS, 1], "float32"))
    # Statistics are averaged: 1/2 where the masks differ.
    mean = model.layers[2].seen.numpy()
    return {"differ": float((mean == 0.5).mean())}


def last_groups():
    """Updates and losses with rows that do not divide."""
    found = []
    # Of the last, the first group does not divide either.
    for rows in (ROWS + 1, ROWS + 5, STEPS * SIZE + 1):
        x, y = data(2)
        model = compiled(entropy_sgd, TWO)
        logs = fit(model, x[:rows], y[:rows])
        found.append([int(model.optimizer.iterations.numpy()), logs["loss"][0]])
    return {"found": found}


def refused():
    messages = []
    for arguments in ({"jit_compile": True}, {"steps_per_execution": 2}):
        with TWO.scope():
            model = network()
            try:
                model.compile(entropy_sgd(), loss="mse", **arguments)
            except ValueError as error:
                messages.append(str(error))
    x, y = data(1)
    rows = [(x[i : i + 8], y[i : i + 8]) for i in range(0, ROWS, 8)]
    signature = (
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None, 1], tf.float32),
    )
    padded = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=signature
    )
    for batches in (iter(rows), (pair for pair in rows), padded):
        model = compiled(entropy_sgd, TWO)
        try:
            model.fit(batches, steps_per_epoch=1, verbose=0)
        except ValueError as error:
            messages.append(str(error))
    return {"messages": messages}


def outside():
    """What is said where the parts are not of one strategy."""
    x, y = data(1)

    def compiled_outside():
        with TWO.scope():
            model = network()
        model.compile(entropy_sgd(), loss="mse")

    def made_outside():
        model = network()
        with TWO.scope():
            model.compile(entropy_sgd(), loss="mse")

    def network_outside():
        plain = keras.Sequential([keras.Input([6]), layers.Dense(1)])
        with TWO.scope():
            model = entropy_keras.EntropyModel.from_model(plain)
            model.compile(entropy_sgd(), loss="mse")

    def optimizer_outside():
        optimizer = entropy_sgd()
        compiled(lambda: optimizer, TWO)

    def trained_elsewhere():
        model = compiled(entropy_sgd, TWO)
        with tf.distribute.OneDeviceStrategy("CPU:0").scope():
            fit(model, x, y)

    messages = []
    for wrong in (
        compiled_outside, made_outside, network_outside, optimizer_outside,
        trained_elsewhere,
    ):  # fmt: skip
        try:
            wrong()
        except ValueError as error:
            messages.append(str(error))
    with TWO.scope():
        plain = network()
    plain.compile("sgd", loss="mse")  # which Keras takes
    fit(plain, x, y)
    return {"messages": messages}


def curvature():
    """The trace of a Hessian within a scope of replicas, and outside of it."""
    model = network()
    model.compile("sgd", "mse")
    x, y = data(1)

    def found(loss=None):
        objective = landscape.Objective(model, (x, y), loss)
        value = objective.value(objective.position())
        return [float(value), landscape.trace(objective).value]

    with TWO.scope():
        inside = [found(), found("mse")]
    return {"inside": inside, "outside": found()}


def sam():
    return entropy_keras.SharpnessAware(0.1, learning_rate=0.1)


def of_four():
    """What four replicas do, in a process without other strategies.

    TensorFlow cannot tell the collectives of two strategies apart.
    """
    four = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
    return {
        "entropy": average_of_single_devices(entropy_sgd, four, normalize=True),
        "sharpness_aware": average_of_single_devices(sam, four),
    }


def of_two():
    return {
        "entropy": average_of_single_devices(entropy_sgd),
        "sharpness_aware": average_of_single_devices(sam, normalize=True),
        "elastic": elastic(),
        "synchronized": synchronized(),
        "legs": legs("per_replica"),
        "short_leg": short_leg("per_replica"),
        "collectives": collectives(),
        "failure": failure(),
        "failure_half": failure("mixed_float16"),
        "noise": noise(),
        "masks": masks(),
        "landscape": curvature(),
        "last_groups": last_groups(),
        "refused": refused(),
        "outside": outside(),
    }


def more():
    """What two replicas do besides."""
    return {
        "half": average_of_single_devices(
            lambda: entropy_sgd(langevin_learning_rate=None),
            policy="mixed_bfloat16",
        ),
        "synchronized_legs": legs("synchronized"),
        "synchronized_short_leg": short_leg("synchronized"),
    }


def main():
    found = {"four": of_four, "more": more, "two": of_two}[sys.argv[1]]()
    print("RESULTS " + json.dumps(found))


if __name__ == "__main__":
    main()
