"""Independent NumPy versions of the samplers and metrics.

Written from the formulas of their docstrings alone: nothing here imports the
package. A sampler moves a list of arrays; `setting` is `(step size, scope,
temperature, metrics)`, with a metric for each array, and `noise` a list of
standard normals.
"""

import numpy as np


class SGLD:
    def __init__(self, momentum=0.0, nesterov=False):
        self.momentum, self.nesterov = momentum, nesterov

    def alone(self):
        """Returns what moves the noise's own path."""
        return SGLD()

    def start(self, position, noise, setting):
        self.velocity = [np.zeros_like(p) for p in position]

    def step(self, position, gradients, anchor, noise, setting):
        h, scope, temperature, metric = setting
        for i, (p, g, m) in enumerate(
            zip(position, gradients, metric, strict=True)
        ):
            v = self.momentum * self.velocity[i] - h * m * g
            self.velocity[i] = v
            move = self.momentum * v - h * m * g if self.nesterov else v
            spread = np.sqrt(2 * h * temperature * m)
            position[i] = (
                p + move - h * scope * (p - anchor[i]) + spread * noise[i]
            )


class SplitSGLD:
    def __init__(self, average=False):
        self.average = average

    def alone(self):
        return SplitSGLD(self.average)

    def start(self, position, noise, setting):
        self.old = noise

    def step(self, position, gradients, anchor, noise, setting):
        h, scope, temperature, metric = setting
        decay = np.exp(-h * scope)
        for i, (p, g, m) in enumerate(
            zip(position, gradients, metric, strict=True)
        ):
            xi = noise[i]
            if self.average:
                xi = (xi + self.old[i]) / np.sqrt(2 * (1 + decay))
            variance = temperature * m * (1 - decay**2) / scope
            position[i] = (
                anchor[i]
                + decay * (p - anchor[i])
                - (1 - decay) / scope * m * g
                + np.sqrt(variance) * xi
            )
        self.old = noise


class Inertial:
    """SGHMC; with a thermostat for `"all"` SGNHT, for `"each"` weight Santa."""

    def __init__(self, momentum, thermostat=None):
        self.momentum, self.thermostat = momentum, thermostat
        self.friction = None  # which lasts

    def alone(self):
        return Inertial(self.momentum)

    def start(self, position, noise, setting):
        h, _, temperature, metric = setting
        self.velocity = [
            np.sqrt(h * temperature * m) * xi
            for m, xi in zip(metric, noise, strict=True)
        ]
        if self.friction is None:
            first = -np.log(self.momentum)
            self.friction = [np.full(p.shape, first) for p in position]

    def _adapt(self, setting):
        h, _, temperature, metric = setting
        if self.thermostat is None or temperature == 0:
            return
        excess = [
            v**2 / m - h * temperature
            for v, m in zip(self.velocity, metric, strict=True)
        ]
        if self.thermostat == "all":
            mean = np.mean(np.concatenate([e.ravel() for e in excess]))
            excess = [np.full(e.shape, mean) for e in excess]
        for f, e in zip(self.friction, excess, strict=True):
            f += 0.5 * e

    def step(self, position, gradients, anchor, noise, setting):
        h, scope, temperature, metric = setting
        for i, (g, m) in enumerate(zip(gradients, metric, strict=True)):
            self.velocity[i] = self.velocity[i] - h * (
                m * g + scope * (position[i] - anchor[i])
            )
            position[i] = position[i] + self.velocity[i] / 2
        self._adapt(setting)
        for i, m in enumerate(metric):
            f = self.friction[i]
            heat = -np.log(self.momentum) * h * temperature * m
            self.velocity[i] = (
                np.exp(-f) * self.velocity[i]
                + np.sqrt(heat * (1 - np.exp(-2 * f)) / f) * noise[i]
            )
        self._adapt(setting)
        for i, v in enumerate(self.velocity):
            position[i] = position[i] + v / 2


class Perturbation:
    def start(self, position, noise, setting):
        pass

    def step(self, position, gradients, anchor, noise, setting):
        _, scope, temperature, metric = setting
        for i, (x, m) in enumerate(zip(anchor, metric, strict=True)):
            position[i] = x + np.sqrt(temperature * m / scope) * noise[i]


class Inner:
    """The rule of an optimizer, with the scope's pull and the noise."""

    def __init__(self, rule):
        self.rule = rule

    def alone(self):
        return SGLD()

    def start(self, position, noise, setting):
        pass

    def step(self, position, gradients, anchor, noise, setting):
        h, scope, temperature, metric = setting
        moved = self.rule.apply(position, gradients, h)
        for i, m in enumerate(metric):
            position[i] = (
                moved[i]
                - h * scope * (position[i] - anchor[i])
                + np.sqrt(2 * h * temperature * m) * noise[i]
            )


class Identity:
    def diagonal(self, weights):
        return [np.ones(1) for _ in weights]

    def observe(self, gradients):
        pass


class Relative(Identity):
    def diagonal(self, weights):
        """Returns the mean square of each unit's weights, 1 for vectors."""
        return [
            (w**2).mean(0, keepdims=True) if w.ndim > 1 else np.ones(1)
            for w in weights
        ]


class RMSGradients:
    def __init__(self, decay=0.99, epsilon=1e-5):
        self.decay, self.epsilon = decay, epsilon
        self.steps, self.moments = 0, None

    def diagonal(self, weights):
        if not self.steps:
            return [np.ones(1) for _ in weights]
        bias = 1 - self.decay**self.steps
        return [1 / (self.epsilon + np.sqrt(m / bias)) for m in self.moments]

    def observe(self, gradients):
        if self.moments is None:
            self.moments = [np.zeros_like(g) for g in gradients]
        self.steps += 1
        self.moments = [
            self.decay * m + (1 - self.decay) * g**2
            for m, g in zip(self.moments, gradients, strict=True)
        ]
