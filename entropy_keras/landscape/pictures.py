"""Pictures of curvature and of training: functions that return a figure."""

import collections
import itertools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from entropy_keras import requirements
from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.objective import objective_of
from entropy_keras.landscape.products import hessian_operator
from entropy_keras.landscape.products import restricted_operator
from entropy_keras.landscape.products import weight_indices
from entropy_keras.landscape.slices import losses_at
from entropy_keras.landscape.traces import Trace
from entropy_keras.landscape.traces import trace
from entropy_keras.validation import is_integer
from entropy_keras.validation import require


def plot_spectra(spectra: Mapping[str, Spectrum]) -> Any:
    """Draws spectra side by side, on linear and on logarithmic axes.

    Args:
        spectra: What `hessian_spectrum` or `spectral_density` found, by name:
            one network, or several whose spectra are to be compared.

    Returns:
        A figure of matplotlib, to be looked at or saved by `savefig`.

    Raises:
        ValueError: If there is none.
        ImportError: If matplotlib is not installed.

    Example:
    >>> from entropy_keras import landscape
    >>> spectra = {
    ...     name: landscape.spectral_density(np.diag(values), num_steps=3)
    ...     for name, values in {"a": [0.0, 1, 9], "b": [-1.0, 0, 3]}.items()
    ... }
    >>> len(landscape.plot_spectra(spectra).axes)
    2
    """
    require(len(spectra) > 0, "spectra", "one or more, by name", spectra)
    figure, (linear, logarithmic) = _panels("plot_spectra", 2, (11, 4))
    every = list(spectra.values())
    low = min(spectrum.smallest for spectrum in every)
    high = max(spectrum.largest for spectrum in every)
    reach = max(-low, high, 1e-30)
    least = max(1e-6 * reach, *(spectrum.resolution for spectrum in every))
    outer = np.geomspace(least, 1.05 * reach, 40)
    bins = {
        linear: np.linspace(1.05 * min(low, 0.0), 1.05 * reach, 80),
        logarithmic: np.concatenate([-outer[::-1], outer]),
    }
    for axes, edges in bins.items():
        for name, spectrum in spectra.items():
            axes.hist(
                spectrum.nodes.ravel(), edges, histtype="step",
                weights=spectrum.counts.ravel(),
                label=f"{name}: {spectrum.smallest:.3g} to "
                f"{spectrum.largest:.3g}",
            )  # fmt: skip
        axes.set(xlabel="eigenvalue", yscale="log")
        axes.grid(alpha=0.3)
    decades = 10.0 ** np.arange(
        np.ceil(np.log10(least)), np.floor(np.log10(reach)) + 1
    )
    logarithmic.set_xscale("symlog", linthresh=least)
    logarithmic.set_xticks([*-decades[::-1], 0.0, *decades])
    logarithmic.set_title(f"logarithmic beyond {least:.1g}", fontsize=10)
    linear.set_ylabel("number of eigenvalues")
    linear.legend(fontsize=8)
    return figure


def layer_traces(
    model: Any,
    data: Any = None,
    loss: Any = None,
    *,
    num_products: int = 30,
    seed: int = 0,
    **options: Any,
) -> dict[str, Trace]:
    """Estimates the trace of the Hessian's block of each variable.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples.
        loss: The loss; `None` for the compiled one.
        num_products: Products for each variable, at least 6.
        seed: Seed of the random vectors.
        **options: `batch_size` and `training`.

    Returns:
        The traces by the path of the variable, with a number from the second
        variable of the same path on; their sum is the whole trace.

    Raises:
        ValueError: If `num_products` is out of its range; see also `Objective`.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> traces = landscape.layer_traces(model, data, "mse")
    >>> [round(trace.value, 3) for trace in traces.values()]
    [2.0, 2.0]
    """
    objective = objective_of(model, data, loss, **options)
    operator = hessian_operator(objective)
    seen: collections.Counter[str] = collections.Counter()
    traces = {}
    for variable in objective.variables:
        path = variable.path
        seen[path] += 1
        name = path if seen[path] == 1 else f"{path} ({seen[path]})"
        traces[name] = trace(
            restricted_operator(operator, weight_indices(objective, variable)),
            num_products=num_products,
            seed=seed,
        )
    return traces


