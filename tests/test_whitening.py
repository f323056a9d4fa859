"""Contrast normalization and whitening against their definitions."""

import numpy as np
import pytest

from trainers import config
from trainers import training
from trainers import whitening

RNG = np.random.default_rng(0)
MIXING = RNG.normal(size=[12, 12]) * 3


def images(count):
    flat = RNG.normal(size=[count, 12]) @ MIXING + 5
    return flat.reshape(count, 2, 2, 3)


def test_images_are_centered_and_of_one_length():
    found = whitening.normalize_contrast(images(7)).reshape(7, -1)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 55, rtol=1e-5)
    flat = np.full([1, 2, 2, 3], 0.3)
    np.testing.assert_allclose(whitening.normalize_contrast(flat), 0, atol=1e-6)


def test_the_covariance_becomes_its_share_above_the_bias():
    train = images(4000)
    flat = train.reshape(4000, -1)
    variances, directions = np.linalg.eigh(np.cov(flat.T, bias=True))
    white = whitening.fit(train)(train).reshape(4000, -1)
    expected = directions @ np.diag(variances / (variances + 0.1))
    np.testing.assert_allclose(
        np.cov(white.T, bias=True), expected @ directions.T, atol=1e-9
    )
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-9)
    # ZCA: of all whitenings the one without a rotation.
    matrix = whitening.fit(train).matrix
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_it_is_fitted_on_the_training_images_alone(tmp_path, held_out):
    path = tmp_path / "data.npz"
    x = (RNG.random([60, 4, 4, 3]) * 255).astype("uint8")
    y = np.arange(60) % 2
    np.savez(path, x_train=x[:50], y_train=y[:50], x_test=x[50:], y_test=y[50:])
    splits = training.load_data(
        config.Config(
            npz=str(path), preprocessing="gcn_zca", validation_fraction=held_out
        )
    )
    plain = training.load_data(
        config.Config(npz=str(path), validation_fraction=held_out)
    )
    fitted = whitening.fit(whitening.normalize_contrast(plain.train.images))
    for name in ("train", "validation", "test"):
        expected = fitted(
            whitening.normalize_contrast(getattr(plain, name).images)
        )
        found = getattr(splits, name)
        np.testing.assert_allclose(found.images, expected, atol=1e-4)
        np.testing.assert_array_equal(found.labels, getattr(plain, name).labels)
    assert "whitened" in splits.understood


def test_a_text_is_not_whitened(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be " * 50)
    with pytest.raises(ValueError, match=r"`preprocessing` must be 'none'"):
        training.load_data(
            config.Config(text=str(path), preprocessing="gcn_zca")
        )
