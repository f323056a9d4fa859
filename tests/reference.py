"""An independent NumPy version of the update, and a network to try it on.

Written from the method's canonical form alone: nothing here imports the
package.
"""

import numpy as np


class Network:
    """A tanh network with squared loss and an L2 penalty, in NumPy.

    loss = mean((tanh(x W + b) V - y)**2) + penalty * sum(W**2)
    """

    def __init__(self, penalty):
        self.penalty = penalty

    def gradient(self, weights, x, y):
        kernel, bias, readout = weights
        hidden = np.tanh(x @ kernel + bias)
        error = 2 * (hidden @ readout - y) / y.size
        back = (error @ readout.T) * (1 - hidden**2)
        return [
            x.T @ back + 2 * self.penalty * kernel,
            back.sum(0),
            hidden.T @ error,
        ]


def clip(gradients, settings):
    if settings.get("clipvalue"):
        limit = settings["clipvalue"]
        return [np.clip(g, -limit, limit) for g in gradients]
    norms = [np.sqrt((g**2).sum()) for g in gradients]
    if settings.get("clipnorm"):
        limit = settings["clipnorm"]
        return [
            g * min(1.0, limit / norm)
            for g, norm in zip(gradients, norms, strict=True)
        ]
    if settings.get("global_clipnorm"):
        total = np.sqrt(sum(norm**2 for norm in norms))
        return [
            g * min(1.0, settings["global_clipnorm"] / total) for g in gradients
        ]
    return gradients


def entropy_gradient(
    gradient, x, minibatches, noise, settings, sampler, metric
):
    """Returns the gradient that the outer optimizer takes.

    `gradient(weights, *minibatch)` is that of the loss, `noise(step, stream)`
    returns a list of standard normals, `settings` holds the hyper-parameters of
    this update by the names of the package, with `h` for the inner step size;
    sampler and metric are those of `reference_samplers`.
    """
    s = settings
    num_steps, scope, temperature = s["L"], s["scope"], s["temperature"]
    diagonal = metric.diagonal(x)
    setting = s["h"], scope, temperature, diagonal
    position = [w.copy() for w in x]
    path = [np.zeros_like(w) for w in x]
    if s["start"] == "stationary":
        path = [
            np.sqrt(temperature * m / scope) * xi
            for m, xi in zip(diagonal, noise(0, 0), strict=True)
        ]
        position = [w + n for w, n in zip(x, path, strict=True)]
    sampler.start(position, noise(0, 1), setting)
    if s["quiet"]:
        # The noise alone: no gradient, around 0.
        alone = sampler.alone()
        alone.start(path, noise(0, 1), setting)
        nothing = [np.zeros_like(w) for w in x]
    mean = [w.copy() for w in x]
    positions, gradients = [], []
    for step in range(1, num_steps + 1):
        g = clip(gradient(position, *minibatches(step - 1)), s)
        sampler.step(position, g, x, noise(step, 0), setting)
        metric.observe(g)
        sample = [p.copy() for p in position]
        if s["quiet"]:
            alone.step(path, nothing, nothing, noise(step, 0), setting)
            sample = [p - n for p, n in zip(position, path, strict=True)]
        positions.append(sample)
        gradients.append(g)
        if s["averaging_rate"] is not None:
            rate = s["averaging_rate"]
            mean = [
                (1 - rate) * m + rate * p
                for m, p in zip(mean, sample, strict=True)
            ]
    if s["averaging_rate"] is None and num_steps:
        mean = [np.mean(samples, 0) for samples in zip(*positions, strict=True)]
    factor = scope if s["scale_by_scope"] else 1.0
    total = [factor * (w - m) for w, m in zip(x, mean, strict=True)]
    if s["estimator"] == "mean_gradient":
        total = [
            np.mean(samples, 0) for samples in zip(*gradients, strict=True)
        ]
    if s["data_weight"] > 0:
        g = clip(gradient(x, *minibatches(num_steps)), s)
        total = [
            t + s["data_weight"] * g_i for t, g_i in zip(total, g, strict=True)
        ]
    return total


def sharpness_aware_gradient(gradient, x, batch, radius, adaptive):
    """Returns the gradient at the worst weights within a ball."""
    scale = [abs(w) if adaptive else np.ones_like(w) for w in x]
    ascent = [a * g for a, g in zip(scale, gradient(x, *batch), strict=True)]
    norm = np.sqrt(sum((a**2).sum() for a in ascent))
    worst = [
        w + radius * s * a / norm
        for w, s, a in zip(x, scale, ascent, strict=True)
    ]
    return gradient(worst, *batch)


class OuterSGD:
    """Keras's SGD: plain, or with Nesterov momentum, and weight decay."""

    def __init__(self, momentum=0.0, weight_decay=0.0):
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocity = None

    def apply(self, weights, gradients, learning_rate):
        if self.velocity is None:
            self.velocity = [np.zeros_like(w) for w in weights]
        result = []
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            w = w - w * self.weight_decay * learning_rate
            v = self.momentum * self.velocity[i] - learning_rate * g
            self.velocity[i] = v
            result.append(w + self.momentum * v - learning_rate * g)
        return result


class OuterAdam:
    """Keras's Adam."""

    def __init__(self, beta_1, beta_2, epsilon):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.time, self.first, self.second = 0, None, None

    def apply(self, weights, gradients, learning_rate):
        if self.first is None:
            self.first = [np.zeros_like(w) for w in weights]
            self.second = [np.zeros_like(w) for w in weights]
        self.time += 1
        b1, b2 = self.beta_1, self.beta_2
        rate = learning_rate * np.sqrt(1 - b2**self.time) / (1 - b1**self.time)
        result = []
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            self.first[i] = b1 * self.first[i] + (1 - b1) * g
            self.second[i] = b2 * self.second[i] + (1 - b2) * g**2
            step = self.first[i] / (np.sqrt(self.second[i]) + self.epsilon)
            result.append(w - rate * step)
        return result
