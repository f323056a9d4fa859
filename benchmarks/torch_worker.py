"""The inner loop in PyTorch, on the CPU; `benchmarks.pytorch` runs it.

    python benchmarks/torch_worker.py small_mnistfc 128 5 20

Takes network, size of a mini-batch, inner steps and updates per round, and
imports nothing but PyTorch. For each line that it reads it makes a round and
prints the seconds of each gradient evaluation.
"""

import math
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

# The defaults of EntropySGD.
STEP_SIZE, SCOPE, TEMPERATURE, MOMENTUM, AVERAGING_RATE = (
    0.1, 0.03, 5e-9, 0.9, 0.75
)  # fmt: skip


class CharacterLSTM(nn.Module):
    """An LSTM over 96 symbols whose initial state is learned.

    It has one bias per gate more than that of `trainers.networks`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(96, 48, batch_first=True)
        self.states = nn.ParameterList([torch.zeros(48), torch.zeros(48)])
        self.read_out = nn.Linear(48, 96)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Returns logits of the next symbols.

        Args:
            symbols: Integers of shape `[m, time]`.

        Returns:
            A tensor of shape `[m, 96, time]`.
        """
        inputs = nn.functional.one_hot(symbols, 96).float()
        states = [s.expand(1, len(symbols), 48) for s in self.states]
        hidden, _ = self.lstm(inputs, [s.contiguous() for s in states])
        return self.read_out(hidden).transpose(1, 2)


def _all_cnn_bn() -> nn.Module:
    """Returns All-CNN-BN at a quarter of its width."""
    layers: list[nn.Module] = [nn.Dropout(0.2)]
    channels = 3
    for number, (outputs, size, stride, padding) in enumerate([
        (24, 3, 1, 1), (24, 3, 1, 1), (24, 3, 2, 1),
        (48, 3, 1, 1), (48, 3, 1, 1), (48, 3, 2, 1),
        (48, 3, 1, 0), (48, 1, 1, 0), (10, 1, 1, 0),
    ]):  # fmt: skip
        layers += [
            nn.Conv2d(channels, outputs, size, stride, padding),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        channels = outputs
        if number in (2, 5):
            layers.append(nn.Dropout(0.5))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def build(name: str) -> nn.Module:
    """Builds a network of `trainers.networks`.

    Args:
        name: `small_mnistfc`, `mnistfc`, `lenet`, `all_cnn_bn` or `char_lstm`.

    Returns:
        The network, of images `[m, channels, height, width]` or of symbols
        `[m, time]`.
    """
    if name == "char_lstm":
        return CharacterLSTM()
    if name == "all_cnn_bn":
        return _all_cnn_bn()
    if name == "lenet":
        layers: list[nn.Module] = []
        for channels in ((1, 20), (20, 50)):
            layers += [
                nn.Conv2d(*channels, 5),
                nn.BatchNorm2d(channels[1]),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout(0.5),
            ]
        sizes = [800, 500, 10]
    else:
        layers = []
        hidden = {"small_mnistfc": [64], "mnistfc": [1024, 1024]}[name]
        sizes = [784, *hidden, 10]
    layers.append(nn.Flatten())
    for pair in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(*pair), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_update(
    network: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> Callable[[], None]:
    """Returns a function that makes one update of Entropy-SGD.

    Args:
        network: The network, whose parameters hold the position of the chain
            during an update.
        batches: Images and labels of each inner step.

    Returns:
        The function.
    """
    parameters = list(network.parameters())
    loss_function = nn.CrossEntropyLoss()
    deviation = math.sqrt(2 * STEP_SIZE * TEMPERATURE)
    rate = AVERAGING_RATE

    def update() -> None:
        anchors = [p.detach().clone() for p in parameters]
        means = [a.clone() for a in anchors]
        velocities = [torch.zeros_like(a) for a in anchors]
        for images, labels in batches:
            loss = loss_function(network(images), labels)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g, v, mean, anchor in zip(
                    parameters, gradients, velocities, means, anchors,
                    strict=True,
                ):  # fmt: skip
                    v.mul_(MOMENTUM).sub_(g, alpha=STEP_SIZE)
                    p.lerp_(anchor, STEP_SIZE * SCOPE)
                    p.add_(v, alpha=MOMENTUM).sub_(g, alpha=STEP_SIZE)
                    p.add_(torch.randn_like(p), alpha=deviation)
                    mean.lerp_(p, rate)
        with torch.no_grad():
            for p, mean in zip(parameters, means, strict=True):
                p.copy_(mean)

    return update


def _samples(name: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random inputs and labels."""
    if name == "char_lstm":
        symbols = torch.randint(0, 96, [size, 33])
        return symbols[:, :-1], symbols[:, 1:]
    shape = (3, 32, 32) if name == "all_cnn_bn" else (1, 28, 28)
    return torch.randn(size, *shape), torch.randint(0, 10, [size])


def main(arguments: list[str]) -> None:
    """Makes a round for each line of the standard input.

    Args:
        arguments: Network, mini-batch, inner steps, updates per round.
    """
    name, (size, num_steps, updates) = arguments[0], map(int, arguments[1:])
    torch.manual_seed(0)
    batches = [_samples(name, size) for _ in range(num_steps)]
    update = make_update(build(name), batches)
    update()
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(updates):
            update()
        seconds = time.perf_counter() - start
        print(seconds / (updates * num_steps), torch.__version__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
