"""The few numbers that say how flat a minimum is: table and picture."""

import dataclasses
import math
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from entropy_keras import requirements
from entropy_keras.landscape.density import Spectrum
from entropy_keras.landscape.slices import Slice
from entropy_keras.validation import as_python


class Measured(NamedTuple):
    """A number and the range it is known to be in.

    Attributes:
        value: The number; NaN where there are only bounds.
        low: Lower end of the range.
        high: Upper end of the range; infinite where there is none.
        meaning: What the range is.
    """

    value: float
    low: float
    high: float
    meaning: str


@dataclasses.dataclass(frozen=True)
class FlatnessReport:
    """What `flatness_report` measured; `print` shows it as a table.

    Attributes:
        name: Name of the model.
        num_parameters: Number of trainable weights, n.
        num_samples: Number of samples that the loss is the mean over.
        loss: The loss.
        largest: Largest eigenvalue of the Hessian.
        smallest: Smallest eigenvalue.
        trace: Sum of all eigenvalues.
        near_zero: Share of the eigenvalues of smaller magnitude than the
            threshold.
        local_entropy: Local entropy less that of a flat loss, in units of the
            loss, see `local_entropy`.
        sharpness: Largest rise of the loss close by, in per cent, see
            `epsilon_sharpness`.
        threshold: That of `near_zero`; `None` if that was not afforded.
        scope: Scope of the local entropy.
        temperature: Temperature of the local entropy.
        spectrum: Density of the spectrum, or `None`.
        line: Losses along a random line through the weights, see `loss_slice`,
            or `None`.
    """

    name: str
    num_parameters: int
    num_samples: int
    loss: float
    largest: Measured
    smallest: Measured
    trace: Measured
    near_zero: Measured
    local_entropy: Measured
    sharpness: Measured
    threshold: float | None
    scope: float
    temperature: float
    spectrum: Spectrum | None
    line: Slice | None

    def __str__(self) -> str:
        """Returns the table, in aligned columns."""
        threshold = "?" if self.threshold is None else f"{self.threshold:g}"
        entropy = f"scope {self.scope:g}, temperature {self.temperature:g}"
        rows: list[list[str]] = [["", "value", "from", "to", "the range"]]
        for label, measured in (
            ("largest eigenvalue", self.largest),
            ("smallest eigenvalue", self.smallest),
            ("trace", self.trace),
            (f"share of |eigenvalue| < {threshold}", self.near_zero),
            (f"local entropy ({entropy})", self.local_entropy),
            ("sharpness in a box [%]", self.sharpness),
        ):
            cells = [
                f"{number:.6g}" if math.isfinite(number) else "-"
                for number in measured[:3]
            ]
            rows.append([label, *cells, measured.meaning])
        columns = zip(*rows, strict=True)
        first, *others, _ = (max(map(len, column)) for column in columns)
        lines = [
            f"Flatness of {self.name}: {self.num_parameters:,} weights, "
            f"{self.num_samples:,} samples, loss {self.loss:.6g}"
        ]
        for label, *numbers, meaning in rows:
            aligned = map(str.rjust, numbers, others)
            lines.append("  ".join([label.ljust(first), *aligned, meaning]))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers, for a JSON file.

        Returns:
            All attributes but the spectrum and the line. Those of type
            `Measured` are dictionaries; what is not finite is `None`.
        """
        content: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            if field.name in {"spectrum", "line"}:
                continue
            value = getattr(self, field.name)
            if isinstance(value, Measured):
                content[field.name] = {
                    name: _finite(part)
                    for name, part in value._asdict().items()
                }
            else:
                content[field.name] = _finite(value)
        return content

    def plot(self, path: str | pathlib.Path) -> None:
        """Draws the density of the spectrum, and the loss along a line.

        Gaps beside the threshold may be those between the quadrature's nodes.

        Args:
            path: Where to write; its suffix, as `.png`, says in which format.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        requirements.check_packages("`plot`", "landscape", "matplotlib")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
        self._plot_spectrum(left)
        self._plot_line(right)
        figure.suptitle(
            f"Flatness of {self.name}: {self.num_parameters:,} weights, "
            f"{self.num_samples:,} samples"
        )
        figure.savefig(path, dpi=120)

    def _plot_line(self, axes: Any) -> None:
        """Draws the losses along the line.

        Args:
            axes: Of matplotlib.
        """
        if self.line is None:
            _say_missing(axes)
        else:
            axes.plot(self.line.distances, self.line.losses)
        axes.plot(0.0, self.loss, "o", color="black")
        axes.set(
            title="loss along a random direction",
            xlabel="distance, as a part of each unit's weights",
            ylabel="loss",
        )
        axes.grid(alpha=0.3)

    def _plot_spectrum(self, axes: Any) -> None:
        """Draws the density, linear within the threshold, else logarithmic.

        Args:
            axes: Of matplotlib.
        """
        axes.set(
            title="spectrum of the Hessian",
            xlabel="eigenvalue",
            ylabel="number of eigenvalues",
        )
        axes.grid(alpha=0.3)
        if self.spectrum is None or self.threshold is None:
            _say_missing(axes)
            return
        threshold = self.threshold
        _, low, high, _ = self.near_zero
        nodes, counts = (
            self.spectrum.nodes.ravel(),
            self.spectrum.counts.ravel(),
        )
        reach = max(np.abs(nodes).max(), 2.0 * threshold)
        outer = np.geomspace(threshold, 1.1 * reach, 15)
        axes.hist(nodes, [*-outer[::-1], *outer], weights=counts, log=True)
        axes.axvspan(
            -threshold,
            threshold,
            color="tab:green",
            alpha=0.2,
            label=f"{100 * low:.1f} to {100 * high:.1f} % below {threshold:g}",
        )
        for end, name, colour in (
            (self.smallest.value, "smallest", "tab:purple"),
            (self.largest.value, "largest", "tab:red"),
        ):
            label = f"{name} {end:.4g}"
            axes.axvline(end, color=colour, linestyle="--", label=label)
        axes.set_xscale("symlog", linthresh=threshold)
        axes.set_xlim(min(1.5 * nodes.min(), -2.0 * threshold), 1.5 * reach)
        axes.legend(loc="upper right")


def _say_missing(axes: Any) -> None:
    axes.text(0.5, 0.5, "not afforded", ha="center", transform=axes.transAxes)


def _finite(value: Any) -> Any:
    """Returns a value for JSON, `None` for a number that is not finite."""
    value = as_python(value)
    is_lost = isinstance(value, float) and not math.isfinite(value)
    return None if is_lost else value
