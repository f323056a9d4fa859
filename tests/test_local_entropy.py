"""The local entropy against quadrature, closed forms and annealed sampling."""

import functools
import warnings

import keras
import numpy as np
import pytest
import quadratic
import tensorflow as tf
from annealing import annealed_importance

from entropy_keras import landscape
from entropy_keras.landscape import Chains
from entropy_keras.landscape import Plan
from entropy_keras.landscape import entropy_estimators
from entropy_keras.landscape import estimate_local_entropy
from entropy_keras.landscape import gaussian
from entropy_keras.landscape import lanczos
from entropy_keras.landscape import mixing
from entropy_keras.landscape.mixing import diagnose
from entropy_keras.landscape.products import operator
from entropy_keras.samplers import SplitSGLD

GRID = np.linspace(-12.0, 12.0, 20_001)
INTEGRATION = "thermodynamic_integration"
# The second of three has mixed worst.
UNEVEN = mixing.Diagnosis(
    np.ones(3),
    np.full(3, 0.1),
    np.array([300.0, 60.0, 100.0]),
    np.array([1.0, 1.1, 1.05]),
    ["", "", ""],
)


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


def regression(size, rows):
    """Returns a linear model, data that zero weights fit, and its Hessian."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=[rows, size]) * np.logspace(0, -2, size)
    model = keras.Sequential([
        keras.Input([size]),
        keras.layers.Dense(1, use_bias=False),
    ])
    model.set_weights([rng.normal(size=[size, 1])])
    data = inputs.astype("float32"), np.zeros([rows, 1], "float32")
    return model, data, 2 / rows * inputs.T @ inputs


def closed_form(model, hessian, scope, temperature=1.0):
    """Returns the truth for a regression, and the gradient of -F."""
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


@functools.cache
def trained_network():
    """Returns a network of 51 weights in its valley, and its data."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=[24, 4]).astype("float32")
    noisy = inputs[:, :3] + 0.5 * rng.normal(size=[24, 3])
    data = inputs, noisy.argmax(1).astype("int32")
    model = keras.Sequential([
        keras.Input([4]),
        keras.layers.Dense(6, "relu"),
        keras.layers.Dense(3),
    ])
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for _ in range(200):
        model.train_on_batch(*data)
    return model, data


def network_loss(positions):
    """Returns the loss of the network at positions, written by hand."""
    _, (inputs, labels) = trained_network()
    matrix, bias, last, last_bias = tf.split(positions, [24, 6, 18, 3], -1)
    hidden = inputs.astype("float64") @ tf.reshape(matrix, [-1, 4, 6])
    hidden = tf.nn.relu(hidden + bias[:, None])
    scores = hidden @ tf.reshape(last, [-1, 6, 3]) + last_bias[:, None]
    log_sum = tf.reduce_logsumexp(scores, -1)
    right = tf.reduce_sum(scores * tf.one_hot(labels, 3, dtype="float64"), -1)
    return tf.reduce_mean(log_sum - right, -1)


def network_problem(**plan):
    model, data = trained_network()
    objective = landscape.Objective(model, data)
    scope, temperature = plan["scope"], plan["temperature"]
    truth, error = annealed_importance(
        network_loss,
        objective.position().numpy(),
        scope,
        temperature,
        step_size=0.5 * temperature / (1.0 + scope),
    )
    assert error < 0.01 * abs(truth)
    return Chains(objective), truth, plan


PROBLEMS = {
    "double well": lambda: one_weight_problem(
        double_well, 0.5, scope=1.0, num_steps=300
    ),
    "cartoon": lambda: one_weight_problem(cartoon, -2.0, scope=1.0),
    "50 weights": lambda: regression_problem(50, 100, scope=0.5),
    "300 weights": lambda: regression_problem(
        300, 150, scope=1.0, num_steps=600
    ),
    "minibatches": lambda: regression_problem(
        5, 200, minibatch_size=50, scope=1.0
    ),
    "network": lambda: network_problem(
        scope=0.5, temperature=0.1, num_steps=600
    ),
}


@functools.cache
def problem(name):
    return PROBLEMS[name]()


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def runs(name, method):
    """Returns 20 seeded estimates of a problem, and the truth."""
    chains, truth, plan = problem(name)
    found = [
        quietly(
            estimate_local_entropy,
            chains,
            Plan(**plan, seed=seed),
            method,
            num_nodes=5,
        )
        for seed in range(20)
    ]
    return found, truth


