"""Curvature of a trained network, Hessian and Fisher: figures and numbers."""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import matplotlib as mpl
import numpy as np

from entropy_keras import landscape

mpl.use("Agg")

import matplotlib.pyplot as plt

THRESHOLDS = (1e-5, 1e-4, 1e-3, 1e-2)


def measure(
    model: keras.Model, samples: Any, method: str, workdir: pathlib.Path
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Computes a spectrum and writes `eigenvalues.npz`.

    Args:
        model: A compiled model.
        samples: `(x, y)`.
        method: See `landscape.hessian_spectrum`.
        workdir: Folder for the results; an explicit Hessian is kept there as
            `hessian.npy`, so that an interrupted run goes on.

    Returns:
        The numbers: both ends, trace, and shares of the eigenvalues of smaller
        magnitude than each threshold (`None` below the resolution); and what
        draws `spectrum.png`, once they are safe.
    """
    start = time.monotonic()
    spectrum = landscape.hessian_spectrum(
        model, samples, method=method, path=workdir / "hessian.npy"
    )
    seconds = time.monotonic() - start
    np.savez_compressed(
        workdir / "eigenvalues.npz",
        nodes=spectrum.nodes.astype("float32"),
        weights=spectrum.weights.astype("float32"),
    )
    content = numbers(spectrum) | {
        "samples": len(samples[1]),
        "seconds": seconds,
    }
    return content, lambda: plot(workdir / "spectrum.png", spectrum, model.name)


def numbers(spectrum: landscape.Spectrum) -> dict[str, Any]:
    """Returns what the paper says of a spectrum, and what it leaves out.

    Args:
        spectrum: The spectrum.

    Returns:
        Content for a JSON file.
    """
    count = spectrum.num_parameters
    trace = spectrum.mean(lambda nodes: nodes)
    shares: dict[str, Any] = {}
    for threshold in THRESHOLDS:
        below = None
        if threshold >= spectrum.resolution:
            below = spectrum.share_below(threshold)._asdict()
        shares[f"{threshold:g}"] = below
    return {
        "method": spectrum.method,
        "parameters": count,
        "largest": spectrum.largest,
        "smallest": spectrum.smallest,
        "resolution": spectrum.resolution,
        "trace": count * trace.value,
        "trace_standard_error": count * trace.standard_error,
        "share_exactly_zero": float(spectrum.weights[spectrum.nodes == 0].sum())
        / len(spectrum.nodes),
        "share_below": shares,
    }


def measure_fisher(
    model: keras.Model,
    samples: Any,
    workdir: pathlib.Path,
    adam_batches: tuple[int, int] | None = None,
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Estimates the diagonal of the Fisher information in up to three ways.

    They are the empirical and the true Fisher information of
    `landscape.fisher_diagonal`, the latter where a sample has one label, and
    what the moments of Adam say, see `landscape.fisher_from_adam`. Writes
    `diagonals.npz`.

    Args:
        model: A compiled model; its loss must be a negative log-likelihood.
        samples: `(x, y)`.
        workdir: Folder for the results.
        adam_batches: Batch size and number of the samples that the model's
            optimizer, an Adam, saw; `None` leaves its estimate out.

    Returns:
        The numbers, of each estimate under `estimates`, and what draws
        `spectrum.png`, once they are safe.
    """
    start = time.monotonic()
    has_one_label = len(model.output_shape) == 2
    diagonals: dict[str, Any] = {
        kind: landscape.fisher_diagonal(model, samples, kind=kind)
        for kind in (("empirical", "true") if has_one_label else ("empirical",))
    }
    if adam_batches is not None:
        diagonals["adam"] = landscape.fisher_from_adam(
            model.optimizer, *adam_batches
        )
    seconds = time.monotonic() - start
    np.savez_compressed(workdir / "diagonals.npz", **diagonals)
    content = {
        "method": "fisher",
        "parameters": len(diagonals["empirical"]),
        "samples": len(samples[1]),
        "seconds": seconds,
        "estimates": {
            name: fisher_numbers(diagonal)
            for name, diagonal in diagonals.items()
        },
    }
    return content, lambda: plot_fisher(
        workdir / "spectrum.png", diagonals, model.name
    )


def fisher_numbers(diagonal: np.ndarray) -> dict[str, Any]:
    """Returns of a diagonal what `numbers` returns of a spectrum.

    Args:
        diagonal: An estimate of the diagonal, of shape `[n]`.

    Returns:
        Content for a JSON file.

    Example:
    >>> fisher_numbers(np.array([-1.0, 0.0, 0.0, 2.0]))["share_negative"]
    0.25
    """
    return {
        "largest": float(diagonal.max()),
        "smallest": float(diagonal.min()),
        "trace": float(diagonal.sum(dtype="float64")),
        "share_exactly_zero": float(np.mean(diagonal == 0.0)),
        "share_negative": float(np.mean(diagonal < 0.0)),
        "share_below": {
            f"{threshold:g}": float(np.mean(np.abs(diagonal) < threshold))
            for threshold in THRESHOLDS
        },
    }


def _interval(low: float, high: float) -> tuple[float, float]:
    """Returns an interval of some width around numbers, all alike or not."""
    if low < high:
        return low, high
    width = 0.1 * abs(low) or 1.0
    return low - width, high + width


def plot_fisher(
    path: pathlib.Path, diagonals: dict[str, np.ndarray], name: str
) -> None:
    """Draws diagonals as in figure 3 (c), and their shares near zero.

    Args:
        path: Path of the PNG.
        diagonals: Estimates by name.
        name: What they are of.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.6), layout="constrained"
    )
    every = np.concatenate(list(diagonals.values()))
    bins = np.linspace(*_interval(every.min(), every.max()), 120)
    for label, diagonal in diagonals.items():
        left.hist(diagonal, bins, log=True, histtype="step", label=label)
        right.ecdf(np.abs(diagonal), label=label)
    left.set(xlabel="entry of the diagonal", ylabel="number of entries")
    right.set(
        xlabel="magnitude",
        ylabel="share of entries up to it",
    )
    if every.any():
        right.set(xscale="log", xlim=(1e-7, max(np.abs(every).max(), 1e-6)))
    for axes, place in ((left, "upper right"), (right, "upper left")):
        axes.grid(alpha=0.3)
        axes.legend(loc=place)
    figure.suptitle(
        f"Fisher information of {name}: "
        f"{every.size // len(diagonals):,} diagonal entries"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot(path: pathlib.Path, spectrum: landscape.Spectrum, name: str) -> None:
    """Draws the spectrum as in figures 1 and 3: the peak and both tails.

    Args:
        path: Path of the PNG.
        spectrum: The spectrum.
        name: What it is of.
    """
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 3.4), layout="constrained", width_ratios=[1, 1, 1.4]
    )
    nodes, counts = spectrum.nodes.ravel(), spectrum.counts.ravel()
    peak = 0.01 * max(np.abs(nodes).max(), 1e-12)
    for axes, low, high, title in (
        (left, min(spectrum.smallest, 0.0), 0.0, "negative tail"),
        (middle, -peak, peak, "near zero"),
        (right, 0.0, max(spectrum.largest, 0.0), "positive tail"),
    ):
        axes.set(title=title, xlabel="eigenvalue")
        axes.grid(alpha=0.3)
        inside = (low <= nodes) & (nodes <= high) & (counts > 0.0)
        if low == high or not inside.any():
            axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
            continue
        axes.hist(nodes, np.linspace(low, high, 80), weights=counts, log=True)
        axes.set_xlim(low, high)
        axes.locator_params(axis="x", nbins=5)
    left.set_ylabel("number of eigenvalues")
    figure.suptitle(
        f"Hessian of {name}: {spectrum.num_parameters:,} eigenvalues, "
        f"{spectrum.method}, from {spectrum.smallest:.3g} to "
        f"{spectrum.largest:.3g}"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
