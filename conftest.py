"""What every test and docstring example can count on."""

import gc
import os
from collections.abc import Iterator

# Before NumPy is imported: on a busy machine, threads of BLAS that wait for
# each other make small eigenvalue problems a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import compilation

# What the imports made lives as long as the tests: searching it for garbage
# again and again took a tenth of their time.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 10, 10)


@pytest.fixture(autouse=True)
def _examples_namespace(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(
        entropy_keras=entropy_keras, keras=keras, np=np, tf=tf
    )


@pytest.fixture(autouse=True, scope="module")
def _tidy_heap() -> Iterator[None]:
    # What a file leaves behind would be searched in all those after it.
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _no_automatic_xla(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # Compiling takes seconds: tests ask for it with `jit_compile=True`.
    if not request.node.get_closest_marker("automatic_xla"):
        monkeypatch.setattr(compilation, "prefers_xla", lambda model: False)
