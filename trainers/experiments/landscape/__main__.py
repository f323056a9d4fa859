"""Draws figure 2 of the paper: how the local entropy prefers a wide valley.

    python -m trainers.experiments.landscape

writes `figure2.png` and `figure2.json` into `--workdir`: a loss of one weight
with a wide and a deeper, sharp valley, and its negative local entropy -F at
several scopes and temperatures, once by quadrature and once by the sampler of
the package. For both valleys the numbers also hold what `local_entropy` says of
them, as it would of any Keras model, where it withholds what it cannot know.
Takes about six minutes on one core.
"""

import pathlib
import time
from collections.abc import Sequence

from absl import app
from absl import flags

from trainers import usage
from trainers.experiments.landscape import figure2

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/landscape", "Folder that receives figure and numbers."
)
_SCOPES = flags.DEFINE_multi_float(
    "scopes",
    [1.0, 10.0, 30.0, 100.0],
    "Scopes; give the flag once for each.",
    lower_bound=0.01,
)
_TEMPERATURES = flags.DEFINE_multi_float(
    "temperatures",
    [1.0, 0.05],
    "Temperatures; give the flag once for each.",
    lower_bound=0.001,
)
_CHAINS = flags.DEFINE_integer(
    "num_chains",
    32,
    "Chains at each position and coupling.",
    lower_bound=2,
)
_STEPS = flags.DEFINE_integer(
    "num_steps",
    20_000,
    "Steps of each chain, of which the first quarter is discarded.",
    lower_bound=10,
    upper_bound=65_535,
)
_STEP_SIZE = flags.DEFINE_float(
    "step_size",
    4e-4,
    "Step size; above 1 / 1200 chains leave the sharp valley by force.",
    lower_bound=1e-9,
    upper_bound=1 / 1200,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", lower_bound=0)


def main(arguments: Sequence[str]) -> None:
    """Computes, draws, and prints where the minima lie.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    settings = {
        "scopes": _SCOPES.value,
        "temperatures": _TEMPERATURES.value,
        "num_chains": _CHAINS.value,
        "num_steps": _STEPS.value,
        "step_size": _STEP_SIZE.value,
        "seed": _SEED.value,
    }
    rows = figure2.measure(**settings)
    figure2.write(
        pathlib.Path(_WORKDIR.value),
        rows,
        {
            "command": "python -m trainers.experiments.landscape",
            "date": time.strftime("%Y-%m-%d"),
            "settings": settings,
        },
    )
    print("temperature  scope  minimum of -F by quadrature, by sampling")
    for row in rows:
        print(
            f"{row['temperature']:11g} {row['scope']:6g} "
            f"{row['minimum_by_quadrature']:28.2f} "
            f"{row['minimum_by_sampling']:12.2f}"
        )


if __name__ == "__main__":
    app.run(main)
