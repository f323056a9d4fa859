"""Writes a file of arrays as a set that TensorFlow Datasets can read.

python -m trainers.prepare --npz=mine.npz --name=mine --data_dir=sets
python -m trainers.train --dataset=mine --data_dir=sets
"""

import sys
from collections.abc import Sequence

from absl import app
from absl import flags

from trainers import sources
from trainers import usage

_NPZ = flags.DEFINE_string(
    "npz",
    None,
    "Keras-style file with x_train and y_train, and x_test and y_test or "
    "neither.",
    required=True,
)
_NAME = flags.DEFINE_string("name", None, "Name of the set.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of sets.", required=True
)
_STANDARDIZED = flags.DEFINE_bool(
    "standardized",
    False,
    "Whether images are floats of mean 0 and standard deviation 1.",
)


def main(arguments: Sequence[str]) -> None:
    """Writes the set, and prints its folder.

    Args:
        arguments: The command line without its flags.
    """
    usage.require_flags(arguments)
    try:
        folder = sources.write_tfds(
            sources.read_npz(_NPZ.value),
            _NAME.value,
            _DATA_DIR.value,
            standardized=_STANDARDIZED.value,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(folder)


if __name__ == "__main__":
    app.run(main)
