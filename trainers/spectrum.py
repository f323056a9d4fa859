"""Computes the spectrum of a network's Hessian, as figures 1 and 3 show it.

Trains a network as `trainers.train` does, by the same flags, or takes the run
that is in --workdir, or a .keras file; then writes `spectrum.json`,
`spectrum.png` and `eigenvalues.npz` into --results:

    python -m trainers.spectrum --network=small_mnistfc --optimizer=adam
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import keras
from absl import app
from absl import flags
from absl import logging

from trainers import curvature
from trainers import train
from trainers import training

_METHODS = ("auto", "exact", "lanczos")

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .keras file, compiled with a loss, to use instead of training one.",
)
_SAMPLES = flags.DEFINE_integer(
    "samples",
    1000,
    "How many of the first training samples the Hessian is the mean over.",
    lower_bound=1,
)
_METHOD = flags.DEFINE_enum(
    "method",
    "auto",
    _METHODS,
    "'exact' for every eigenvalue, 'lanczos' for a density and both ends, "
    "'auto' for the former up to 12,000 parameters.",
)
_RESULTS = flags.DEFINE_string(
    "results", "runs/spectrum", "Folder for the results."
)


def main(arguments: Sequence[str]) -> None:
    """Computes the spectrum and prints its numbers as JSON.

    Args:
        arguments: The command line without its flags.
    """
    logging.set_verbosity(logging.WARNING)
    if len(arguments) > 1:
        sys.exit(f"error: all arguments are flags. Received: {arguments[1:]}")
    config = train.config_from_flags()
    results = pathlib.Path(_RESULTS.value)
    try:
        if _MODEL.value is None:
            run = training.prepare(config, flags.FLAGS.workdir)
            training.finish(run)
            model, splits = run.model, run.splits
        else:
            model = keras.models.load_model(_MODEL.value)
            splits = training.load_data(config)
        samples = tuple(part[: _SAMPLES.value] for part in splits.train)
        results.mkdir(parents=True, exist_ok=True)
        content = curvature.measure(model, samples, _METHOD.value, results)
    except ValueError as error:
        sys.exit(f"error: {error}")
    content["config"] = dataclasses.asdict(config)
    curvature.write(results / "spectrum.json", content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    app.run(main)
