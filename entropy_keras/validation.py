"""Checks of arguments, in the one form of error that the package uses."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np


def require(
    condition: bool, argument: str, expectation: str, value: object
) -> None:
    """Raises a `ValueError` in the package's form unless `condition` holds.

    Args:
        condition: What must be true of `value`.
        argument: Name of the argument, as the caller wrote it.
        expectation: What the argument must be, and the cure if it helps.
        value: What was received.

    Raises:
        ValueError: If `condition` is false.
    """
    if not condition:
        raise ValueError(
            f"`{argument}` must be {expectation}. Received: {argument}={value}"
        )


def require_positive(**arguments: object) -> None:
    """Raises a `ValueError` unless every argument is a positive number.

    Args:
        **arguments: Values by the name of the argument.

    Example:
    >>> require_positive(scope=0.1, temperature=0.0)
    Traceback (most recent call last):
    ValueError: `temperature` must be a positive number. Received:
    temperature=0.0
    """
    for name, value in arguments.items():
        require(is_positive(value), name, "a positive number", value)


def require_fraction(**arguments: object) -> None:
    """Raises a `ValueError` unless every argument is a number in [0, 1).

    Args:
        **arguments: Values by the name of the argument.

    Example:
    >>> require_fraction(momentum=0.9, decay=1.0)
    Traceback (most recent call last):
    ValueError: `decay` must be a float in [0, 1). Received: decay=1.0
    """
    for name, value in arguments.items():
        fraction = is_number(value, 0.0) and value < 1  # type: ignore[operator]
        require(fraction, name, "a float in [0, 1)", value)


def is_number(value: object, minimum: float = -math.inf) -> bool:
    """Tells whether `value` is a finite real number of at least `minimum`.

    Args:
        value: Anything. Booleans are not numbers here.
        minimum: The smallest number allowed.

    Returns:
        Whether `value` is such a number.
    """
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
        and float(value) >= minimum
    )


def is_positive(value: object) -> bool:
    """Tells whether `value` is a finite positive number.

    Args:
        value: Anything.

    Returns:
        Whether `value` is such a number.
    """
    return is_number(value, 0.0) and bool(value)


def is_integer(value: object, minimum: int) -> bool:
    """Tells whether `value` is an integer of at least `minimum`.

    Args:
        value: Anything. Booleans are not integers here.
        minimum: The smallest integer allowed.

    Returns:
        Whether `value` is such an integer.
    """
    return isinstance(value, numbers.Integral) and is_number(value, minimum)


def as_python(value: Any) -> Any:
    """Returns a scalar of NumPy as the number of Python, else the value itself.

    JSON and TensorFlow take the one and not always the other.

    Args:
        value: Anything.

    Returns:
        The same, as a number of Python if it is one.

    Example:
    >>> as_python(np.int64(7)), as_python("sgld")
    (7, 'sgld')
    """
    return value.item() if isinstance(value, np.generic) else value


def normalize(value: Any) -> None:
    """Makes Python numbers of the NumPy scalars in a frozen dataclass.

    Args:
        value: The dataclass, in its `__post_init__`.
    """
    for field in dataclasses.fields(value):
        number = as_python(getattr(value, field.name))
        object.__setattr__(value, field.name, number)
