"""How a program is called: by flags alone, which its help shows in groups.

A flag is put into a group by `module_name` where it is defined.
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags


def show_in_groups(groups: Sequence[str]) -> None:
    """Makes `--help` show flags in groups, after those of the program itself.

    Args:
        groups: What the flags were given as `module_name`, in order.
    """
    app.define_help_flags()
    for name, short_name in (("help", "?"), ("helpshort", None)):
        flags.DEFINE_flag(_Help(name, short_name, groups))


def require_flags(arguments: Sequence[str]) -> None:
    """Ends the program if something is given that is not a flag.

    Args:
        arguments: The command line without its flags, the program first.
    """
    if len(arguments) > 1:
        sys.exit(f"error: all arguments are flags. Received: {arguments[1:]}")


class _Help(flags.BooleanFlag):
    """A flag that shows the help and ends the program."""

    def __init__(
        self, name: str, short_name: str | None, groups: Sequence[str]
    ) -> None:
        super().__init__(
            name, False, "show this help", short_name, allow_override=True
        )
        self._groups = groups

    def parse(self, argument: Any) -> None:
        super().parse(argument)
        if not self.value:
            return
        sections = [
            flags.FLAGS.main_module_help(),
            *map(flags.FLAGS.module_help, self._groups),
        ]
        print(sys.modules["__main__"].__doc__ or "", end="")
        print(*filter(None, sections), sep="\n")
        print("\nTry --helpfull to get a list of all flags.")
        sys.exit()
