"""Bad input: an error that names the argument, its value and the cure."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras

EntropySGD = entropy_keras.EntropySGD
ADAM = keras.optimizers.Adam

BAD_ARGUMENTS = [
    ({"learning_rate": -1.0}, "learning_rate", "-1.0"),
    ({"learning_rate": "fast"}, "learning_rate", "fast"),
    ({"learning_rate": float("nan")}, "learning_rate", "nan"),
    ({"scope": -1.0}, "scope", "-1.0"),
    ({"scope": "0.03"}, "scope", "0.03"),
    ({"scope": None}, "scope", "None"),
    ({"scope": float("inf")}, "scope", "inf"),
    ({"num_langevin_steps": -1}, "num_langevin_steps", "-1"),
    ({"num_langevin_steps": 2.5}, "num_langevin_steps", "2.5"),
    ({"num_langevin_steps": 2**16}, "num_langevin_steps", "65536"),
    ({"num_langevin_steps": True}, "num_langevin_steps", "True"),
    ({"num_langevin_steps": 0}, "data_weight", "0.0"),
    ({"langevin_learning_rate": 0.0}, "langevin_learning_rate", "0.0"),
    ({"langevin_learning_rate": -0.1}, "langevin_learning_rate", "-0.1"),
    ({"temperature": -1e-9}, "temperature", "-1e-09"),
    ({"temperature": None}, "temperature", "None"),
    ({"averaging_rate": 0.0}, "averaging_rate", "0.0"),
    ({"averaging_rate": 1.5}, "averaging_rate", "1.5"),
    (
        {"averaging_rate": 0.5, "estimator": "mean_gradient"},
        "averaging_rate",
        "0.5",
    ),
    (
        {"averaging_rate": 0.75, "estimator": "mean_gradient"},
        "averaging_rate",
        "0.75",
    ),
    ({"data_weight": -0.1}, "data_weight", "-0.1"),
    ({"data_weight": "0"}, "data_weight", "0"),
    ({"scale_by_scope": 1}, "scale_by_scope", "1"),
    (
        {"scale_by_scope": True, "estimator": "mean_gradient"},
        "scale_by_scope",
        "True",
    ),
    (
        {
            "scope": 0.0,
            "sampler": "gaussian_perturbation",
            "estimator": "mean_gradient",
        },
        "scope",
        "0.0",
    ),
    ({"estimator": "mean"}, "estimator", "mean"),
    ({"sampler": "hmc"}, "sampler", "'hmc'"),
    ({"sampler": None}, "sampler", "None"),
    ({"start": "here"}, "start", "here"),
    ({"start": "stationary", "scope": 0.0}, "scope", "0.0"),
    ({"share_batch": "yes"}, "share_batch", "yes"),
    ({"seed": 1.5}, "seed", "1.5"),
    ({"seed": 2**63}, "seed", str(2**63)),
    ({"clipnorm": -1.0}, "clipnorm", "-1.0"),
    ({"clipvalue": 0.0}, "clipvalue", "0.0"),
    ({"global_clipnorm": "1"}, "global_clipnorm", "1"),
    ({"weight_decay": -0.1}, "weight_decay", "-0.1"),
    ({"loss_scale_factor": 2.0}, "loss_scale_factor", "2.0"),
    ({"outer_optimizer": "adam"}, "outer_optimizer", "adam"),
    ({"outer_optimizer": ADAM(), "learning_rate": 0.1}, "learning_rate", "0.1"),
    ({"outer_optimizer": ADAM(), "weight_decay": 0.1}, "weight_decay", "0.1"),
    ({"outer_optimizer": ADAM(), "use_ema": True}, "use_ema", "True"),
    (
        {"outer_optimizer": ADAM(), "gradient_accumulation_steps": 2},
        "gradient_accumulation_steps",
        "2",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    BAD_ARGUMENTS,
    ids=[str(i) for i in range(len(BAD_ARGUMENTS))],
)
def test_bad_argument_of_the_optimizer(arguments, name, value):
    with pytest.raises(ValueError, match=f"^`{name}` must be ") as error:
        EntropySGD(**arguments)
    assert f"Received: {name}={value}" in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"scope": 20.0},
        {"scope": 2.0, "langevin_learning_rate": 1.0},
        {"scope": 30.0, "langevin_learning_rate": None},
        {"scope": entropy_keras.ExponentialScope(0.1, 1e-3, 50.0)},
        {"scope": 20.0, "outer_optimizer": keras.optimizers.SGD(1.0)},
    ],
)
def test_an_inner_loop_that_diverges_is_refused(arguments):
    with pytest.raises(
        ValueError, match=r"`langevin_learning_rate` times `scope` must stay"
    ) as error:
        EntropySGD(**arguments)
    assert "split_sgld" in str(error.value)
    EntropySGD(**arguments, sampler="split_sgld")  # which is stable


def test_a_scope_for_each_variable_is_looked_at_once_there_are_some():
    variables = [keras.Variable([1.0], name=name) for name in "ab"]

    def scope(largest):
        return entropy_keras.PerVariable(
            lambda variable: largest if variable.name == "b" else 0.1
        )

    EntropySGD(scope=scope(19.0)).build(variables)
    with pytest.raises(ValueError, match=r"must stay below 2.*scope=20\.0"):
        EntropySGD(scope=scope(20.0)).build(variables)
    with pytest.raises(ValueError, match="`scope` must be positive with start"):
        EntropySGD(scope=scope(0.0), start="stationary").build(variables)


def test_an_outer_optimizer_cannot_be_entropy_sgd():
    with pytest.raises(ValueError, match="`outer_optimizer` must be"):
        EntropySGD(outer_optimizer=EntropySGD())


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match="scop"):
        EntropySGD(scop=1.0)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, "0.9", None])
def test_bad_momentum_of_the_sampler(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be a float in \[0"):
        entropy_keras.SGLD(momentum)


def model_of(cls=entropy_keras.EntropyModel, **arguments):
    inputs = keras.Input([2])
    model = cls(inputs, keras.layers.Dense(1)(inputs))
    model.compile(EntropySGD(**arguments), loss="mse")
    return model


X = np.ones([4, 2], "float32")
Y = np.ones([4, 1], "float32")


def test_a_plain_model_is_refused_at_the_first_step():
    model = model_of(keras.Model)
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`EntropyModel.from_model\(model\)`"):
        model.fit(X, Y, verbose=0)
    assert (model.get_weights()[0] == before[0]).all()


def test_a_gradient_from_elsewhere_is_refused():
    model = model_of()
    variables = model.trainable_variables
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not supply"):
        model.optimizer.apply([tf.ones_like(v) for v in variables], variables)
    assert (model.get_weights()[0] == before[0]).all()


EMPTY = tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(2)


def generator(*arrays):
    yield arrays


BAD_DATA = {
    "no rows": ((X[:0], Y[:0]), "x"),
    "no batches": ((EMPTY,), "x"),
    "unknown number of no batches": ((EMPTY.filter(lambda x, y: True),), "x"),
    "no labels": ((X,), "y"),
    "no labels in the data set": (
        (tf.data.Dataset.from_tensor_slices(X).batch(2),),
        "y",
    ),
    "no labels in the generator": ((generator(X),), "y"),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(kind):
    data, name = BAD_DATA[kind]
    model = model_of()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"^`{name}` must be") as error:
        model.fit(*data, verbose=0, shuffle=False)
    assert f"Received: {name}=" in str(error.value)
    assert (model.get_weights()[0] == before[0]).all()


@pytest.mark.parametrize(
    ("x", "batch_size", "message"),
    [
        (X, 0, "`batch_size` must be a positive"),
        (object(), None, "`x` must be arrays"),
    ],
)
def test_bad_arguments_of_fit(x, batch_size, message):
    model = model_of()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(x, Y, batch_size=batch_size, verbose=0)
    assert (model.get_weights()[0] == before[0]).all()


def test_from_model_of_an_unbuilt_sequential():
    model = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="`model` must be built"):
        entropy_keras.EntropyModel.from_model(model)


def test_from_model_of_a_model_with_its_own_train_step():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    with pytest.raises(ValueError, match="without a `train_step` of its own"):
        entropy_keras.EntropyModel.from_model(Own())


def test_a_number_that_is_not_finite_on_one_batch():
    model = model_of()
    before = model.get_weights()
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        model.train_on_batch(X * np.nan, Y)
    assert (model.get_weights()[0] == before[0]).all()
    model.train_on_batch(X, Y)  # the flag is down again


def test_from_model_of_something_else():
    with pytest.raises(ValueError, match="`model` must be"):
        entropy_keras.EntropyModel.from_model(keras.layers.Dense(1))


def test_fit_before_compile_is_keras_error():
    inputs = keras.Input([2])
    model = entropy_keras.EntropyModel(inputs, inputs)
    with pytest.raises(ValueError, match="compile"):
        model.fit(X, X)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 0.1, 1.0), "initial_scope"),
        ((0.1, -0.1, 1.0), "growth_rate"),
        ((0.1, 0.1, 0.05), "maximum_scope"),
        ((0.1, 0.1, "1"), "maximum_scope"),
    ],
)
def test_bad_scoping(arguments, name):
    with pytest.raises(ValueError, match=f"^`{name}` must be"):
        entropy_keras.ExponentialScope(*arguments)


@pytest.mark.parametrize("batch_size", [0, 1.5, None])
def test_bad_batch_size_of_recalibration(batch_size):
    with pytest.raises(ValueError, match="^`batch_size` must be a positive"):
        entropy_keras.callbacks.RecalibrateBatchNorm(X, batch_size=batch_size)
