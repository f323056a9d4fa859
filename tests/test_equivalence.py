"""50 random updates equal the NumPy version, over pairs of all settings."""

import itertools
import pathlib

import covering
import keras
import langevin
import numpy as np
import pytest
import reference
import reference_samplers as of_numpy
import tensorflow as tf

import entropy_keras

NUM_UPDATES = 50
MINIBATCH = 4
# Keras takes these through float32, so they are exact there.
PENALTY = 0.0625
MOMENTUM = 0.875
WEIGHT_DECAY = 0.125
ADAM = {"beta_1": 0.875, "beta_2": 511 / 512, "epsilon": 2**-10}
INNER_RATE = 2**-6

SAMPLERS = {
    "nesterov": (entropy_keras.SGLD(0.9), lambda: of_numpy.SGLD(0.9, True)),
    "momentum": (
        entropy_keras.SGLD(0.5, nesterov=False), lambda: of_numpy.SGLD(0.5)
    ),
    "split": (entropy_keras.SplitSGLD(), of_numpy.SplitSGLD),
    "averaged": (
        entropy_keras.SplitSGLD(average_noise=True),
        lambda: of_numpy.SplitSGLD(average=True),
    ),
    "sghmc": (entropy_keras.SGHMC(0.75), lambda: of_numpy.Inertial(0.75)),
    "sgnht": (
        entropy_keras.SGNHT(0.75), lambda: of_numpy.Inertial(0.75, "all")
    ),
    "santa": (
        entropy_keras.Santa(0.75), lambda: of_numpy.Inertial(0.75, "each")
    ),
    "perturbation": (
        entropy_keras.GaussianPerturbation(), of_numpy.Perturbation
    ),
    "adam": (
        entropy_keras.InnerOptimizer(
            keras.optimizers.Adam(INNER_RATE, **ADAM), persistent=True
        ),
        lambda: of_numpy.Inner(reference.OuterAdam(**ADAM)),
    ),
}  # fmt: skip
METRICS = {
    "identity": of_numpy.Identity,
    "relative": of_numpy.Relative,
    "rms_gradients": of_numpy.RMSGradients,
}
QUIET = entropy_keras.Displacement(subtract_noise=True)
ESTIMATORS = {
    "ema": {"averaging_rate": 0.75},
    "mean": {"averaging_rate": None, "scale_by_scope": True},
    "mean_gradient": {"averaging_rate": None, "estimator": "mean_gradient"},
    "quiet": {"averaging_rate": 0.5, "estimator": QUIET},
}
CLIPPING = {
    "unclipped": {},
    "each": {"clipnorm": 0.2},
    "all": {"global_clipnorm": 0.3},
    "value": {"clipvalue": 0.1},
}
SCOPES = {
    "scope": 0.3,
    "scoping": entropy_keras.ExponentialScope(0.1, 0.05, 2.0),
}
FACTORS = {
    "sampler": tuple(SAMPLERS),
    "estimator": tuple(ESTIMATORS),
    "clipping": tuple(CLIPPING),
    "outer": ("sgd", "nesterov", "adam"),
    "num_langevin_steps": (1, 2, 5),
    "temperature": (0.0, 1e-8, 1e-2),
    "scope": tuple(SCOPES),
    "langevin_learning_rate": (0.05, None),
    "data_weight": (0.0, 0.3),
    "start": ("anchor", "stationary"),
    "share_batch": (False, True),
    "metric": tuple(METRICS),
    "dtype": ("float32", "float64"),
}
# What a user gets who changes nothing, and the same at a temperature to see.
DEFAULTS = [
    ("nesterov", "ema", "unclipped", "sgd", 5, temperature, "scope", 0.05,
     0.0, "anchor", False, "identity", dtype)
    for temperature, dtype in ((1e-8, "float32"), (1e-2, "float64"))
]  # fmt: skip


def is_allowed(chosen):
    """Whether the package takes what has been chosen so far of a case."""
    case = {list(FACTORS)[i]: value for i, value in chosen.items()}
    estimator = case.get("estimator")
    return {
        "sgnht": estimator != "quiet",
        "santa": estimator != "quiet",
        "perturbation": estimator in {None, "mean_gradient"}
        and case.get("langevin_learning_rate") is None,
        # Whose learning rate is its own.
        "adam": case.get("langevin_learning_rate") is None,
    }.get(case.get("sampler"), True)


CASES = covering.cases(list(FACTORS.values()), DEFAULTS, is_allowed)