def plot_layer_traces(traces: Mapping[str, Mapping[str, Trace]]) -> Any:
    """Draws traces of variables as bars with three standard errors.

    Args:
        traces: What `layer_traces` found, by name: of one network, or of
            several of one architecture.

    Returns:
        A figure of matplotlib.

    Raises:
        ValueError: If there is none, or they are of different variables.
        ImportError: If matplotlib is not installed.
    """
    require(len(traces) > 0, "traces", "one or more, by name", traces)
    count = {len(each) for each in traces.values()}
    require(len(count) == 1, "traces", "of networks of one architecture", count)
    (number,) = count
    figure, (axes,) = _panels("plot_layer_traces", 1, (8, 0.4 * number + 1.6))
    height = 0.8 / len(traces)
    for i, (name, each) in enumerate(traces.items()):
        axes.barh(
            np.arange(number) + (i + 0.5) * height - 0.4,
            [trace.value for trace in each.values()],
            height,
            xerr=[3 * trace.standard_error for trace in each.values()],
            label=name,
        )
    axes.set_yticks(range(number), next(iter(traces.values())))
    axes.invert_yaxis()
    axes.set_xlabel("trace of the Hessian's block")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def plot_training_path(
    model: Any,
    data: Any,
    path: Sequence[Any],
    loss: Any = None,
    *,
    num_points: int = 25,
    **options: Any,
) -> Any:
    """Draws the loss around a training's path, in the plane of its motion.

    The plane goes through the last point, along the two first principal
    components of the path. What the path does beside it is not seen: titles say
    how much of its variance is.

    Args:
        model: A model with data, or an `Objective`: see there, as for `data`,
            `loss` and the options.
        data: The samples, `None` with an `Objective`.
        path: Trainable weights along the training, three or more, each a list
            of arrays in the order of `model.trainable_variables`.
        loss: The loss; `None` for the compiled one.
        num_points: Points of the grid along each direction, at least 3: the
            loss is evaluated at their square.
        **options: `batch_size` and `training`.

    Returns:
        A figure of matplotlib.

    Raises:
        ValueError: If `path` is not such a list; see also `Objective`.
        ImportError: If matplotlib is not installed.

    Example:
    >>> from entropy_keras import landscape
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.1), loss="mse")
    >>> x, y = np.eye(2, dtype="float32"), np.zeros([2, 1], "float32")
    >>> path = [model.get_weights()]
    >>> recorder = keras.callbacks.LambdaCallback(
    ...     on_epoch_end=lambda epoch, logs: path.append(model.get_weights())
    ... )
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[recorder])
    >>> figure = landscape.plot_training_path(
    ...     model, (x, y), path, num_points=5
    ... )
    """
    require(
        is_integer(num_points, 3),
        "num_points",
        "an integer of at least 3",
        num_points,
    )
    objective = objective_of(model, data, loss, **options)
    points = [
        np.concatenate([np.asarray(w, float).reshape(-1) for w in each])
        for each in path
    ]
    require(
        len(points) >= 3
        and all(len(p) == objective.num_parameters for p in points),
        "path",
        f"three or more lists of {len(objective.variables)} arrays: the "
        "trainable weights",
        f"{len(points)} of {sorted({len(p) for p in points})} numbers",
    )
    last = points[-1]
    moved = np.array(points) - last
    _, sizes, directions = np.linalg.svd(moved - moved.mean(0), False)
    places = moved @ directions[:2].T
    shares = 100 * sizes[:2] ** 2 / np.sum(sizes**2)
    low, high = places.min(0), places.max(0)
    margin = np.maximum(0.25 * (high - low), 0.1 * np.max(high - low))
    first, second = np.linspace(low - margin, high + margin, num_points).T
    losses = losses_at(
        objective, last, directions[1::-1], itertools.product(second, first)
    ).reshape(num_points, num_points)
    figure, (axes,) = _panels("plot_training_path", 1, (6.4, 5))
    drawn = axes.contourf(first, second, np.log10(losses - losses.min() + 1e-3
                          * np.ptp(losses)), 30, cmap="viridis")  # fmt: skip
    figure.colorbar(drawn, label="log10 of the loss above its least here")
    axes.plot(*places.T, "o-", color="white", markersize=3, linewidth=1)
    axes.plot(*places[0], "s", color="tab:orange", label="start")
    axes.plot(*places[-1], "*", color="tab:red", markersize=12, label="end")
    axes.set_xlabel(
        f"first component: {shares[0]:.1f} % of the path's variance"
    )
    axes.set_ylabel(f"second component: {shares[1]:.1f} %")
    axes.legend(fontsize=8)
    return figure


def _panels(what: str, count: int, size: tuple[float, float]) -> Any:
    """Returns a figure and its axes."""
    requirements.check_packages(f"`{what}`", "landscape", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, count))
