"""The theory of the local entropy, against numerics of another kind."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize

from entropy_keras import landscape
from trainers.experiments.landscape import cartoon

GRID = np.linspace(-16, 16, 16001)


def loss(x):
    """Returns the cartoon of figure 2, written down again."""
    wide = 4 * np.exp(-((x + 2) ** 2) / 2)
    sharp = 6 * np.exp(-((x - 3) ** 2) / (2 * 0.05**2))
    return 6 - wide - sharp + 0.002 * (x - 0.5) ** 4


def expectation(function, x, scope, temperature):
    """Returns a Gibbs mean by Gauss's rule on panels, and its normalizer."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(-16, 16, 641)
    y = (edges[:-1, None] + 0.025 * (nodes + 1)).ravel()
    density = np.exp(-(loss(y) + scope / 2 * (x - y) ** 2) / temperature)
    density *= np.tile(0.025 * weights, 640)
    return density @ function(y) / density.sum(), density.sum()


def slope(function, at, step=1e-4):
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("scope", [1.0, 30.0])
@pytest.mark.parametrize("x", [-1.0, 2.8])
def test_one_weight_is_integrated(x, scope, temperature):
    entropy = landscape.local_entropy_1d(
        loss, [x], scope, temperature, grid=GRID
    )
    mean, total = expectation(lambda y: y, x, scope, temperature)
    force, _ = expectation(lambda y: slope(loss, y), x, scope, temperature)
    assert entropy.value[0] == pytest.approx(temperature * np.log(total))
    assert entropy.gradient[0] == pytest.approx(scope * (x - mean), abs=1e-7)
    # The same gradient is the mean gradient of the loss, for every loss.
    assert entropy.gradient[0] == pytest.approx(force, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_derivatives_are_those_of_the_value(temperature):
    x, scope = np.linspace(-4, 5, 19), 5.0

    def entropy(x, scope):
        return landscape.local_entropy_1d(
            loss, x, scope, temperature, grid=GRID
        )

    at = entropy(x, scope)
    gradient = slope(lambda x: -entropy(x, scope).value, x)
    np.testing.assert_allclose(at.gradient, gradient, atol=1e-5)
    hessian = slope(lambda x: entropy(x, scope).gradient, x)
    np.testing.assert_allclose(at.hessian, hessian, atol=1e-4)
    # dF/dscope = -<(x - x')**2> / 2, from the variance and the mean.
    square = temperature * (scope - at.hessian) / scope**2
    square += (at.gradient / scope) ** 2
    by_scope = slope(lambda scope: entropy(x, scope).value, scope)
    np.testing.assert_allclose(by_scope, -square / 2, atol=1e-6)


def test_the_curvature_never_exceeds_the_scope_and_has_no_lower_bound():
    x = np.linspace(-4, 5, 181)
    for scope in (1.0, 10.0, 100.0):
        for temperature in (0.3, 1.0):
            entropy = landscape.local_entropy_1d(
                loss, x, scope, temperature, grid=GRID
            )
            assert entropy.hessian.max() <= scope
    assert -200 < entropy.hessian.min() < -150


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_the_curvature_lies_between_the_images_of_its_bounds(temperature):
    def wavy(x):  # whose curvature runs from -0.5 to 1.5
        return 0.25 * x**2 + np.cos(x)

    x = np.linspace(-7, 7, 141)
    entropy = landscape.local_entropy_1d(
        wavy, x, 2.0, temperature, grid=np.linspace(-40, 40, 4001)
    )
    low, high = landscape.smoothed_curvature([-0.5, 1.5], scope=2.0)
    assert low <= entropy.hessian.min()
    assert entropy.hessian.max() <= high
    if temperature == 0.05:  # nearly reached where the loss is nearly quadratic
        np.testing.assert_allclose(
            [entropy.hessian.min(), entropy.hessian.max()],
            [low, high],
            rtol=0.1,
        )


def test_the_closed_form_of_quadratics():
    hessian = np.array([[2.0, 0.7, 0.2], [0.7, -0.4, 0.3], [0.2, 0.3, 0.9]])
    displacement, scope, temperature = np.array([0.8, -0.5, 0.3]), 1.5, 0.6

    def entropy(displacement):
        return landscape.quadratic_local_entropy(
            hessian, displacement, scope, temperature
        )

    axis = np.linspace(-8, 8, 81)
    y = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    energy = 0.5 * np.einsum("...i,ij,...j", y, hessian, y)
    energy += scope / 2 * ((y - displacement) ** 2).sum(axis=-1)
    total = np.exp(-energy / temperature).sum() * 0.2**3
    at = entropy(displacement)
    assert at.value == pytest.approx(temperature * np.log(total))
    for i, unit in enumerate(np.eye(3)):
        by_value, by_gradient = (
            slope(
                lambda step, unit=unit, field=field: getattr(
                    entropy(displacement + step * unit), field
                ),
                0.0,
            )
            for field in ("value", "gradient")
        )
        assert at.gradient[i] == pytest.approx(-by_value)
        np.testing.assert_allclose(at.hessian[i], by_gradient)


def test_the_local_entropy_of_a_flat_loss():
    entropy = landscape.local_entropy_1d(
        np.zeros_like, [0.3], 2.0, 0.7, grid=GRID
    )
    flat = landscape.flat_local_entropy(1, scope=2.0, temperature=0.7)
    assert entropy.value[0] == pytest.approx(flat)
    assert landscape.flat_local_entropy(5, 2.0, 0.7) == pytest.approx(5 * flat)
    # What F exceeds it by tends to minus the loss.
    entropy = landscape.local_entropy_1d(loss, [-1.0], 1e4, grid=GRID)
    difference = entropy.value[0] - landscape.flat_local_entropy(1, scope=1e4)
    assert difference == pytest.approx(-loss(-1.0), abs=1e-3)


def test_without_temperature_it_is_the_moreau_envelope():
    x = np.linspace(-4, 5, 91)
    for scope in (1.0, 10.0, 100.0):
        envelope = landscape.moreau_envelope_1d(loss, x, scope, grid=GRID)
        entropy = landscape.local_entropy_1d(
            loss, x, scope, temperature=0.02, grid=GRID
        )
        np.testing.assert_allclose(-entropy.value, envelope, atol=0.1)
        # By search of another kind: the lowest of local minimizations.
        found = min(
            optimize.minimize_scalar(
                lambda y: float(loss(y)) + scope / 2 * (1.0 - y) ** 2,  # noqa: B023
                bounds=(low, low + 0.1),
                method="bounded",
            ).fun
            for low in np.arange(-5, 6, 0.1)
        )
        assert envelope[50] == pytest.approx(found, abs=2e-3)
        # The sharp valley, deeper than the wide one, is where both are lowest.
        assert x[envelope.argmin()] == pytest.approx(3.0)
    assert x[loss(x).argmin()] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("temperature", "minima"),
    [
        (1.0, {1: -1.95, 10: -1.97, 30: -1.97, 100: 3.0}),
        (2.0, {1: -1.88, 10: -1.96, 100: -1.97, 1000: 3.0}),
        (0.05, {1: 3.0, 10: 3.0, 30: 3.0, 100: 3.0, 1000: 3.0}),
        (0.02, {1: 3.0, 30: 3.0, 1000: 3.0}),
    ],
)
def test_the_minimum_moves_to_the_wide_valley_if_it_is_warm(
    temperature, minima
):
    x = np.linspace(-3, 4, 701)
    for scope, place in minima.items():
        entropy = cartoon.integrate(x, scope, temperature)
        assert x[entropy.value.argmax()] == pytest.approx(place, abs=0.0101)


