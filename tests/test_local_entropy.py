"""The local entropy against quadrature, closed forms and annealed sampling."""

import functools
import warnings

import keras
import numpy as np
import pytest

from entropy_keras import landscape
from entropy_keras.landscape.chains import Chains
from entropy_keras.landscape.entropy import estimate_local_entropy
from entropy_keras.landscape.plan import Plan

GRID = np.linspace(-12.0, 12.0, 20_001)
INTEGRATION = "thermodynamic_integration"


def double_well(x):
    return 0.25 * x**2 + 2.0 * np.e ** (-(x**2))


def cartoon(x):
    """A wide valley at -2 and a sharp, deeper one at 3."""
    wide, sharp = np.e ** (-((x + 2) ** 2) / 2), np.e ** (-200 * (x - 3) ** 2)
    return 6 - 4 * wide - 6 * sharp + 0.002 * (x - 0.5) ** 4


def one_weight(loss, weight):
    """Returns a model of one weight, its data and loss: f is of the weight."""
    model = keras.Sequential([
        keras.Input([1]),
        keras.layers.Dense(1, use_bias=False),
    ])
    model.set_weights([np.full([1, 1], weight)])
    data = np.ones([1, 1], "float32"), np.zeros([1, 1], "float32")
    return model, data, lambda _, prediction: loss(prediction)


def integrated(loss, weight, scope, temperature=1.0):
    """Returns the truth for one weight, and the derivative of -F."""
    found = landscape.local_entropy_1d(
        loss, [weight], scope, temperature, grid=GRID
    )
    flat = landscape.flat_local_entropy(1, scope, temperature)
    return found.value[0] - flat, found.gradient[0]


def regression(size, rows, rest=0.0):
    """Returns a linear model, data that it fits but for `rest`, its Hessian."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=[rows, size]) * np.logspace(0, -2, size)
    targets = rng.normal(size=[rows, 1]) * rest
    model = keras.Sequential([
        keras.Input([size]),
        keras.layers.Dense(1, use_bias=False),
    ])
    model.set_weights([rng.normal(size=[size, 1])])
    data = inputs.astype("float32"), targets.astype("float32")
    return model, data, 2 / rows * inputs.T @ inputs


def closed_form(model, hessian, scope, temperature=1.0):
    """Returns the truth for a regression without rest, and gradient of -F."""
    (weights,) = model.get_weights()
    found = landscape.quadratic_local_entropy(
        hessian, weights[:, 0], scope, temperature
    )
    flat = landscape.flat_local_entropy(len(hessian), scope, temperature)
    return found.value - flat, found.gradient


def one_weight_problem(loss, weight, **plan):
    truth, _ = integrated(loss, weight, plan["scope"])
    return Chains(landscape.Objective(*one_weight(loss, weight))), truth, plan


def regression_problem(size, rows, minibatch_size=None, **plan):
    model, data, hessian = regression(size, rows)
    truth, _ = closed_form(model, hessian, plan["scope"])
    chains = Chains(landscape.Objective(model, data, "mse"), minibatch_size)
    return chains, truth, plan


PROBLEMS = {
    "double well": lambda: one_weight_problem(double_well, 0.5, scope=1.0),
    "cartoon": lambda: one_weight_problem(
        cartoon, -2.0, scope=1.0, num_steps=800
    ),
    "50 weights": lambda: regression_problem(50, 100, scope=0.5, num_steps=800),
    "500 weights": lambda: regression_problem(
        500, 200, scope=1.0, num_steps=800
    ),
    "minibatches": lambda: regression_problem(
        5, 200, minibatch_size=50, scope=1.0, num_steps=800
    ),
}


@functools.cache
def problem(name):
    return PROBLEMS[name]()


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def runs(name, method, seeds=20):
    """Returns seeded estimates of a problem, and the truth."""
    chains, truth, plan = problem(name)
    found = [
        quietly(estimate_local_entropy, chains, Plan(**plan, seed=seed), method)
        for seed in range(seeds)
    ]
    return found, truth


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_truth_is_inside_the_error_bar(name):
    found, truth = runs(name, INTEGRATION)
    inside = [abs(each.estimate - truth) < each.error_bar for each in found]
    print([(each.estimate - truth) / each.standard_error for each in found])
    assert sum(inside) >= 19
    for each in found:
        assert each.lower_bound < truth < each.upper_bound
        assert each.method == INTEGRATION
        assert each.error_bar < 0.15 * abs(truth)
        # Rectangles bound it more tightly than the outermost two.
        assert each.upper_bound - each.lower_bound < abs(truth)
    # A bar that is far too long would be no bar.
    errors = np.array([each.estimate - truth for each in found])
    bars = np.array([each.standard_error for each in found])
    assert 0.5 < np.sqrt(np.mean((errors / bars) ** 2)) < 1.8
