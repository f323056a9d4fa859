"""Clipping, against norms by hand."""

import numpy as np
import pytest
import tensorflow as tf

from entropy_keras import clipping

NONE = {"clipnorm": None, "clipvalue": None, "global_clipnorm": None}
# Norms 5 and 12, 13 together.
GRADIENTS = [tf.constant([3.0, -4.0]), None, tf.constant([[12.0]])]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, ([3.0, -4.0], [[12.0]])),
        ({"clipnorm": 2.5}, ([1.5, -2.0], [[2.5]])),
        ({"clipnorm": 6.0}, ([3.0, -4.0], [[6.0]])),
        ({"clipvalue": 3.5}, ([3.0, -3.5], [[3.5]])),
        ({"global_clipnorm": 6.5}, ([1.5, -2.0], [[6.0]])),
        ({"global_clipnorm": 20.0}, ([3.0, -4.0], [[12.0]])),
    ],
)
def test_clipping_by_hand(rule, expected):
    clipped = clipping.clip(GRADIENTS, **(NONE | rule))
    assert clipped[1] is None
    np.testing.assert_allclose(clipped[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(clipped[2], expected[1], rtol=1e-6)


@pytest.mark.parametrize("rule", ["clipnorm", "clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_number_that_is_not_finite_is_not_hidden(rule, bad):
    gradients = [tf.constant([1.0, bad])]
    (clipped,) = clipping.clip(gradients, **(NONE | {rule: 0.5}))
    assert not np.isfinite(clipped.numpy()[1])
