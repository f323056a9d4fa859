"""The samplers by name: the kinetics of the Langevin chain.

`kinetics` says what a sampler is, `overdamped` and `underdamped` hold them.
"""

from entropy_keras import parts
from entropy_keras.kinetics import ElementwiseSampler
from entropy_keras.kinetics import Sampler
from entropy_keras.kinetics import Setting
from entropy_keras.overdamped import SGLD
from entropy_keras.overdamped import GaussianPerturbation
from entropy_keras.overdamped import SplitSGLD
from entropy_keras.underdamped import SGHMC
from entropy_keras.underdamped import SGNHT
from entropy_keras.underdamped import Santa

__all__ = [
    "NAMES",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "ElementwiseSampler",
    "GaussianPerturbation",
    "Sampler",
    "Santa",
    "Setting",
    "SplitSGLD",
    "get",
]

_BY_NAME: dict[str, type[Sampler]] = {
    "sgld": SGLD,
    "split_sgld": SplitSGLD,
    "sghmc": SGHMC,
    "sgnht": SGNHT,
    "santa": Santa,
    "gaussian_perturbation": GaussianPerturbation,
}
NAMES = tuple(_BY_NAME)


def get(sampler: str | Sampler) -> Sampler:
    """Returns the sampler that a name stands for, or the sampler itself.

    Args:
        sampler: One of `NAMES`, or a `Sampler` object.

    Returns:
        A sampler.

    Raises:
        ValueError: If there is no such sampler.

    Example:
    >>> get("sgld")
    SGLD(momentum=0.9, nesterov=True)
    """
    return parts.get(sampler, Sampler, _BY_NAME, "sampler", show=repr)