def test_the_constants_of_quadratics_are_exact():
    scope, gap, smoothness = 0.7, 0.3, 5.0
    eigenvalues = np.linspace(gap, smoothness, 50)
    entropy = landscape.quadratic_local_entropy(
        np.diag(eigenvalues), np.ones(50), scope
    )
    exact, paper = (
        landscape.smoothed_constants(
            1.0, smoothness, scope=scope, gap=gap, form=form
        )
        for form in ("exact", "paper")
    )
    assert np.linalg.norm(entropy.hessian, 2) == pytest.approx(exact.smoothness)
    # The gradient shrinks least along the flattest direction.
    shrunk = entropy.gradient / eigenvalues
    assert shrunk.max() == pytest.approx(exact.lipschitz)
    assert paper.lipschitz == exact.lipschitz
    assert paper.smoothness == pytest.approx(smoothness / (1 + gap / scope))
    assert exact.smoothness < paper.smoothness
    one = {"scope": scope, "gap": smoothness}
    assert landscape.smoothed_constants(
        1.0, smoothness, **one
    ) == landscape.smoothed_constants(1.0, smoothness, **one, form="paper")


@pytest.mark.parametrize("step_scale", [0.2, 1.0, 3.0])
def test_the_stability_bound_is_the_best_of_its_proof(step_scale):
    # For every t0: the sample is not met before update t0 with probability
    # 1 - t0 / n, and what it changes afterwards grows as the proof says.
    lipschitz, smoothness, n, updates = 1.3, 0.8, 50, 2000

    def bound(t0):
        growth = (updates / t0) ** (smoothness * step_scale)
        return (t0 + 2 * lipschitz**2 / smoothness * growth) / (n - 1)

    best = optimize.minimize_scalar(
        bound, bounds=(1e-3, updates), method="bounded", options={"xatol": 1e-8}
    )
    assert landscape.stability_bound(
        lipschitz,
        smoothness,
        num_samples=n,
        num_updates=updates,
        step_scale=step_scale,
    ) == pytest.approx(best.fun, rel=1e-6)


def theorem_3(lipschitz, smoothness, updates):
    power = 1 / (1 + smoothness)
    return lipschitz**power * updates ** (1 - power)


