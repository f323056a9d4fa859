"""Keras must run on TensorFlow, and says otherwise in many ways."""

import os


def check() -> None:
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
