"""Canaries: each entry of `keras_private` still is what it is taken for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import keras_private

optimizers = keras.optimizers
RULES = {
    "sgd_decay": lambda: optimizers.SGD(0.1, weight_decay=0.1),
    "sgd_ema": lambda: optimizers.SGD(
        0.1,
        momentum=0.9,
        nesterov=True,
        use_ema=True,
        ema_overwrite_frequency=2,
    ),  # fmt: skip
    "accumulating": lambda: optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "accumulating_all": lambda: optimizers.AdamW(
        optimizers.schedules.PolynomialDecay(0.1, 5, 0.0),
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=3,
        clipnorm=0.5,
    ),
    "accumulating_average": lambda: optimizers.SGD(
        0.1, gradient_accumulation_steps=3, use_ema=True, ema_momentum=0.5
    ),
    "adamw": lambda: optimizers.AdamW(0.1),
    "nadam": lambda: optimizers.Nadam(0.1),
    "lion": lambda: optimizers.Lion(0.1),
    "muon": lambda: optimizers.Muon(0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.1, momentum=0.9, centered=True),
    "adafactor": lambda: optimizers.Adafactor(0.1),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "lamb": lambda: optimizers.Lamb(0.1),
    "clipped": lambda: optimizers.SGD(
        optimizers.schedules.ExponentialDecay(0.1, 2, 0.5), clipnorm=0.5
    ),
}

if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
    del RULES["muon"]  # Keras's own does not run on TensorFlow there


def variables():
    return [
        keras.Variable(np.full([3], 2, "float32"), name="a"),
        keras.Variable(np.arange(4, dtype="float32").reshape(2, 2), name="b"),
    ]


@pytest.mark.parametrize("name", RULES)
def test_a_step_of_a_rule_assigns_what_keras_does(name):
    ours, theirs = RULES[name](), RULES[name]()
    mine, yours = variables(), variables()
    ours.build(mine)
    theirs.build(yours)

    @tf.function
    def step(gradients):
        return [
            value
            for _, value in keras_private.step_of_rule(ours, gradients, mine)
        ]

    changed = []
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradients = [
            tf.constant(rng.normal(size=v.shape), tf.float32) for v in mine
        ]
        before = [v.numpy() for v in [*mine, *ours.variables]]
        pairs = keras_private.step_of_rule(ours, gradients, mine)
        for v, value in zip([*mine, *ours.variables], before, strict=True):
            np.testing.assert_array_equal(v.numpy(), value)  # nothing yet
        graph = step(gradients)
        for (variable, value), same in zip(pairs, graph, strict=True):
            np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-6)
            variable.assign(value)
            changed.append(variable)
        theirs.apply(gradients, yours)
    assert type(ours) is type(theirs)
    for a, b in zip(
        [*mine, *ours.variables], [*yours, *theirs.variables], strict=True
    ):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    assert any(v is mine[0] for v in changed)


def test_a_rule_does_not_take_variables_that_it_was_not_built_for():
    rule = optimizers.SGD(0.1)
    rule.build(variables())
    with pytest.raises(ValueError, match="`optimizer` must be one that was"):
        keras_private.step_of_rule(rule, [tf.ones([3])] * 2, variables())


def test_updates_know_what_was_assigned():
    a, b = variables()
    with keras_private.Updates([(a, tf.zeros([3]))]) as updates:
        b.assign_add(tf.ones([2, 2]))
        a.assign(a + 1.0)
        a.assign(a + 1.0)
    found = {v.name: value.numpy().tolist() for v, value in updates.items()}
    assert found == {"a": [2, 2, 2], "b": [[1, 2], [3, 4]]}
    assert a.numpy().tolist() == [2, 2, 2]


def test_layers_within_a_model_are_all_of_them():
    inner = keras.Sequential([keras.layers.Dense(1)])
    model = keras.Sequential([inner, keras.layers.Dense(2)])
    names = {type(x).__name__ for x in keras_private.layers_within(model)}
    assert names == {"Sequential", "Dense"}
    assert len(keras_private.layers_within(model)) == 4


def test_a_copied_mask_is_what_losses_look_at():
    x = np.array([[1, 0], [2, 3]])
    masked = keras.layers.Embedding(4, 1, mask_zero=True)(x)
    target = np.array([[[1.0], [5.0]], [[1.0], [1.0]]])
    found = []
    for copied in (False, True):
        plain = tf.ones([2, 2, 1])
        if copied:
            keras_private.give_mask(plain, keras_private.mask_of(masked))
        loss = keras.losses.MeanSquaredError()
        found.append(float(loss(target, plain)))
    assert found == [4.0, 0.0]


def test_the_loss_tracker_is_the_one_that_is_shown():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    assert keras_private.loss_tracker(model) is model.metrics[0]
    assert model.metrics[0].name == "loss"


def test_building_on_symbols_creates_all_variables():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", loss="mse", metrics=["mae"])
    symbol = keras.KerasTensor((None, 3), "float32")
    target = keras.KerasTensor((None, 1), "float32")
    keras_private.build_on_symbols(model, (symbol, target, None))
    assert model.built
    assert model.optimizer.built
    assert {m.built for m in model.metrics if hasattr(m, "built")} == {True}


def test_swap_ema_weights_finds_the_average():
    rule = optimizers.SGD(0.1, use_ema=True)
    rule.build(variables())
    assert len(keras_private.moving_average(rule)) == 2


def test_what_keras_pickles_is_a_model():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    _, (content,) = model.__reduce__()
    again = keras_private.unpickled(content)
    np.testing.assert_array_equal(
        again.get_weights()[0], model.get_weights()[0]
    )
