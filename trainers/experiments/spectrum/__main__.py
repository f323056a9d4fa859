r"""Computes the spectrum of a network's Hessian, as figures 1 and 3 show it.

Trains a network as `trainers.train` does, by the same flags, or takes the run
that is in --workdir, or a .keras file; then writes `spectrum.json`,
`spectrum.png` and `eigenvalues.npz` into --results:

    python -m trainers.experiments.spectrum --network=small_mnistfc \
        --optimizer=adam

With --method=fisher it takes the diagonal of the Fisher information in place
of the eigenvalues, as figure 3 (c) does, and writes `diagonals.npz`.
"""

import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence

import keras
import numpy as np
from absl import app
from absl import flags
from absl import logging

from trainers import report
from trainers import train
from trainers import training
from trainers import usage
from trainers.experiments.spectrum import curvature

_METHODS = ("auto", "exact", "lanczos", "fisher")

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .keras file, compiled with a loss, to use instead of training one.",
)
_SAMPLES = flags.DEFINE_integer(
    "samples",
    1000,
    "How many training samples, drawn at random, the Hessian, or the Fisher "
    "information, is the mean over.",
    lower_bound=1,
)
_METHOD = flags.DEFINE_enum(
    "method",
    "auto",
    _METHODS,
    "'exact' for every eigenvalue, 'lanczos' for a density and both ends, "
    "'auto' for the former up to 12,000 parameters; 'fisher' for the diagonal "
    "of the Fisher information, for networks of any size, also from the "
    "moments of the Adam that trained the run.",
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
    usage.require_flags(arguments)
    config = train.config_from_flags()
    results = pathlib.Path(_RESULTS.value)
    adam_batches, outcome = None, {}
    try:
        if _MODEL.value is None:
            run = training.prepare(config, flags.FLAGS.workdir)
            outcome = {"training": training.finish(run)}
            model, splits = run.model, run.splits
            is_adam = config.optimizer in {"adam", "adamw"}
            if is_adam and config.clipnorm is None:
                adam_batches = config.batch_size, len(splits.train.labels)
        else:
            model = keras.models.load_model(_MODEL.value)
            splits = training.load_data(config)
        # Drawn at random: the first ones may be of a few classes.
        drawn = np.random.default_rng(0).permutation(len(splits.train.labels))
        samples = tuple(part[drawn[: _SAMPLES.value]] for part in splits.train)
        results.mkdir(parents=True, exist_ok=True)
        if _METHOD.value == "fisher":
            content, draw = curvature.measure_fisher(
                model, samples, results, adam_batches
            )
        else:
            content, draw = curvature.measure(
                model, samples, _METHOD.value, results
            )
    except ValueError as error:
        sys.exit(f"error: {error}")
    program = ["python", "-m", "trainers.experiments.spectrum"]
    command = shlex.join([*program, *sys.argv[1:]])
    content = {"command": command} | content | outcome
    content["config"] = dataclasses.asdict(config)
    report.write_results(results / "spectrum.json", content)
    print(json.dumps(content, indent=2))
    draw()  # Last: nothing that goes wrong here costs the numbers.


if __name__ == "__main__":
    app.run(main)