@pytest.mark.parametrize(("scope", "temperature"), [(1.0, 1.0), (0.5, 0.1)])
def test_annealed_importance_is_the_closed_form(scope, temperature):
    curvatures = np.logspace(-2, 0.7, 40)
    displacement = np.random.default_rng(0).normal(size=40)
    found, error = annealed_importance(
        lambda x: tf.reduce_sum(curvatures * x**2, -1) / 2,
        displacement,
        scope,
        temperature,
        step_size=0.1 * temperature,
    )
    truth = landscape.quadratic_local_entropy(
        np.diag(curvatures), displacement, scope, temperature
    ).value - landscape.flat_local_entropy(40, scope, temperature)
    assert abs(found - truth) < 3 * error
    assert error < 0.01 * abs(truth)


def test_the_network_by_hand_is_that_of_keras():
    model, data = trained_network()
    position = landscape.Objective(model, data).position()[None]
    loss = network_loss(tf.cast(position, tf.float64))
    assert float(loss[0]) == pytest.approx(
        model.evaluate(*data, verbose=0), rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(
            pytest.param(name, INTEGRATION, marks=pytest.mark.nightly)
            for name in PROBLEMS
            if name != "50 weights"
        ),
        ("50 weights", INTEGRATION),
        ("double well", "monte_carlo"),
        *(
            pytest.param("network", method, marks=pytest.mark.nightly)
            for method in ("monte_carlo", "importance_sampling")
        ),
    ],
)
def test_truth_is_inside_the_error_bar(name, method):
    found, truth = runs(name, method)
    inside = [abs(each.estimate - truth) < each.error_bar for each in found]
    assert sum(inside) >= 19
    assert all(each.lower_bound < truth < each.upper_bound for each in found)
    found = [each for each in found if each.converged]
    for each in found:
        assert each.method == method
        assert each.error_bar < 0.15 * abs(truth)
        if method == INTEGRATION:
            # Rectangles bound it more tightly than the outermost two.
            assert each.upper_bound - each.lower_bound < abs(truth)
    # A bar that is far too long would be no bar.
    errors = np.array([each.estimate - truth for each in found])
    bars = np.array([each.standard_error for each in found])
    assert 0.5 < np.sqrt(np.mean((errors / bars) ** 2)) < 1.8


def test_auto_samples_independently_only_where_that_suffices():
    for name, method in {
        "double well": "monte_carlo",
        "300 weights": "importance_sampling",
        "minibatches": INTEGRATION,  # biased by exp
    }.items():
        chains, truth, plan = problem(name)
        found = estimate_local_entropy(chains, Plan(**plan))
        assert found.method == method
        assert abs(found.estimate - truth) < found.error_bar
        assert found.error_bar == 3 * found.standard_error


def test_the_same_seed_gives_the_same_without_compiling_again(monkeypatch):
    traced = []
    step = SplitSGLD.move

    def traced_step(*arguments, **options):
        traced.append("step")
        return step(*arguments, **options)

    def loss(_, weight):
        traced.append("loss")
        return double_well(weight)

    monkeypatch.setattr(SplitSGLD, "move", traced_step)

    model, data, _ = one_weight(double_well, 0.5)
    chains = Chains(landscape.Objective(model, data, loss))

    def found(seed=0, scope=1.0):
        plan = Plan(scope, num_steps=200, seed=seed)
        return quietly(estimate_local_entropy, chains, plan, INTEGRATION)

    first = found()
    compiled = len(traced)
    assert found() == first
    assert found(seed=1) != first
    model.set_weights([np.full([1, 1], 2.0)])
    assert found(scope=50.0).estimate == pytest.approx(
        integrated(double_well, 2.0, 50.0)[0], abs=0.05
    )
    assert len(traced) == compiled
    model.set_weights([np.full([1, 1], 0.5)])
    again = quietly(
        landscape.local_entropy,
        model,
        data,
        loss,
        scope=1.0,
        method=INTEGRATION,
        num_steps=200,
    )
    assert again == first


