"""What it takes replicas to talk once per K gradients: a model.

A gradient takes `compute` seconds on a replica. K of them are made between two
all-reduces of B bytes in a ring, which take `2 (R - 1) latency + 2 (R - 1) / R
* B / bandwidth` (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms
for clusters of workstations", 2009), and nothing overlaps. The share of time
that is spent on gradients is the efficiency. It says nothing of the accuracy:
what K gradients of R chains are worth is another question.
"""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure


class Link(NamedTuple):
    """What connects replicas.

    Attributes:
        name: In words.
        latency: Seconds from one replica to the next.
        bandwidth: Bytes per second of each replica.
    """

    name: str
    latency: float
    bandwidth: float


class Work(NamedTuple):
    """A network on some replica.

    Attributes:
        name: In words.
        weights: Number of its weights.
        compute: Seconds of a gradient.
    """

    name: str
    weights: float
    compute: float


# 100 Gb/s Ethernet within a hall; and what OpenDiLoCo measured between
# countries, 127 to 935 Mbit/s (arXiv:2407.07852), of which the middle.
LINKS = (
    Link("100 Gb/s, 10 us", 10e-6, 12.5e9),
    Link("0.5 Gb/s, 50 ms", 50e-3, 62.5e6),
)
# LeNet's gradient of 128 images on two CPU cores, from `benchmarks/README.md`.
# An A100 trains on about 2,500 images a second with ResNet-50 in mixed
# precision (NVIDIA's DeepLearningExamples), here 256 of them; and 6 operations
# a weight and token (Kaplan et al., arXiv:2001.08361) at 40 % of its 312e12 a
# second take 0.39 s for a billion weights and 8,192 tokens.
WORKS = (
    Work("LeNet, two CPU cores", 431_220, 0.032),
    Work("ResNet-50, one GPU", 25.6e6, 0.1),
    Work("a billion weights, one GPU", 1e9, 0.39),
)
REPLICAS = tuple(2**i for i in range(11))
GRADIENTS = (1, 5, 20, 100, 500)
BYTES = 4


def all_reduce_seconds(num_replicas: int, size: float, link: Link) -> float:
    """Returns the time of an all-reduce in a ring.

    Args:
        num_replicas: Replicas in the ring.
        size: Bytes that each holds.
        link: What connects them.

    Returns:
        Seconds.

    Example:
    >>> all_reduce_seconds(2, 1e9, Link("", 0.5, 1e9))  # 2 * 0.5 + 1
    2.0
    """
    passed = 2 * (num_replicas - 1)
    return passed * (link.latency + size / num_replicas / link.bandwidth)


def efficiency(
    num_replicas: int, num_gradients: int, work: Work, link: Link
) -> float:
    """Returns the share of time that is spent on gradients.

    Args:
        num_replicas: Number of replicas.
        num_gradients: Gradients between two all-reduces.
        work: What a replica does.
        link: What connects them.

    Returns:
        A number up to 1.
    """
    busy = num_gradients * work.compute
    talk = all_reduce_seconds(num_replicas, BYTES * work.weights, link)
    return busy / (busy + talk)


def modelled() -> list[dict[str, Any]]:
    """Returns the efficiency of each network, link, K and number of replicas.

    Returns:
        A row for each of the first three, with a list over `REPLICAS`.
    """
    return [
        {
            "network": work.name,
            "link": link.name,
            "gradients_per_update": k,
            "efficiency": [
                round(efficiency(r, k, work, link), 5) for r in REPLICAS
            ],
        }
        for work, link, k in itertools.product(WORKS, LINKS, GRADIENTS)
    ]


def draw(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draws the efficiency against the number of replicas.

    Args:
        path: Where to.
        rows: Those of `modelled`.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(len(LINKS), len(WORKS), sharex=True, sharey=True)
    for (i, link), (j, work) in itertools.product(
        enumerate(LINKS), enumerate(WORKS)
    ):
        axes = panels[i, j]
        for row in rows:
            if (row["network"], row["link"]) == (work.name, link.name):
                axes.plot(
                    REPLICAS,
                    100 * np.array(row["efficiency"]),
                    marker=".",
                    label=f"K = {row['gradients_per_update']}",
                )
        axes.set_title(f"{work.name}\n{link.name}", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        if j == 0:
            axes.set_ylabel("time on gradients, %")
        if i == len(LINKS) - 1:
            axes.set_xlabel("replicas")
    panels[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
