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


def sampler_step(kind, position, g, x, xi, velocity, h, scope, temperature, m):
    """Returns the new position and velocity of one variable.

    `m` is the metric of its weights, a number or an array.
    """
    if kind[0] == "split":
        pulled = x + np.exp(-h * scope) * (position - x)
        position = pulled - (1 - np.exp(-h * scope)) / scope * m * g
        variance = temperature * m * (1 - np.exp(-2 * h * scope)) / scope
        return position + np.sqrt(variance) * xi, velocity
    _, momentum, nesterov = kind
    velocity = momentum * velocity - h * m * g
    move = momentum * velocity - h * m * g if nesterov else velocity
    position = position + move - h * scope * (position - x)
    return position + np.sqrt(2 * h * temperature * m) * xi, velocity


def relative_metric(weights):
    """Returns the mean square of the weights of each unit, 1 for vectors."""
    return [
        (w**2).mean(0, keepdims=True) if w.ndim > 1 else 1.0 for w in weights
    ]


def entropy_gradient(gradient, x, minibatches, noise, settings, inner=None):
    """Returns the gradient that the outer optimizer takes.

    `gradient(weights, *minibatch)` is that of the loss, `noise(step)` returns a
    list of standard normals, `settings` holds the hyper-parameters of this
    update by the names of the package, with `h` for the inner step size.
    `inner` is an optimizer like those below that takes the steps instead.
    """
    s = settings
    num_steps, scope, temperature = s["L"], s["scope"], s["temperature"]
    metric = [1.0] * len(x)
    if s["metric"] == "relative":
        metric = relative_metric(x)
    position = [w.copy() for w in x]
    path = [np.zeros_like(w) for w in x]
    if s["start"] == "stationary":
        path = [
            np.sqrt(temperature * m / scope) * xi
            for m, xi in zip(metric, noise(0), strict=True)
        ]
        position = [w + n for w, n in zip(x, path, strict=True)]
    mean = [w.copy() for w in x]
    velocity = [np.zeros_like(w) for w in x]
    positions, gradients = [], []
    for step in range(1, num_steps + 1):
        g = clip(gradient(position, *minibatches(step - 1)), s)
        xi = noise(step)
        if inner is not None:
            moved = inner.apply(position, g, s["h"])
        for i in range(len(x)):
            arguments = s["h"], scope, temperature, metric[i]
            if inner is None:
                position[i], velocity[i] = sampler_step(
                    s["kind"], position[i], g[i], x[i], xi[i], velocity[i],
                    *arguments,
                )  # fmt: skip
            else:
                spread = np.sqrt(2 * s["h"] * temperature * metric[i])
                position[i] = (
                    moved[i]
                    - s["h"] * scope * (position[i] - x[i])
                    + spread * xi[i]
                )
            # The noise alone: no gradient, around 0, without momentum.
            kind = ("split",) if s["kind"][0] == "split" else ("sgld", 0, False)
            path[i], _ = sampler_step(
                kind, path[i], 0.0, 0.0, xi[i], 0.0, *arguments
            )
            sample = position[i] - path[i] if s["quiet"] else position[i]
            if s["averaging_rate"] is not None:
                rate = s["averaging_rate"]
                mean[i] = (1 - rate) * mean[i] + rate * sample
            positions.append(sample.copy())
        gradients.append(g)
    if s["averaging_rate"] is None and num_steps:
        mean = [np.mean(positions[i :: len(x)], 0) for i in range(len(x))]
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
