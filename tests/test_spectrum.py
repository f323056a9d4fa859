"""Eigenvalues: all, both ends, and the density with its limits."""

import keras
import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from entropy_keras import landscape
from entropy_keras.landscape import lanczos
from entropy_keras.landscape import spectrum

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def random_symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=[len(eigenvalues)] * 2))
    return basis * eigenvalues @ basis.T


@pytest.mark.parametrize("overwrite", [False, True])
def test_exact_spectrum_sets_zero_rows_aside(overwrite):
    eigenvalues = np.linspace(-1.0, 5.0, 9)
    matrix = np.zeros([12, 12])
    kept = [0, 2, 3, 4, 5, 7, 8, 10, 11]
    matrix[np.ix_(kept, kept)] = random_symmetric(eigenvalues)
    before = matrix.copy()
    found = spectrum.exact(matrix, overwrite)
    expected = np.sort([*eigenvalues, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(found.nodes[0], expected, atol=1e-13)
    assert overwrite or (matrix == before).all()
    assert (found.smallest, found.largest) == pytest.approx((-1.0, 5.0))


def test_all_zero_matrix():
    assert (spectrum.exact(np.zeros([3, 3])).nodes == 0.0).all()


def test_resolution_of_exact_spectra_covers_rounding():
    # No peak at zero: the worst case for float32.
    eigenvalues = np.random.default_rng(0).uniform(-50, 50, 400)
    matrix = random_symmetric(eigenvalues)
    found = spectrum.exact(matrix.astype("float32"))
    error = np.abs(found.nodes[0] - np.sort(eigenvalues)).max()
    assert 1e-6 < error < found.resolution < 0.1


def test_lanczos_of_full_order_recovers_the_spectrum():
    eigenvalues = np.linspace(-2.0, 3.0, 40)
    operator = aslinearoperator(random_symmetric(eigenvalues))
    found = lanczos.density(operator, num_steps=60, num_probes=2, seed=0)
    for nodes in found.nodes:
        np.testing.assert_allclose(nodes, eigenvalues, atol=1e-9)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0)


def test_quadrature_is_exact_for_polynomials_of_each_probe():
    # m nodes integrate polynomials of degree 2m - 1 exactly.
    matrix = random_symmetric(np.linspace(0.0, 1.0, 50) ** 4)
    found = lanczos.density(aslinearoperator(matrix), 5, 3, seed=7)
    rng = np.random.default_rng(7)
    power = np.linalg.matrix_power(matrix, 9)
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        probe = rng.choice([-1.0, 1.0], 50)
        expected = probe @ power @ probe / 50
        assert weights @ nodes**9 == pytest.approx(expected, rel=1e-10)


def test_exhausted_space_stops_early():
    # Two distinct eigenvalues: two steps say all.
    operator = aslinearoperator(np.diag([1.0] * 30 + [4.0] * 10))
    found = lanczos.density(operator, num_steps=20, num_probes=4, seed=0)
    share, _ = found.share_below(2.0)
    assert share == pytest.approx(0.75, abs=1e-12)
    assert found.largest == pytest.approx(4.0)


def test_ghosts_do_not_appear():
    # One eigenvalue far from the rest converges at once, and once only.
    eigenvalues = np.concatenate([np.linspace(0, 1, 299), [100.0]])
    operator = aslinearoperator(random_symmetric(eigenvalues))
    found = lanczos.density(operator, num_steps=120, num_probes=2, seed=0)
    assert ((found.nodes > 50).sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    "eigenvalues",
    [[1.0] * 200 + [4.0] * 100, [1e14, 1e7, *np.linspace(0.0, 1.0, 200)]],
)
def test_the_basis_is_orthogonal_whatever_is_left(eigenvalues):
    operator = aslinearoperator(random_symmetric(np.array(eigenvalues)))
    start = np.random.default_rng(1).normal(size=len(eigenvalues))
    run = lanczos.Lanczos(operator, start, 30)
    run.advance(30)
    np.testing.assert_allclose(run.basis @ run.basis.T, np.eye(30), atol=1e-13)


def test_share_agrees_and_refuses_below_the_resolution():
    rng = np.random.default_rng(0)
    eigenvalues = rng.normal(size=500) * np.exp(rng.normal(size=500) * 2)
    operator = aslinearoperator(random_symmetric(eigenvalues))
    found = lanczos.density(operator, num_steps=100, num_probes=8, seed=0)
    width = eigenvalues.max() - eigenvalues.min()
    assert found.resolution == pytest.approx(width / 100**2, rel=1e-3)
    threshold = 20 * found.resolution
    share, error = found.share_below(threshold)
    assert 0 < error < 0.02
    true = (np.abs(eigenvalues) < threshold).mean()
    assert share == pytest.approx(true, abs=0.02)
    with pytest.raises(ValueError, match=r"`threshold` must be .*`num_steps`"):
        found.share_below(found.resolution / 2)


def outliers_and_bulk():
    """An operator with a few large eigenvalues, and its eigenvalues."""
    eigenvalues = np.concatenate([
        np.geomspace(1e-4, 1.0, 900), np.geomspace(1.5, 100.0, 60),
        [-8.0, -4.0, -2.0],
    ])  # fmt: skip
    return aslinearoperator(random_symmetric(eigenvalues)), eigenvalues


def test_what_stands_out_is_set_aside_and_the_rest_resolved():
    operator, eigenvalues = outliers_and_bulk()
    threshold = 0.1  # a thousandth of the largest
    truth = np.mean(np.abs(eigenvalues) < threshold)
    widths, errors = [], []
    for num_deflated in (0, 20):
        found = landscape.spectral_density(
            operator, num_steps=60, num_probes=4, num_deflated=num_deflated
        )
        low, high = landscape.share_bounds(found, threshold)
        share, error = found.share_below(threshold)
        assert low - 3 * error <= truth <= high + 3 * error
        assert low <= share <= high
        np.testing.assert_allclose(found.weights.sum(1), 1.0)
        trace = found.mean(lambda nodes: nodes)
        assert abs(trace.value - eigenvalues.mean()) < 3 * trace.standard_error
        widths.append(high - low)
        errors.append(trace.standard_error)
    assert found.num_deflated == 40
    assert found.largest == pytest.approx(100.0)
    assert found.smallest == pytest.approx(-8.0)
    assert widths[1] < 0.4 * widths[0]
    # The large ones, which make most of it, are known and not sampled.
    assert errors[1] < 0.3 * errors[0]


def test_a_space_that_is_set_aside_almost_whole():
    operator = aslinearoperator(np.diag([3.0] * 3 + [2.0] * 6 + [1.0] * 3))
    found = landscape.spectral_density(operator, num_deflated=3)
    for threshold, share in ((1.5, 0.25), (2.5, 0.75)):
        bounds = landscape.share_bounds(found, threshold)
        np.testing.assert_allclose(bounds, share, atol=1e-9)
        assert found.share_below(threshold).value == pytest.approx(share)


def test_eigenvectors_are_those_of_the_operator():
    operator, eigenvalues = outliers_and_bulk()
    found = landscape.top_eigenvalues(
        operator, num_eigenvalues=3, tolerance=1e-6, vectors=True
    )
    np.testing.assert_allclose(found.smallest, [-8, -4, -2], rtol=1e-6)
    for values, vectors in (
        (found.largest, found.largest_vectors),
        (found.smallest, found.smallest_vectors),
    ):
        np.testing.assert_allclose(
            operator.matmat(vectors.T), values * vectors.T, atol=2e-4
        )
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-9)
    plain = landscape.top_eigenvalues(operator, num_eigenvalues=3)
    assert plain.largest_vectors is plain.smallest_vectors is None


