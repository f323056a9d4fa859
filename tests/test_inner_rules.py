"""A rule inside moves variables as it would in training by itself."""

import keras
import numpy as np
import pytest

import entropy_keras

optimizers = keras.optimizers
X = np.random.default_rng(0).normal(size=[40, 3]).astype("float32")
Y = X[:, :1] * 2 + 1


def decays_all(model):
    del model
    return optimizers.AdamW(0.05, weight_decay=2.0)


def excluded_by_name(model):
    rule = decays_all(model)
    rule.exclude_from_weight_decay(var_names=["bias"])
    return rule


def excluded_itself(model):
    rule = decays_all(model)
    rule.exclude_from_weight_decay(var_list=model.trainable_variables[1:])
    return rule


def excluded_layer(model):
    del model
    return optimizers.Muon(0.05, exclude_layers=["head"])


def trained(make, *, inside, constraint=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([3])
    head = keras.layers.Dense(
        1, bias_initializer="ones", kernel_constraint=constraint, name="head"
    )
    model = entropy_keras.EntropyModel(inputs, head(inputs))
    optimizer = make(model)
    if inside:
        # The end of the chain: as if the rule had been alone.
        optimizer = entropy_keras.EntropySGD(
            1.0, scope=0.0, averaging_rate=1.0, temperature=0.0,
            sampler=entropy_keras.InnerOptimizer(optimizer),
        )  # fmt: skip
    model.compile(optimizer, loss="mse", run_eagerly=True)
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize(
    ("make", "constraint"),
    [
        (excluded_by_name, None),
        (excluded_itself, None),
        (decays_all, "unit_norm"),
        (excluded_layer, None),
    ],
)
def test_what_a_rule_knows_of_variables_it_knows_inside(make, constraint):
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    if make is excluded_layer and version < (3, 13):
        pytest.skip("Keras's own Muon does not run on TensorFlow")
    alone = trained(make, inside=False, constraint=constraint)
    found = trained(make, inside=True, constraint=constraint)
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
    other = {excluded_layer: lambda _: optimizers.Muon(0.05)}
    without = trained(other.get(make, decays_all), inside=False)
    assert np.abs(alone - without).max() > 0.01


def test_a_rule_that_scales_losses_is_refused():
    rule = optimizers.SGD(0.1, loss_scale_factor=1024.0)
    with pytest.raises(ValueError, match="`loss_scale_factor` must be left o"):
        entropy_keras.InnerOptimizer(rule)