@pytest.mark.parametrize("smoothness", [0.5, 10.0])
def test_equation_10_is_theorem_3_with_the_constants_of_lemma_2(smoothness):
    settings = {"scope": 0.5, "gap": 0.2}
    lemma = landscape.smoothed_constants(
        3.0, smoothness, **settings, form="paper"
    )
    expected = theorem_3(*lemma, 1000) / theorem_3(3.0, smoothness, 1000)
    ratio = landscape.stability_ratio(
        3.0, smoothness, num_updates=1000, **settings
    )
    assert ratio == pytest.approx(expected)


def test_the_printed_equation_10_is_far_smaller_except_for_small_smoothness():
    def ratios(smoothness):
        return [
            landscape.stability_ratio(
                10.0, smoothness, num_updates=10_000, scope=1.0, gap=gap,
                form=form,
            )
            for gap in (min(1.0, smoothness),)
            for form in ("exact", "paper")
        ]  # fmt: skip

    assert ratios(10.0) == [
        pytest.approx(0.53, abs=0.005),
        pytest.approx(1e-15),
    ]
    exact, paper = ratios(1e-4)
    assert exact == pytest.approx(paper, rel=1e-3)


def test_the_cartoon_is_that_of_the_tests():
    x = np.linspace(-4, 5, 901)
    np.testing.assert_allclose(cartoon.loss(x), loss(x))


def test_sampling_agrees_with_quadrature_and_shows_the_claim():
    x = np.array([cartoon.WIDE, 1.0, cartoon.SHARP])
    sampled = cartoon.sample(
        x, 30.0, 1.0, num_chains=32, num_steps=3000, step_size=4e-4
    )
    exact = cartoon.integrate(x, 30.0, 1.0).value
    assert (sampled.error < [0.01, 0.01, 0.15]).all()
    assert (np.abs(sampled.value - exact) < 4 * sampled.error + 2e-3).all()


VALID = {"scope": 1.0, "gap": 0.5, "lipschitz": 1.0, "smoothness": 2.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.smoothed_curvature(-1.0, 1.0), "`curvature` must"),
        (lambda: landscape.smoothed_curvature(1.0, 0.0), "`scope` must be a"),
        (lambda: landscape.smoothed_constants(**VALID | {"gap": 3}), "`gap`"),
        (
            lambda: landscape.smoothed_constants(**VALID, form="printed"),
            "`form` must be one of",
        ),
        (
            lambda: landscape.stability_ratio(**VALID, num_updates=0),
            "`num_updates` must be an integer from 1 on",
        ),
        (
            lambda: landscape.stability_bound(
                1.0, 1.0, num_samples=1, num_updates=9
            ),
            "`num_samples` must be an integer from 2 on",
        ),
        (lambda: landscape.flat_local_entropy(0, 1.0), "`num_parameters` must"),
        (
            lambda: landscape.quadratic_local_entropy(
                [[1.0, 2.0], [0.0, 1.0]], [0.0, 0.0], 1.0
            ),
            "`hessian` must be a symmetric",
        ),
        (
            lambda: landscape.quadratic_local_entropy([[-2.0]], [0.0], 1.0),
            "`curvature` must be more than -scope",
        ),
        (
            lambda: landscape.local_entropy_1d(loss, [0.0], 1, 0.0, grid=GRID),
            "`temperature` must be a positive",
        ),
        (
            lambda: landscape.local_entropy_1d(loss, [[0.0]], 1.0, grid=GRID),
            "`x` must be an array of shape",
        ),
        (
            lambda: landscape.local_entropy_1d(loss, [0.0], 1.0, grid=-GRID),
            "`grid` must be an array of at least",
        ),
        (
            lambda: landscape.local_entropy_1d(
                loss, [4.0], 1.0, grid=np.linspace(-5, 5, 1001)
            ),
            "`grid` must be so long",
        ),
        (
            lambda: landscape.local_entropy_1d(
                loss, [0.0], 1.0, 1e-4, grid=np.linspace(-9, 9, 1001)
            ),
            "`grid` must be so fine",
        ),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def run_binary(*flags):
    return subprocess.run(
        [sys.executable, "-m", "trainers.experiments.landscape", *flags],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.nightly
def test_the_binary_draws_figure_2(tmp_path):
    result = run_binary(
        f"--workdir={tmp_path}",
        "--scopes=30",
        "--scopes=300",
        "--temperatures=1",
        "--num_steps=1000",
        "--num_chains=4",
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "figure2.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "figure2.json").read_text())
    assert content["settings"]["num_steps"] == 1000
    wide, sharp = content["rows"]
    assert wide["minimum_by_quadrature"] == pytest.approx(-1.97)
    assert sharp["minimum_by_quadrature"] == pytest.approx(3.0)
    distance = np.subtract(wide["by_sampling"], wide["by_quadrature"])
    assert np.median(np.abs(distance)) < 0.1
    assert "-1.97" in result.stdout
    for valley in (*wide["at_valleys"].values(), *sharp["at_valleys"].values()):
        error = abs(valley["estimate"] - valley["by_quadrature"])
        assert error < 5 * valley["standard_error"]
