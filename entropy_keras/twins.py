"""Twins of model classes: the same class with another behaviour besides.

Keras turns a subclass of `keras.Model` that is made from inputs and outputs
into a functional one by inserting its functional class below it, for good: a
subclass with a `call` of its own, defined or made afterwards, no longer works.
Here the class itself stays as it is, and such models belong to a twin of it.
"""

import functools
from typing import Any

import keras


def is_functional(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tells whether a model is made from inputs and outputs.

    Args:
        args: Positional arguments of its `__init__`.
        kwargs: Keyword arguments of its `__init__`.

    Returns:
        Whether both inputs and outputs are among them.
    """
    return len(args) + ("inputs" in kwargs) + ("outputs" in kwargs) >= 2


@functools.cache
def functional_class() -> type[keras.Model]:
    """Returns Keras's functional model class, which has no public name.

    Returns:
        The class of `keras.Model(inputs, outputs)`.
    """
    # Named, so that Keras's counters do not move; versions before 3.14 refuse a
    # model whose outputs are its inputs.
    inputs = keras.Input((), name="probe_inputs")
    outputs = keras.layers.Identity(name="probe_outputs")(inputs)
    return type(keras.Model(inputs, outputs, name="probe"))


@functools.cache
def functional_twin(cls: Any) -> Any:
    """Returns a model class with the behaviour of a functional model.

    Args:
        cls: A subclass of `keras.Model`.

    Returns:
        A subclass of `cls` and of Keras's functional model.
    """
    return _twin(cls, functional_class())


@functools.cache
def extended_twin(cls: Any, extension: Any) -> Any:
    """Returns a model class with the behaviour of another besides.

    Args:
        cls: A subclass of `keras.Model`, whose own methods win.
        extension: Another one.

    Returns:
        A subclass of both.
    """
    return _twin(cls, extension)


def _twin(cls: Any, base: Any) -> Any:
    """Returns a subclass of both that files record in place of `cls`."""
    twin = type(
        cls.__name__,
        (cls, base),
        {"__module__": cls.__module__, "__doc__": cls.__doc__},
    )
    package, _, name = keras.saving.get_registered_name(cls).rpartition(">")
    if package:
        keras.saving.register_keras_serializable(package, name)(twin)
    return twin
