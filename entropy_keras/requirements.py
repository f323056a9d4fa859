"""What must be there, said in one sentence where it is not."""

import importlib.util
import os


def check_backend() -> None:
    """Refuses another backend of Keras, before anything imports it.

    Raises:
        ImportError: If Keras runs, or is to run, on another backend.
    """
    # Keras itself cannot be imported where the backend is not installed.
    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    if name == "tensorflow":
        import keras

        name = keras.backend.backend()
    if name != "tensorflow":
        raise ImportError(
            "entropy_keras needs Keras on TensorFlow: set the environment "
            "variable KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: KERAS_BACKEND={name}"
        )


def check_packages(part: str, extra: str, *packages: str) -> None:
    """Refuses a part of this package whose requirements are not installed.

    Args:
        part: What needs them.
        extra: The extra of the installation that brings them.
        *packages: Their names, as they are imported.

    Raises:
        ImportError: If one cannot be found.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"{part} needs {package}, which is not installed: "
                f"pip install 'entropy_keras[{extra}]'"
            )