def make_case(values):
    """Returns the arguments of EntropySGD and what else the case varies."""
    case = dict(zip(FACTORS, values, strict=True))
    kept = (
        "num_langevin_steps", "temperature", "langevin_learning_rate",
        "data_weight", "start", "share_batch", "metric",
    )  # fmt: skip
    sampler, of_reference = SAMPLERS[case["sampler"]]
    arguments = {
        **{name: case[name] for name in kept},
        "scope": SCOPES[case["scope"]],
        "sampler": sampler,
        **ESTIMATORS[case["estimator"]],
        **CLIPPING[case["clipping"]],
        "seed": CASES.index(values),
    }
    return arguments, of_reference(), case["outer"], case["dtype"]


def learning_rate_at(update, outer):
    base = {"sgd": 2**-2, "nesterov": 2**-4, "adam": 2**-7}[outer]
    return base * 0.5 ** (update // 20)


def make_model(arguments, outer):
    schedule = keras.optimizers.schedules.ExponentialDecay(
        learning_rate_at(0, outer), 20, 0.5, staircase=True
    )
    if outer == "sgd":
        arguments = {
            "learning_rate": schedule,
            "weight_decay": WEIGHT_DECAY,
            **arguments,
        }
    elif outer == "nesterov":
        arguments = arguments | {
            "outer_optimizer": keras.optimizers.SGD(
                schedule, momentum=MOMENTUM, nesterov=True
            )
        }
    else:
        arguments = arguments | {
            "outer_optimizer": keras.optimizers.Adam(schedule, **ADAM)
        }
    inputs = keras.Input([3])
    hidden = keras.layers.Dense(
        4, "tanh", kernel_regularizer=keras.regularizers.L2(PENALTY)
    )(inputs)
    outputs = keras.layers.Dense(2, use_bias=False)(hidden)
    model = entropy_keras.EntropyModel(inputs, outputs)
    model.compile(entropy_keras.EntropySGD(**arguments), loss="mse")
    return model


def run_reference(weights, groups, arguments, sampler, outer, dtype):
    gradient = reference.Network(PENALTY).gradient
    optimizer = {
        "sgd": reference.OuterSGD(weight_decay=WEIGHT_DECAY),
        "nesterov": reference.OuterSGD(momentum=MOMENTUM),
        "adam": reference.OuterAdam(**ADAM),
    }[outer]
    metric = METRICS[arguments["metric"]]()
    shapes = tuple(w.shape for w in weights)
    for update, (x, y) in enumerate(groups):
        learning_rate = learning_rate_at(update, outer)
        step_size = arguments["langevin_learning_rate"]
        if isinstance(sampler, of_numpy.Inner):
            step_size = INNER_RATE
        elif step_size is None:
            step_size = 0.1 * learning_rate
        scope = arguments["scope"]
        if not isinstance(scope, float):
            scope = min(0.1 * 1.05**update, 2.0)

        def draw(step, stream, update=update):
            return langevin.compiled_draws(
                shapes, tf.as_dtype(dtype), arguments["seed"], stream
            )(update, step)

        def minibatch(index, x=x, y=y):
            if arguments["share_batch"]:
                return x, y
            rows = slice(MINIBATCH * index, MINIBATCH * (index + 1))
            return x[rows], y[rows]

        settings = {
            "estimator": "displacement",
            "scale_by_scope": False,
            "quiet": arguments.get("estimator") is QUIET,
        }
        settings |= arguments | {
            "L": arguments["num_langevin_steps"],
            "h": step_size,
            "scope": scope,
        }
        total = reference.entropy_gradient(
            gradient, weights, minibatch, draw, settings, sampler, metric
        )
        weights = optimizer.apply(weights, total, learning_rate)
    return weights


def test_each_pair_of_values_meets():
    factors = list(FACTORS.values())
    for one, other in itertools.combinations(range(len(factors)), 2):
        met = {(case[one], case[other]) for case in CASES}
        possible = {
            (a, b)
            for a, b in itertools.product(factors[one], factors[other])
            if is_allowed({one: a, other: b})
        }
        assert met == possible


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
def test_updates_equal_numpy(case):
    arguments, sampler, outer, dtype = make_case(case)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        model = make_model(arguments, outer)
        rng = np.random.default_rng(arguments["seed"])
        rows = MINIBATCH * model.optimizer.minibatches_per_update
        groups = [
            (rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2)))
            for _ in range(NUM_UPDATES)
        ]
        weights = [w.astype("float64") for w in model.get_weights()]
        expected = run_reference(
            weights, groups, arguments, sampler, outer, dtype
        )
        for x, y in groups:
            model.train_on_batch(x.astype(dtype), y.astype(dtype))
        actual = model.get_weights()
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    moved = zip(expected, weights, strict=True)
    assert max(abs(after - before).max() for after, before in moved) > 0.005
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * abs(e).max())


def test_the_reference_is_independent():
    for module in (reference, of_numpy):
        source = pathlib.Path(module.__file__).read_text()
        assert "entropy_keras" not in source.split('"""', 2)[2]
