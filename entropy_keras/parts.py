"""What samplers, estimators and metrics have in common: frozen values.

Each kind is written down by its fields, and has short names for its members.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from entropy_keras import validation


class Part:
    """A value that is written down by its fields: a frozen dataclass."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, as JSON can hold them.

        Returns:
            A dictionary that `from_config` takes.
        """
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Makes what `get_config` described.

        Args:
            config: The arguments.

        Returns:
            An equal value.
        """
        return cls(**config)


def get(
    value: Any,
    kind: Any,
    by_name: dict[str, type[Any]],
    argument: str,
    article: str = "a",
    show: Callable[[Any], str] = str,
) -> Any:
    """Returns the part that a name stands for, or the part itself.

    Args:
        value: A name or a part.
        kind: The class of such parts.
        by_name: Members with short names.
        argument: Name of the argument that holds `value`.
        article: That of the name of `kind`.
        show: How an error shows what was received.

    Returns:
        A part.

    Raises:
        ValueError: If there is none of that name.
    """
    if isinstance(value, kind):
        return value
    validation.require(
        isinstance(value, str) and value in by_name,
        argument,
        f"{article} `{kind.__name__}` or one of {sorted(by_name)}",
        show(value),
    )
    return by_name[value]()
