"""Curvature as operators: sums, blocks, determinants and inverses."""

import keras
import numpy as np
import pytest
import quadratic
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import aslinearoperator

from entropy_keras import landscape
from entropy_keras.landscape.products import relative_precision

RNG = np.random.default_rng(0)


def matrix(eigenvalues):
    basis, _ = np.linalg.qr(RNG.normal(size=[len(eigenvalues)] * 2))
    return basis * eigenvalues @ basis.T


def network():
    model = quadratic.dense([5], (6, "tanh"), (2, None))
    model.compile(loss="mse")
    data = RNG.normal(size=[30, 5]), RNG.normal(size=[30, 2])
    hessian = landscape.hessian_matrix(model, data, verbose=0)
    return model, data, hessian


def identity(count):
    return aslinearoperator(np.eye(count))


def test_every_algorithm_takes_a_model_an_objective_or_an_operator():
    model, data, hessian = network()
    objective = landscape.Objective(model, data)
    eigenvalues = np.linalg.eigvalsh(hessian)
    vector = RNG.normal(size=len(hessian))
    shift = 1.0 - eigenvalues.min()
    shifted = hessian + shift * np.eye(len(hessian))
    for what in ((model, data), (objective,), (hessian,),
                 (aslinearoperator(hessian),)):  # fmt: skip
        ends = landscape.top_eigenvalues(*what, num_eigenvalues=2)
        np.testing.assert_allclose(ends.largest, eigenvalues[:-3:-1], rtol=1e-3)
        assert landscape.trace(*what, num_products=100).value == pytest.approx(
            eigenvalues.sum()
        )
        density = landscape.spectral_density(*what, num_steps=60)
        assert density.largest == pytest.approx(eigenvalues.max())
        found = landscape.log_determinant(*what, shift=shift)
        assert found.value == pytest.approx(np.linalg.slogdet(shifted)[1])
        inverse = landscape.inverse_vector_product(
            *what, vector=vector, shift=shift, tolerance=1e-6
        )
        np.testing.assert_allclose(
            inverse, np.linalg.solve(shifted, vector), rtol=1e-4, atol=1e-5
        )


def test_an_objective_is_compiled_once():
    model, data, _ = network()
    traced = []

    def loss(target, prediction):
        traced.append("loss")
        return keras.ops.mean((target - prediction) ** 2, -1)

    objective = landscape.Objective(model, data, loss)
    landscape.top_eigenvalues(objective, num_eigenvalues=1)
    count = len(traced)
    assert count > 0
    model.set_weights([0.5 * w for w in model.get_weights()])
    landscape.trace(objective)
    landscape.spectral_density(objective, num_steps=5)
    assert len(traced) == count


def test_an_exact_determinant_takes_a_product_for_each_weight():
    products = []
    counted = LinearOperator(
        (7, 7), matvec=lambda v: products.append(1) or 2.0 * v, dtype=float
    )
    found = landscape.log_determinant(counted)
    assert found.value == pytest.approx(7 * np.log(2))
    assert len(products) == 7


def test_scaled_and_shifted_operators_of_scipy():
    model, data, hessian = network()
    count = len(hessian)
    operator = landscape.gauss_newton_operator(model, data)
    dense = operator @ np.eye(count)
    other = 2.0 * operator + 3.0 * identity(count)
    ends = landscape.top_eigenvalues(other, num_eigenvalues=1)
    expected = 2 * np.linalg.eigvalsh(dense) + 3
    assert ends.largest[0] == pytest.approx(expected.max(), rel=1e-3)
    assert ends.smallest[0] == pytest.approx(expected.min(), rel=1e-3)
    assert landscape.trace(other, num_products=100).value == pytest.approx(
        expected.sum()
    )
    found = landscape.log_determinant(other)
    assert found.value == pytest.approx(np.log(expected).sum())


def test_a_block_is_that_of_the_matrix():
    model, data, hessian = network()
    layer = model.layers[-1]
    indices = landscape.weight_indices(model, layer)
    assert indices.tolist() == list(range(36, 50))
    block = landscape.restricted_operator(
        landscape.hessian_operator(model, data), indices
    )
    expected = hessian[np.ix_(indices, indices)]
    np.testing.assert_allclose(
        block @ np.eye(14), expected, rtol=1e-5, atol=1e-7
    )
    assert landscape.trace(block).value == pytest.approx(np.trace(expected))
    shuffled = [41, 3, 36]
    block = landscape.restricted_operator(
        landscape.hessian_operator(model, data), shuffled
    )
    np.testing.assert_allclose(
        block @ np.eye(3), hessian[np.ix_(shuffled, shuffled)],
        rtol=1e-5, atol=1e-7,
    )  # fmt: skip
    kernel = landscape.weight_indices(model, [layer.kernel])
    assert kernel.tolist() == list(range(36, 48))


