"""The trace of the Hessian: exact where it can be, honest elsewhere."""

import keras
import numpy as np
import pytest
import quadratic
from scipy.sparse.linalg import aslinearoperator

from entropy_keras import landscape
from entropy_keras.landscape.traces import hutch_plus_plus


def symmetric(eigenvalues, seed=0):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=[len(eigenvalues)] * 2))
    return aslinearoperator(basis * eigenvalues @ basis.T)


def test_of_linear_regression():
    regression = quadratic.Regression()
    found = landscape.trace(*regression.arguments, batch_size=3)
    assert found.value == pytest.approx(np.trace(regression.hessian), rel=1e-12)
    assert found.standard_error == 0.0
    assert found.num_products == 4


@pytest.mark.parametrize("rank", [0, 1, 5])
def test_exact_on_low_rank(rank):
    eigenvalues = np.zeros(60)
    eigenvalues[:rank] = [3.0, -2.0, 1.0, 0.5, 40.0][:rank]
    found = hutch_plus_plus(symmetric(eigenvalues), num_products=15, seed=0)
    assert found.value == pytest.approx(eigenvalues.sum(), abs=1e-11)
    assert found.standard_error == pytest.approx(0.0, abs=1e-11)
    assert found.num_products == 15


@pytest.mark.parametrize("products", [6, 20, 59])
def test_counts_its_products(products):
    calls = []
    operator = symmetric(np.arange(60.0))
    counted = aslinearoperator(np.eye(60))
    counted._matvec = lambda v: calls.append(1) or operator @ v
    counted._matmat = lambda m: np.stack(
        [counted._matvec(v) for v in m.T], axis=1
    )
    found = hutch_plus_plus(counted, products, seed=0)
    assert found.num_products == products == len(calls)


@pytest.mark.parametrize("products", [60, 100])
def test_exact_with_a_product_for_each_weight(products):
    eigenvalues = np.linspace(-3.0, 7.0, 60)
    found = hutch_plus_plus(symmetric(eigenvalues), products, seed=0)
    assert found == (pytest.approx(eigenvalues.sum()), 0.0, 60)


def test_no_bias_and_a_true_standard_error():
    eigenvalues = np.linspace(-1.0, 3.0, 40)
    operator = symmetric(eigenvalues)
    runs = [hutch_plus_plus(operator, 30, seed) for seed in range(400)]
    estimates = np.array([run.value for run in runs])
    spread = estimates.std()
    assert abs(estimates.mean() - eigenvalues.sum()) < 3 * spread / 20
    claimed = np.sqrt(np.mean([run.standard_error**2 for run in runs]))
    assert claimed == pytest.approx(spread, rel=0.12)
    assert hutch_plus_plus(operator, 30, 7) == runs[7]


def test_deflation_pays():
    """Outliers, as networks have, do not reach the random part."""
    eigenvalues = np.r_[[50.0, 30.0, 20.0, -5.0], np.full(96, 0.01)]
    found = hutch_plus_plus(symmetric(eigenvalues), 30, seed=0)
    assert found.value == pytest.approx(eigenvalues.sum(), rel=1e-4)
    assert found.standard_error < 0.02


def test_of_a_trained_network():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=[200, 12]).astype("float32")
    labels = np.argmax(inputs[:, :4] ** 2 + 0.3 * inputs[:, 4:8], axis=1)
    model = keras.Sequential([
        keras.Input([12]),
        keras.layers.Dense(24, "relu"),
        keras.layers.Dense(16, "relu"),
        keras.layers.Dense(4),
    ])
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(inputs, labels, epochs=15, verbose=0)
    exact = np.trace(
        landscape.hessian_matrix(model, (inputs, labels), verbose=0)
    )
    before = model.get_weights()
    found = landscape.trace(model, (inputs, labels))
    assert found.num_products == 150 < model.count_params() / 5
    assert found.value == pytest.approx(exact, rel=0.02)
    assert abs(found.value - exact) < 4 * found.standard_error
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("products", [5, 6.0, None])
def test_products_is_checked(products):
    with pytest.raises(
        ValueError, match="`num_products` must be an integer of"
    ):
        landscape.trace(
            *quadratic.Regression().arguments, num_products=products
        )
