"""A model whose loss is a quadratic: linear regression."""

import keras
import numpy as np


def dense(shape, *layers, scale=0.5, dtype="float64"):
    """Returns a model of dense layers `(units, activation)`."""
    model = keras.Sequential([
        keras.Input(shape, dtype=dtype),
        *(keras.layers.Dense(*layer, dtype=dtype) for layer in layers),
    ])
    rng = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0.0, scale, variable.shape))
    return model


class Regression:
    """Linear regression with the mean squared error, and its closed form.

    Args:
        at_minimum: Whether the weights are those of the least squares.
        axes: Whether the Hessian is diagonal.
        dtype: Of the model.
    """

    def __init__(self, at_minimum=False, axes=False, dtype="float64"):
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=[8, 3])
        if axes:
            inputs, _ = np.linalg.qr(inputs - inputs.mean(0))
            inputs *= [1.0, 2.0, 4.0]
        targets = rng.normal(size=[8, 1])
        extended = np.hstack([inputs, np.ones([8, 1])])
        self.model = dense([3], (1, None), dtype=dtype)
        if at_minimum:
            best, *_ = np.linalg.lstsq(extended, targets, rcond=None)
            self.model.set_weights([best[:3], best[3]])
        self.data = inputs, targets
        self.weights = np.concatenate([
            np.ravel(array) for array in self.model.get_weights()
        ])
        self.hessian = extended.T @ extended / 4.0
        self._extended, self._targets = extended, targets[:, 0]

    @property
    def arguments(self):
        return self.model, self.data, "mse"

    def loss(self, weights):
        residuals = self._extended @ weights - self._targets
        return np.mean(residuals**2)

    @property
    def gradient(self):
        residuals = self._extended @ self.weights - self._targets
        return self._extended.T @ residuals / 4.0

    def rise(self, step):
        return self.loss(self.weights + step) - self.loss(self.weights)