def test_large_determinants_are_within_their_error():
    eigenvalues = np.geomspace(0.01, 10.0, 600)
    dense = matrix(eigenvalues)
    found = [
        landscape.log_determinant(
            dense, shift=0.1, num_steps=40, num_probes=2, seed=seed
        )
        for seed in range(20)
    ]
    truth = np.log(eigenvalues + 0.1).sum()
    values = np.array([each.value for each in found])
    claimed = found[0].standard_error
    assert 0 < claimed < 0.2 * abs(truth)
    assert abs(values.mean() - truth) < 4 * claimed / 20**0.5
    assert values.std() < 1.3 * claimed  # a bound


def test_what_is_not_positive_has_neither_logarithm_nor_inverse():
    dense = matrix(np.linspace(-0.5, 2.0, 50))
    message = r"`shift` must be above 0\.(5|4\d*), the negative of the smallest"
    with pytest.raises(ValueError, match=message):
        landscape.log_determinant(dense)
    with pytest.raises(ValueError, match=message):
        landscape.log_determinant(dense, num_steps=20, num_probes=2)
    with pytest.raises(ValueError, match=r"`shift` must be larger: there is a"):
        landscape.inverse_vector_product(dense, vector=np.ones(50))


def test_an_inverse_that_did_not_converge_is_refused():
    dense = matrix(np.geomspace(1e-6, 1.0, 200))
    with pytest.raises(
        ValueError, match=r"`max_steps` must be more, or .* residual is \d"
    ):
        landscape.inverse_vector_product(
            dense, vector=np.ones(200), max_steps=5
        )
    zeros = landscape.inverse_vector_product(dense, vector=np.zeros(200))
    assert not zeros.any()


def test_sums_have_the_precision_of_their_parts():
    coarse = identity(3)
    coarse.precision = 1e-3
    for other in (2.0 * coarse, coarse + identity(3), 2.0 * coarse * coarse):
        assert relative_precision(other) == 1e-3
    block = landscape.restricted_operator(2.0 * coarse, [0, 2])
    assert relative_precision(block) == 1e-3
    assert relative_precision(identity(3)) == np.finfo(float).eps


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: landscape.trace(np.ones([2, 3])), "`model` must be a square"),
        (
            lambda: landscape.trace(np.eye(3), data=1),
            "`data` must be left out with a ndarray, which has its own",
        ),
        (
            lambda: landscape.top_eigenvalues(identity(9), loss="mse"),
            "`loss` must be left out with a .*LinearOperator",
        ),
        (
            lambda: landscape.trace(np.eye(3), batch_size=2),
            "`batch_size` must be left out",
        ),
        (lambda: landscape.trace("model"), "`model` must be a keras.Model, an"),
        (
            lambda: landscape.trace(LinearOperator((2, 2), print, dtype=int)),
            "`model` must be a square operator of real",
        ),
        (
            lambda: landscape.restricted_operator(np.eye(3), [0, 0]),
            "`indices` must be different integers from 0 to 2",
        ),
        (
            lambda: landscape.restricted_operator(np.eye(3), [3]),
            "`indices` must be",
        ),
        (
            lambda: landscape.inverse_vector_product(np.eye(3), vector=[1.0]),
            "`vector` must be 3 finite numbers",
        ),
        (
            lambda: landscape.log_determinant(np.eye(3), shift=np.nan),
            "`shift` must be a finite number",
        ),
        (
            lambda: landscape.weight_indices(
                network()[0], keras.layers.Dense(1)
            ),
            "`layers` must be layers with trainable weights",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_determinant_of_zero_is_refused():
    dense = matrix(np.array([0.0, 1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="no eigenvalue is 0 but for rounding"):
        landscape.log_determinant(dense)
    found = landscape.log_determinant(dense, shift=1.0)
    assert found.value == pytest.approx(np.log(24.0))


def test_half_precision_does_not_excuse_any_residual():
    coarse = aslinearoperator(matrix(np.geomspace(1e-3, 1.0, 100)))
    coarse.precision = 2.0**-7
    vector = np.ones(100)
    with pytest.raises(ValueError, match="`tolerance` must be at least 0.008"):
        landscape.inverse_vector_product(coarse, vector=vector)
    with pytest.raises(ValueError, match="`max_steps` must be more, or"):
        landscape.inverse_vector_product(
            coarse, vector=vector, tolerance=0.01, max_steps=1
        )


def test_a_matrix_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match="`model` must be a symmetric matrix"):
        landscape.trace(np.triu(np.ones([5, 5])))