def test_error_of_a_mean_is_that_of_random_signs():
    matrix = random_symmetric(np.linspace(-1.0, 4.0, 60))
    found = [
        lanczos.density(aslinearoperator(matrix), 10, 2, seed)
        for seed in range(200)
    ]
    means, errors = zip(*(each.mean(np.copy) for each in found), strict=True)
    beside = matrix - np.diag(np.diag(matrix))
    expected = np.sqrt(2 * (beside**2).sum() / 2) / 60
    assert np.std(means) == pytest.approx(expected, rel=0.15)
    assert expected < np.mean(errors) < 1.5 * expected
    assert np.mean(means) == pytest.approx(1.5, abs=4 * expected / 200**0.5)


def test_both_ends_with_bounds():
    eigenvalues = np.concatenate([
        [-3.0, -1.0, -0.5],
        np.random.default_rng(0).normal(size=400) * 0.01,
        [1.0, 7.0, 8.0],
    ])
    operator = aslinearoperator(random_symmetric(eigenvalues))
    ends = lanczos.extremes(operator, 3, 1e-6, 200, seed=0)
    largest, smallest = [8.0, 7.0, 1.0], [-3.0, -1.0, -0.5]
    np.testing.assert_allclose(ends.largest, largest, atol=1e-9)
    np.testing.assert_allclose(ends.smallest, smallest, atol=1e-9)
    assert ends.num_products < 60
    assert (ends.largest_errors < 8e-6).all()


