"""Checks of arguments, in the one form of error that the package uses."""

import math
import numbers


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
        positive = is_number(value, 0.0) and bool(value)
        require(positive, name, "a positive number", value)


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


def is_integer(value: object, minimum: int) -> bool:
    """Tells whether `value` is an integer of at least `minimum`.

    Args:
        value: Anything. Booleans are not integers here.
        minimum: The smallest integer allowed.

    Returns:
        Whether `value` is such an integer.
    """
    return isinstance(value, numbers.Integral) and is_number(value, minimum)
