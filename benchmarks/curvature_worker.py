"""Curvature by three packages of PyTorch; `benchmarks.curvature` runs it.

    python benchmarks/curvature_worker.py small_lenet problem.npz

Takes the network and a file with its weights, data and two vectors, and
imports nothing of TensorFlow. For each line of JSON that it reads, which names
a tool, a quantity and its settings, it prints one with the values, the seconds
and those of the processor, or with what went wrong.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

NUM_EIGENVALUES = 10


class Attention(nn.Module):
    """Attention of several heads, by operations that differentiate twice."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attends to all places.

        Args:
            x: Of shape `[m, time, width]`.

        Returns:
            A tensor of that shape.
        """
        shape = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (
            layer(x).reshape(shape).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        mixed = scores.softmax(-1) @ value
        return self.output(mixed.transpose(1, 2).reshape(x.shape))


class Transformer(nn.Module):
    """The network that `curvature_problem.transformer` builds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 64)
        self.attention = Attention(64, 4)
        self.first_norm = nn.LayerNorm(64, eps=1e-3)
        self.first = nn.Linear(64, 128)
        self.second = nn.Linear(128, 64)
        self.second_norm = nn.LayerNorm(64, eps=1e-3)
        self.read_out = nn.Linear(64, 10)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns logits of the classes.

        Args:
            symbols: Integers of shape `[m, time]`.

        Returns:
            A tensor of shape `[m, 10]`.
        """
        x = self.embedding(symbols)
        x = self.first_norm(x + self.attention(x))
        hidden = torch.relu(self.first(x))
        x = self.second_norm(x + self.second(hidden))
        return self.read_out(x.mean(1))


def build(name: str) -> nn.Module:
    """Builds a network.

    Args:
        name: `small_mnistfc`, `small_lenet` or `transformer`.

    Returns:
        The network, of images `[m, channels, height, width]` or of symbols.
    """
    if name == "transformer":
        return Transformer()
    if name == "small_mnistfc":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    return nn.Sequential(
        nn.Conv2d(1, 10, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(10, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(320, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Problem:
    """Network, data and vectors, and what each tool needs of them.

    Args:
        name: Of the network.
        path: A file of arrays, written by `write_problem`.
    """

    def __init__(self, name: str, path: str) -> None:
        arrays = np.load(path)
        self.network = build(name)
        self.parameters = list(self.network.parameters())
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                value = torch.tensor(arrays[f"weight_{index}"])
                parameter.copy_(value.view(parameter.shape))
        self.inputs = torch.tensor(arrays["inputs"])
        self.labels = torch.tensor(arrays["labels"]).long()
        if self.inputs.ndim == 4:
            self.inputs = self.inputs.permute(0, 3, 1, 2).contiguous()
        self.vector, self.other = (
            [
                torch.tensor(arrays[f"{kind}_{index}"])
                for index in range(len(self.parameters))
            ]
            for kind in ("vector", "other")
        )
        self.loss = nn.CrossEntropyLoss()
        self.data = [(self.inputs, self.labels)]

    def gradient(self) -> list[torch.Tensor]:
        """Returns the gradient of the mean loss."""
        loss = self.loss(self.network(self.inputs), self.labels)
        return list(torch.autograd.grad(loss, self.parameters))


def _flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _product_values(problem: Problem, found: torch.Tensor) -> list[float]:
    other = _flat(problem.other)
    return [float(found.norm()), float(found @ other)]


def _density_values(nodes: Any, weights: Any, count: int) -> list[float]:
    """Returns the largest node and the trace that a density stands for."""
    nodes, weights = np.asarray(nodes), np.asarray(weights)
    return [float(nodes.max()), float(count * (nodes @ weights))]


Quantities = dict[str, Callable[..., list[float]]]


def pyhessian(problem: Problem) -> Quantities:
    """Returns what PyHessian computes, by quantity.

    It gets the data as one batch, whose graph it keeps from product to product.

    Args:
        problem: The problem.

    Returns:
        Functions of the settings.
    """
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    def eig(
        matrix: torch.Tensor, eigenvectors: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return values[:, None], vectors

    torch.eig = eig  # `density` calls it, and PyTorch has taken it away.
    problem.network.zero_grad()
    judge = hessian(
        problem.network, problem.loss, data=problem.data[0], cuda=False
    )
    count = sum(parameter.numel() for parameter in problem.parameters)

    def density(num_steps: int, **_: Any) -> list[float]:
        (nodes,), (weights,) = judge.density(iter=num_steps, n_v=1)
        return _density_values(nodes, weights, count)

    return {
        "product": lambda **_: _product_values(
            problem,
            _flat(
                hessian_vector_product(
                    judge.gradsH, judge.params, problem.vector
                )
            ),
        ),
        "eigenvalues": lambda tolerance, **_: judge.eigenvalues(
            tol=tolerance, top_n=NUM_EIGENVALUES
        )[0],
        # No tolerance: it stops where two means agree, which tells nothing.
        "trace": lambda num_signs, **_: judge.trace(num_signs, tol=0.0),
        "density": density,
    }


def curvlinops(problem: Problem) -> Quantities:
    """Returns what curvlinops computes, by quantity.

    Args:
        problem: The problem.

    Returns:
        Functions of the settings.
    """
    from curvlinops import HessianLinearOperator
    from curvlinops import hutchpp_trace
    from curvlinops import lanczos_approximate_spectrum
    from scipy.sparse.linalg import eigsh

    operator = HessianLinearOperator(
        problem.network, problem.loss, problem.parameters, problem.data
    )

    def eigenvalues(tolerance: float, **_: Any) -> list[float]:
        found = eigsh(
            operator.to_scipy(), NUM_EIGENVALUES, which="LA", tol=tolerance,
            return_eigenvectors=False,
        )  # fmt: skip
        return sorted(map(float, found), reverse=True)

    def density(
        num_steps: int, ends: tuple[float, float], **_: Any
    ) -> list[float]:
        # Knowing the ends saves it from looking for them.
        grid, heights = lanczos_approximate_spectrum(
            operator, num_steps, boundaries=tuple(ends)
        )
        mean = torch.trapezoid(grid * heights, grid)
        return [float("nan"), float(operator.shape[0] * mean)]

    return {
        "product": lambda **_: _product_values(
            problem, operator @ _flat(problem.vector)
        ),
        "eigenvalues": eigenvalues,
        "trace": lambda num_products, **_: [
            float(hutchpp_trace(operator, num_products))
        ],
        "density": density,
    }


def hessian_eigenthings(problem: Problem) -> Quantities:
    """Returns what hessian-eigenthings computes, by quantity.

    Args:
        problem: The problem.

    Returns:
        Functions of the settings.
    """
    import hessian_eigenthings as package

    operator = package.HessianOperator(
        problem.network, problem.data, package.supervised_loss(problem.loss)
    )

    def density(num_steps: int, seed: int, **_: Any) -> list[float]:
        found = package.spectral_density(
            operator, num_runs=1, lanczos_steps=num_steps, seed=seed
        )
        return _density_values(
            found.raw_eigenvalues[0], found.raw_weights[0], operator.size
        )

    return {
        "product": lambda **_: _product_values(
            problem, operator.matvec(_flat(problem.vector))
        ),
        # It makes as many steps as it is told.
        "eigenvalues": lambda lanczos_steps, seed, **_: package.lanczos(
            operator, k=NUM_EIGENVALUES, max_iter=lanczos_steps, which="LA",
            reorthogonalize=True, seed=seed,
        ).eigenvalues.tolist(),
        "trace": lambda num_products, seed, **_: [
            package.trace(operator, num_matvecs=num_products, seed=seed)
            .estimate
        ],
        "density": density,
    }  # fmt: skip


def pytorch(problem: Problem) -> Quantities:
    """Returns what PyTorch itself computes, by quantity.

    Args:
        problem: The problem.

    Returns:
        Functions of the settings.
    """
    return {"gradient": lambda **_: [float(_flat(problem.gradient()).norm())]}


TOOLS = {
    "pytorch": ("torch", pytorch),
    "pyhessian": ("pyhessian", pyhessian),
    "curvlinops": ("curvlinops-for-pytorch", curvlinops),
    "hessian_eigenthings": ("hessian-eigenthings", hessian_eigenthings),
}


def answer(
    request: dict[str, Any], problem: Problem, made: dict[str, Quantities]
) -> dict[str, Any]:
    """Computes what was asked for.

    Args:
        request: The tool, the quantity, how often, and settings.
        problem: The problem.
        made: The tools that were used before; a new one is added.

    Returns:
        Values and seconds of one time.
    """
    settings = dict(request)
    tool, quantity, repeats = (
        settings.pop(name) for name in ("tool", "quantity", "repeats")
    )
    if tool not in made:
        made[tool] = TOOLS[tool][1](problem)
    torch.manual_seed(settings.get("seed", 0))
    function = made[tool][quantity]
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        values = function(**settings)
    return {
        "values": [float(value) for value in values],
        "seconds": (time.perf_counter() - start) / repeats,
        "cpu_seconds": (time.process_time() - start_cpu) / repeats,
    }


def main(arguments: list[str]) -> None:
    """Answers each line of the standard input.

    Args:
        arguments: The network and the path of the arrays.
    """
    problem, made = Problem(*arguments), dict[str, Quantities]()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["quantity"] == "version":
                package, _ = TOOLS[request["tool"]]
                found = {"version": importlib.metadata.version(package)}
            else:
                found = answer(request, problem, made)
        except Exception as error:
            # What a tool cannot do is part of the comparison.
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