REPEATED = {
    "low rank": ([0.0] * 30 + [2.96, 4.63], 3),
    "zero": ([0.0] * 10, 3),
    "identity": ([1.0] * 10, 5),
    "rank one": ([0.0] * 11 + [5.0], 6),
    "twins at both ends": (
        [-3.0, -3.0, *np.linspace(-1, 1, 80), 7, 8, 8, 8],
        4,
    ),
    "two values": ([1.0] * 30 + [4.0] * 10, 4),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", REPEATED)
def test_eigenvalues_count_as_often_as_they_occur(name, dtype):
    eigenvalues, k = REPEATED[name]
    matrix = random_symmetric(np.array(eigenvalues)).astype(dtype)
    ends = lanczos.extremes(aslinearoperator(matrix), k, 1e-5, 300, seed=0)
    expected = np.sort(eigenvalues)
    np.testing.assert_allclose(ends.smallest, expected[:k], atol=1e-4)
    np.testing.assert_allclose(ends.largest, expected[::-1][:k], atol=1e-4)
    assert ends.reason == ""
    assert ends.num_products < 120


@pytest.mark.parametrize("name", REPEATED)
def test_one_end_is_that_of_both(name):
    eigenvalues, k = REPEATED[name]
    matrix = aslinearoperator(random_symmetric(np.array(eigenvalues)))
    both = lanczos.extremes(matrix, k, 1e-5, 300, 0)
    for end, other in (("largest", "smallest"), ("smallest", "largest")):
        one = lanczos.extremes(matrix, k, 1e-5, 300, 0, ends=end)
        np.testing.assert_allclose(
            getattr(one, end), getattr(both, end), atol=1e-4
        )
        assert len(getattr(one, f"{end}_errors")) == k
        assert len(getattr(one, other)) == 0
        assert one.reason == ""


def test_one_end_does_not_wait_for_a_crowded_one():
    eigenvalues = np.r_[np.linspace(-1.0, 0.0, 300), 4.0, 5.0, 6.0, 6.0]
    matrix = random_symmetric(eigenvalues)
    largest, both = (
        landscape.top_eigenvalues(
            matrix, num_eigenvalues=3, tolerance=1e-4, ends=ends
        )
        for ends in ("largest", "both")
    )
    np.testing.assert_allclose(largest.largest, [6.0, 6.0, 5.0], atol=1e-3)
    assert largest.num_products < both.num_products / 2


def test_a_hessian_of_low_rank():
    model = keras.Sequential([keras.Input([20]), keras.layers.Dense(1)])
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=[2, 20]), 3, axis=0).astype("float32")
    ends = landscape.top_eigenvalues(
        model, (x, x[:, :1]), num_eigenvalues=3, loss="mse"
    )
    extended = np.hstack([x, np.ones([6, 1])])
    expected = np.linalg.eigvalsh(extended.T @ extended / 3.0)
    np.testing.assert_allclose(ends.smallest, 0.0, atol=1e-5)
    np.testing.assert_allclose(ends.largest, expected[::-1][:3], atol=1e-4)