@pytest.mark.parametrize("name", ["50 weights", "300 weights", "network"])
def test_importance_sampling_is_right_where_the_gaussian_is_not(name):
    chains, truth, plan = problem(name)
    found = estimate_local_entropy(chains, Plan(**plan), "importance_sampling")
    assert found.converged
    assert found.method == "importance_sampling"
    assert abs(found.estimate - truth) < found.error_bar + 1e-5 * abs(truth)
    assert found.lower_bound - 1e-5 * abs(truth) < truth
    assert found.error_bar < 0.1 * abs(truth)
    if name == "network":  # There q alone is far off.
        objective = chains.objective
        hessian = operator(objective, chains.hessian_product)
        (run,) = lanczos.runs(hessian, 100, 1, 0)
        law = gaussian.fit(objective, run, Plan(**plan))
        guess = law.local_entropy - float(objective.value(objective.position()))
        assert abs(guess - truth) > 2 * found.error_bar


def test_a_gaussian_is_drawn_as_it_is_weighed():
    # Curved both ways along two directions, sloping along all four.
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=[4, 4]))
    law = gaussian.Gaussian(
        np.array([1.0, -2.0, 0.5, 0.0]),
        basis[:2],
        np.array([6.0, -0.5]),
        Plan(scope=2.0, temperature=0.7),
    )
    hessian = basis[:2].T * law.curvatures @ basis[:2]
    precision = hessian + 2.0 * np.eye(4)
    rng = np.random.default_rng(0)
    draws, values = zip(*(law.draw(rng) for _ in range(20_000)), strict=True)
    draws = np.array(draws)
    covariance = 0.7 * np.linalg.inv(precision)
    error = np.sqrt(np.diag(covariance) / 20_000)
    mean = -np.linalg.solve(precision, law.gradient)
    assert (np.abs(draws.mean(0) - mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.02)
    expected = law.gradient @ draws[0] + draws[0] @ hessian @ draws[0] / 2
    assert values[0] == pytest.approx(expected)
    truth = -0.5 * mean @ law.gradient
    truth -= 0.35 * np.linalg.slogdet(precision / 2.0)[1]
    assert law.local_entropy == pytest.approx(truth)


@pytest.mark.parametrize("exact_up_to", [2000, 10])
def test_laplace_is_the_closed_form_of_quadratics(monkeypatch, exact_up_to):
    monkeypatch.setattr(entropy_estimators, "_EXACT_HESSIAN_UP_TO", exact_up_to)
    chains, truth, plan = problem("50 weights")
    found = estimate_local_entropy(chains, Plan(**plan), "laplace")
    assert (found.standard_error > 0) == (exact_up_to == 10)
    assert abs(found.estimate - truth) < found.error_bar + 1e-4 * abs(truth)
    assert found.lower_bound < truth < found.upper_bound


def test_laplace_has_no_value_if_its_equations_remain_unsolved(monkeypatch):
    monkeypatch.setattr(
        entropy_estimators, "cg", lambda operator, right, rtol: (right, 1)
    )
    chains, _, plan = problem("50 weights")
    found = quietly(estimate_local_entropy, chains, Plan(**plan), "laplace")
    assert "conjugate gradients" in found.reason
    assert np.isnan(found.estimate)


def test_laplace_has_no_value_where_curvature_exceeds_the_pull():
    chains = Chains(landscape.Objective(*one_weight(double_well, 0.0)))
    for scope, reason in {4.0: "", 3.0: "has the eigenvalue -3.5"}.items():
        truth, _ = integrated(double_well, 0.0, scope)
        found = quietly(estimate_local_entropy, chains, Plan(scope), "laplace")
        assert reason in found.reason
        assert found.converged == np.isfinite(found.estimate) == (not reason)
        assert found.lower_bound < truth < found.upper_bound


@pytest.mark.parametrize(
    ("name", "method", "changes", "reason"),
    [
        ("cartoon", INTEGRATION, {"num_steps": 30}, "independent samples, few"),
        ("300 weights", INTEGRATION, {"num_steps": 12}, "split R-hat is"),
        ("50 weights", INTEGRATION, {"step_size": 1.0}, "curvature is 2."),
        ("50 weights", INTEGRATION, {"step_size": 9.0}, "loss is not finite"),
        ("300 weights", "monte_carlo", {}, "draws are worth"),
    ],
)
def test_what_cannot_be_trusted_is_withheld_but_bounded(
    name, method, changes, reason
):
    chains, truth, plan = problem(name)
    plan = Plan(**plan | changes)
    with pytest.warns(UserWarning, match="is only bounded, by .*" + reason):
        found = estimate_local_entropy(chains, plan, method)
    assert not found.converged
    assert np.isnan(found.estimate)
    assert np.isnan(found.standard_error)
    assert found.lower_bound < truth < found.upper_bound


@pytest.mark.parametrize("method", [INTEGRATION, "monte_carlo"])
def test_of_a_loss_that_is_not_finite_only_the_smallest_is_known(method):
    chains = Chains(landscape.Objective(*one_weight(lambda x: x * np.nan, 1.0)))
    found = quietly(
        estimate_local_entropy, chains, Plan(1.0), method, minimum_loss=-2.0
    )
    assert "the loss is not finite" in found.reason
    assert np.isnan(found.estimate)
    assert (found.lower_bound, found.upper_bound) == (-np.inf, 2.0)


def test_rectangles_bound_the_integral_of_a_falling_function():
    def bounds(*couplings, error=0.0, minimum=0.25):
        s = np.array(couplings)
        return entropy_estimators.bounds(s, 1 / (1 + s), s * error, minimum)

    fine = bounds(*np.linspace(0, 1, 1001))
    np.testing.assert_allclose(fine, -np.log(2), atol=3e-4)
    assert fine[0] < -np.log(2) < fine[1]
    assert bounds(0.0, 1.0) == (-1.0, -0.5)
    # Without the value at 1 the smallest loss takes its place.
    assert bounds(0.0, 0.5) == pytest.approx((-5 / 6, -1 / 3 - 1 / 8))
    assert bounds(0.5, 1.0) == pytest.approx((-np.inf, -1 / 3 - 1 / 4))
    assert bounds() == (-np.inf, -0.25)
    assert bounds(0.0, 0.5, error=0.4) == pytest.approx(
        (-5 / 6 - 3 * 0.1, -0.25)  # The upper one ends at the smallest loss.
    )


@pytest.mark.parametrize("ratio", [0.0, 1.0, 100.0, 10_000.0])
def test_eight_nodes_integrate_quadratic_losses(ratio):
    nodes, weights = Plan(scope=2.0).quadrature(8, 2.0 * ratio)
    assert weights.sum() == pytest.approx(1.0, abs=1e-4)
    for share in (1e-4, 0.01, 0.3, 1.0):
        curvature = 2.0 * ratio * share
        integral = weights @ (curvature / (2.0 + nodes * curvature))
        assert integral == pytest.approx(np.log1p(ratio * share), rel=1e-4)


def test_minibatches_are_drawn_anew_and_without_bias():
    model, (inputs, targets), _ = regression(5, 200)
    objective = landscape.Objective(
        model, (inputs, targets), "mse", batch_size=80
    )
    losses = np.square(inputs @ model.get_weights()[0])[:, 0]
    # A pull so strong that all draws are at the weights of the model.
    draws = Chains(objective, minibatch_size=10).draw(Plan(scope=1e12))
    deviation = losses.std() / np.sqrt(10)
    assert draws.std() == pytest.approx(deviation, rel=0.1)
    error = deviation / np.sqrt(len(draws))
    assert draws.mean() == pytest.approx(losses.mean(), abs=4 * error)


def test_what_chains_see_on_their_way_does_not_count():
    # From the weight 1 they fall, nearly without noise, to 1 / 201.
    chains = Chains(
        landscape.Objective(*one_weight(lambda weight: 100 * weight**2, 1.0))
    )
    plan = Plan(1.0, temperature=1e-12, num_steps=60)
    found = chains.run(plan, [1.0], plan.step_sizes(np.ones(1), 200.0))
    assert found.losses.shape == (40, 4, 1)
    np.testing.assert_allclose(found.losses, 100 / 201**2, rtol=2e-3)
    np.testing.assert_allclose(found.displacements, -200 / 201, rtol=1e-4)
    np.testing.assert_allclose(found.gradients, 200 / 201, rtol=1e-3)


@pytest.mark.parametrize(
    ("step_size", "sampler"), [(0.05, None), (0.6, None), (0.6, "sghmc")]
)
def test_chains_have_the_variance_of_quadratics_at_any_step_size(
    step_size, sampler
):
    # Of f = w**2 about 0: <f> = T / (2 s + scope) at coupling s.
    chains = Chains(
        landscape.Objective(*one_weight(lambda weight: weight**2, 0.0)),
        sampler=sampler,
    )
    plan = Plan(1.0, 0.5, num_chains=32, num_steps=1500, step_size=step_size)
    found = diagnose(
        chains.run(plan, [0.5, 1.0], [step_size] * 2).losses, np.zeros(2)
    )
    assert (found.standard_error < 0.03 * found.mean).all()
    distance = (
        np.abs(found.mean - [0.5 / 2, 0.5 / 3]) - 3 * found.standard_error
    )
    assert (distance < 0).all()
    # Other seeds, other noise: with the same, chains would come together.
    last, other = (
        chains.run(
            Plan(1.0, num_steps=300, step_size=step_size, seed=seed),
            [1.0],
            [step_size],
        ).losses[-1]
        for seed in (0, 1)
    )
    assert np.abs(last - other).min() > 1e-4


def test_diagnosis_knows_how_much_correlated_chains_are_worth():
    rng = np.random.default_rng(0)
    chains = rng.normal(size=[4000, 4, 3])
    for step in range(1, 4000):
        chains[step, :, 1] += 0.8 * chains[step - 1, :, 1]
    chains[:, :, 2] = 0.0
    found = diagnose(chains, np.zeros(3))
    np.testing.assert_allclose(
        found.effective_sample_size, [16_000, 16_000 / 9, 16_000], rtol=0.15
    )
    np.testing.assert_allclose(found.r_hat, 1.0, atol=0.01)
    assert found.faults == ["", "", ""]
    chains[:, 0] += 2.0
    assert "split R-hat" in diagnose(chains, np.zeros(3)).faults[0]


@pytest.mark.parametrize("estimator", ["mean_gradient", "displacement"])
def test_gradients_are_those_of_the_closed_forms(estimator):
    options = {"estimator": estimator, "num_chains": 16, "num_steps": 800}
    for weight, temperature in ((0.5, 1.0), (1.5, 0.3)):
        _, truth = integrated(double_well, weight, 2.0, temperature)
        model, data, loss = one_weight(double_well, weight)
        found = landscape.local_entropy_gradient(
            model, data, loss, scope=2.0, temperature=temperature, **options
        )
        assert found.converged
        assert abs(found.gradient[0] - truth) < 4 * found.standard_error[0]
        assert found.standard_error[0] < 0.1
    model, data, hessian = regression(50, 100)
    _, truth = closed_form(model, hessian, 2.0)
    found = landscape.local_entropy_gradient(
        model, data, "mse", scope=2.0, **options
    )
    scores = (found.gradient - truth) / found.standard_error
    assert 0.6 < np.sqrt(np.mean(scores**2)) < 1.5


@pytest.mark.parametrize(
    ("loss", "options", "reason"),
    [
        (double_well, {"num_steps": 30, "step_size": 1.0}, "step size times"),
        # The pull does not hold them: they grow by a part each step, far from
        # overflow. Without ranks the last few steps hide all that was before.
        (lambda x: -(x**2), {"scope": 1.9}, "split R-hat"),
        (lambda x: -(x**2), {"scope": 1.5, "num_steps": 300}, "split R-hat"),
        (lambda x: -(x**4), {}, "the loss is not finite"),
        (lambda x: x**2, {"step_size": 9.0}, "the loss is not finite"),
    ],
)
@pytest.mark.parametrize("estimator", ["mean_gradient", "displacement"])
def test_gradients_of_chains_that_fail_are_withheld(
    loss, options, reason, estimator
):
    model, data, loss = one_weight(loss, 0.5)
    with pytest.warns(UserWarning, match=f"is withheld: .*{reason}"):
        found = landscape.local_entropy_gradient(
            model,
            data,
            **{"scope": 1.0, "loss": loss, "estimator": estimator} | options,
        )
    assert not found.converged
    assert np.isnan(found.gradient).all()
    assert np.isnan(found.standard_error).all()
    assert reason in found.reason


def test_chains_that_grow_exponentially_have_not_mixed():
    rng = np.random.default_rng(0)
    growth = 1.1 ** np.arange(400)[:, None, None]
    losses = -growth * (1.0 + rng.random([400, 8, 1]))
    (fault,) = diagnose(losses, np.zeros(1)).faults
    assert "split R-hat" in fault


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scope": 0.0}, "`scope` must be a positive"),
        ({"temperature": -1.0}, "`temperature` must be a positive"),
        ({"method": "annealing"}, "`method` must be one of"),
        ({"num_chains": 1}, "`num_chains` must be an integer from 2 on"),
        ({"num_steps": 11}, "`num_steps` must be an integer from 12 on"),
        ({"num_nodes": 1}, "`num_nodes` must be an integer from 2 on"),
        ({"step_size": 0.0}, "`step_size` must be a positive"),
        ({"minibatch_size": 0}, "`minibatch_size` must be None or a positive"),
        ({"minimum_loss": None}, "`minimum_loss` must be a number"),
        ({"minimum_loss": 5.0}, "`minimum_loss` must be at most "),
        ({"seed": -1}, "`seed` must be an integer from 0 on"),
        ({"seed": 2**31}, "`seed` must be below"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message):
    model, data, loss = one_weight(double_well, 0.5)
    with pytest.raises(ValueError, match=message):
        landscape.local_entropy(
            model, data, **{"scope": 1.0, "loss": loss} | changes
        )


def test_unknown_estimators_of_the_gradient_are_refused():
    model, data, loss = one_weight(double_well, 0.5)
    with pytest.raises(ValueError, match="`estimator` must be one of"):
        landscape.local_entropy_gradient(
            model, data, loss, scope=1.0, estimator="mean"
        )


def test_an_objective_gives_the_same_and_is_compiled_once():
    model, data, loss = one_weight(double_well, 0.5)
    traces = []

    def counted(labels, predictions):
        traces.append(1)
        return loss(labels, predictions)

    objective = landscape.Objective(model, data, counted)
    options = {"scope": 2.0, "num_steps": 400}
    integrated = {**options, "method": INTEGRATION}
    value = landscape.local_entropy(objective, **integrated)
    gradient = landscape.local_entropy_gradient(objective, **options)
    counts = [len(traces)]
    assert value == landscape.local_entropy(model, data, loss, **integrated)
    other = landscape.local_entropy_gradient(model, data, loss, **options)
    np.testing.assert_array_equal(gradient.gradient, other.gradient)
    counts.append(len(traces))
    again = landscape.local_entropy(objective, **integrated, seed=1)
    landscape.local_entropy_gradient(objective, **options, seed=1)
    assert again.estimate != value.estimate
    assert counts == [len(traces)] * 2
    with pytest.raises(ValueError, match="`loss` must be left out"):
        landscape.local_entropy(objective, loss=loss, scope=2.0)


def test_a_narrow_valley_around_the_weights_is_not_missed():
    # Draws find one in a thousand of it, and its curvature tells of more.
    def well(weight):
        return 1.0 - keras.ops.exp(-((weight / 1e-3) ** 2))

    chains = Chains(landscape.Objective(*one_weight(well, 0.0)))
    found = quietly(
        estimate_local_entropy, chains, Plan(1.0, 0.05), INTEGRATION
    )
    assert "split R-hat is" in found.reason
    assert not found.converged


def test_rounding_is_in_the_error():
    found = entropy_estimators.importance(np.full(100, 3.0), Plan(1.0), 0.0)
    assert found.standard_error == pytest.approx(3.0 * 2.0**-23, rel=1e-6)


def test_bounds_hold_three_errors_each():
    losses = np.array([0.0, 1.0, 0.5, 0.2])
    found = entropy_estimators.monte_carlo(losses, Plan(1.0, 0.5), 0.0)
    weights = np.exp(-losses / 0.5)
    weights /= weights.sum()
    mean = weights @ losses
    error = np.linalg.norm(weights * (losses - mean))
    low = -losses.mean() - 3 * losses.std() / 2
    assert found.lower_bound == pytest.approx(low)
    assert found.upper_bound == pytest.approx(min(-mean + 3 * error, 0.0))


def test_every_sample_is_drawn():
    """Only the last of two has a loss; held at the weights, half of it."""
    model = keras.Sequential([
        keras.Input([1]),
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
    ])
    data = np.array([[0.0], [1.0]]), np.zeros([2, 1])
    objective = landscape.Objective(model, data, "mse")
    draws = Chains(objective, minibatch_size=1).draw(Plan(scope=1e12))
    assert draws.mean() == pytest.approx(0.5, abs=0.05)


def test_chains_of_other_widths_have_not_mixed():
    losses = np.random.default_rng(0).normal(size=[1000, 4, 1])
    losses[:, 3] *= 10.0
    (fault,) = diagnose(losses, np.zeros(1)).faults
    assert "split R-hat" in fault


def test_the_worst_coupling_is_judged(monkeypatch):
    monkeypatch.setattr(entropy_estimators, "diagnose", lambda *of: UNEVEN)
    objective = landscape.Objective(*quadratic.Regression().arguments)
    result = entropy_estimators.integrate_coupling(
        Chains(objective), np.ones(10), Plan(1.0, num_steps=12), 2, 0.0
    )
    assert (result.effective_sample_size, result.r_hat) == (60.0, 1.1)
