"""What every test and docstring example can count on."""

import os

# Before NumPy is imported: on a busy machine, threads of BLAS that wait for
# each other make small eigenvalue problems a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras


@pytest.fixture(autouse=True)
def _examples_namespace(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(
        entropy_keras=entropy_keras, keras=keras, np=np, tf=tf
    )


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    keras.utils.set_random_seed(0)