def test_it_is_said_that_multiplicities_are_unknown():
    operator = aslinearoperator(np.eye(40))
    ends = lanczos.extremes(operator, 3, 1e-3, 3, seed=0)
    np.testing.assert_allclose(ends.largest, [1.0, 1.0, 1.0])
    assert "3 products do not tell how often" in ends.reason
    assert lanczos.extremes(operator, 3, 1e-3, 99, seed=0).reason == ""


def test_what_has_not_converged_shows():
    eigenvalues = np.linspace(0.0, 1.0, 400)
    operator = aslinearoperator(random_symmetric(eigenvalues))
    ends = lanczos.extremes(operator, 2, 1e-9, 8, seed=0)
    assert ends.num_products == 8
    for value, error in zip(ends.largest, ends.largest_errors, strict=True):
        assert error > 1e-3
        assert np.abs(eigenvalues - value).min() <= error


@pytest.fixture(scope="module")
def trained():
    """A small network on two moons, after a little training."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input([2]),
        keras.layers.Dense(12, "relu"),
        keras.layers.Dense(2),
    ])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    x = rng.normal(size=[100, 2]).astype("float32") + 2 * labels[:, None]
    model.compile(keras.optimizers.Adam(0.05), LOSS)
    model.fit(x, labels, epochs=10, verbose=0)
    return model, (x, labels)


def test_methods_agree_on_a_network(trained):
    matrix = landscape.hessian_matrix(*trained, verbose=0)
    expected = np.linalg.eigvalsh(matrix.astype("float64"))
    found = landscape.hessian_spectrum(*trained, verbose=0)
    assert found.method == "exact"
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.nodes[0], expected, atol=1e-5 * scale)
    density = landscape.hessian_spectrum(
        *trained, method="lanczos", num_steps=40
    )
    assert density.method == "lanczos"
    ends = landscape.top_eigenvalues(*trained, num_eigenvalues=3)
    for largest in (density.largest, ends.largest[0]):
        assert largest == pytest.approx(expected[-1], rel=1e-3)
    for smallest in (density.smallest, ends.smallest[0]):
        assert smallest == pytest.approx(expected[0], abs=1e-3 * scale)


def test_auto_takes_lanczos_for_large_networks():
    model = keras.Sequential([
        keras.Input([200]),
        keras.layers.Dense(60),
        keras.layers.Dense(1),
    ])
    data = np.ones([2, 200], "float32"), np.ones([2, 1], "float32")
    found = landscape.hessian_spectrum(model, data, "mse", num_steps=5)
    assert found.method == "lanczos"


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("hessian_spectrum", {"method": "magic"}, "`method` must be one of"),
        (
            "spectral_density",
            {"num_steps": 1},
            "`num_steps` must be an integer",
        ),
        (
            "spectral_density",
            {"num_probes": 0},
            "`num_probes` must be a positive",
        ),
        (
            "top_eigenvalues",
            {"num_eigenvalues": 0},
            "`num_eigenvalues` must be a positive integer",
        ),
        ("top_eigenvalues", {"num_eigenvalues": 32}, "half of the 62 weights"),
        ("top_eigenvalues", {"tolerance": -1}, "`tolerance` must be non-neg"),
        ("top_eigenvalues", {"max_steps": 3}, "`max_steps` must be at least"),
        ("top_eigenvalues", {"ends": "all"}, "`ends` must be one of"),
    ],
)
def test_bad_input_is_refused(trained, function, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(landscape, function)(*trained, **arguments)
