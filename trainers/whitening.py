"""Global contrast normalization and ZCA whitening of images.

Goodfellow, Warde-Farley, Mirza, Courville, Bengio, "Maxout networks", ICML
2013, whose pipeline All-CNN and the paper use: each image is centered and
scaled to one length, then all are whitened by the covariance of the training
images.
"""

import math
from typing import NamedTuple

import numpy as np

from entropy_keras.validation import require

# The length of an image, which makes pixels of 32 x 32 x 3 of deviation 1.
LENGTH = 55.0
# What is added to the variance of each direction before it is divided by.
BIAS = 0.1
_CHUNK = 5000


def normalize_contrast(images: np.ndarray) -> np.ndarray:
    """Centers each image, and scales it to `LENGTH`.

    Args:
        images: Of shape `[n, height, width, channels]`.

    Returns:
        As many, as 32-bit floats; an image of one color becomes zeros.

    Example:
    >>> bright = normalize_contrast(np.array([[[[1.0], [3.0]]]]))
    >>> bright.ravel().astype(float).round(2).tolist()  # 55 / sqrt(2)
    [-38.89, 38.89]
    """
    flat = _flat(images).astype("float32")
    flat = flat - flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True) / LENGTH
    length[length < 1e-8] = 1.0
    return (flat / length).reshape(images.shape)


class Whitening(NamedTuple):
    """What makes directions of images have one variance; see `fit`.

    Attributes:
        mean: The mean image, of shape `[d]`.
        matrix: Of shape `[d, d]`, symmetric.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Whitens images.

        Args:
            images: Of d numbers each.

        Returns:
            As many, of the same shape.
        """
        flat = _flat(images)
        white = [
            (flat[i : i + _CHUNK] - self.mean) @ self.matrix
            for i in range(0, max(1, len(flat)), _CHUNK)
        ]
        return np.concatenate(white).reshape(images.shape)


def fit(images: np.ndarray) -> Whitening:
    """Finds the whitening that stays nearest to the images: ZCA.

    With the covariance `U diag(s) U'` its matrix is
    `U diag(1 / sqrt(s + BIAS)) U'`.

    Args:
        images: Those to train on, at least two, of shape `[n, ...]`.

    Returns:
        The whitening.

    Raises:
        ValueError: If there are fewer images.

    Example:
    >>> images = np.random.default_rng(0).normal(size=[1000, 2]) * [1, 10]
    >>> fit(images)(images).std(0).round(1).tolist()
    [1.0, 1.0]
    """
    require(len(images) > 1, "images", "two or more", len(images))
    flat = _flat(images)
    mean = flat.mean(0)
    covariance = np.zeros([flat.shape[1]] * 2)
    for start in range(0, len(flat), _CHUNK):
        part = (flat[start : start + _CHUNK] - mean).astype("float64")
        covariance += part.T @ part / len(flat)
    variances, directions = np.linalg.eigh(covariance)
    # Rounding makes the variances of what never varies negative.
    scales = 1 / np.sqrt(np.maximum(variances, 0.0) + BIAS)
    matrix = (directions * scales) @ directions.T
    return Whitening(mean.astype(images.dtype), matrix.astype(images.dtype))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), math.prod(images.shape[1:]))
