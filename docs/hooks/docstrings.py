"""What Griffe has to be told to read the docstrings of this package."""

import ast
import re
from typing import Any

import griffe

# Examples stand as doctest wants them; Griffe looks for them indented.
_EXAMPLE = re.compile(r"^Example:\n(.+?)(?=\n\n[A-Z]\w+:\n|\Z)", re.M | re.S)
_HYPERPARAMETERS = "hyperparameters.HyperParameters"
_EXPOSED = "entropy_sgd.EntropySGD.__init__"


class Docstrings(griffe.Extension):
    """Indents examples, and shows the hyper-parameters as arguments."""

    def on_object(
        self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: Any
    ) -> None:
        """Indents the example of a docstring.

        Args:
            obj: A module, class, function or attribute.
            loader: Not used.
            **kwargs: Not used.
        """
        del loader, kwargs
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(_indented, obj.docstring.value)

    def on_package(
        self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any
    ) -> None:
        """Gives `EntropySGD` the arguments that it takes when it runs.

        Args:
            pkg: The package.
            loader: Not used.
            **kwargs: Not used.
        """
        del loader, kwargs
        if pkg.name != "entropy_keras":
            return
        initializer = pkg[_EXPOSED]
        fields = [
            griffe.Parameter(
                name,
                annotation=attribute.annotation,
                kind=griffe.ParameterKind.positional_or_keyword,
                default=_default(str(attribute.value)),
            )
            for name, attribute in pkg[_HYPERPARAMETERS].attributes.items()
            if attribute.value is not None
        ]
        initializer.parameters = griffe.Parameters(
            *(
                field
                for parameter in initializer.parameters
                for field in (
                    fields if parameter.name == "values" else [parameter]
                )
            )
        )


def _indented(found: re.Match[str]) -> str:
    lines = found.group(1).splitlines()
    return "\n".join(["Examples:", *(f"    {line}".rstrip() for line in lines)])


def _default(call: str) -> str:
    """Returns the default among the arguments of `_field(default, ...)`."""
    tree = ast.parse(call, mode="eval").body
    if not isinstance(tree, ast.Call):
        return call
    default = ast.unparse(tree.args[0])
    return "None" if default == "UNSET" else default
