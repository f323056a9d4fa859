"""The networks of the paper, by name."""

from collections.abc import Callable

import keras
from keras import layers

__all__ = ["NAMES", "build", "input_shape"]


def build(
    name: str, num_classes: int = 10, width: float = 1.0
) -> keras.Sequential:
    """Builds a network of the paper, with logits as its output.

    | name | description | parameters |
    |---|---|---|
    | `small_mnistfc` | 784-64-10 | 50,890 |
    | `mnistfc` | 784-1024-1024-10 | 1,863,690 |
    | `small_lenet` | convolutions of 10 and 20, 128 hidden | 47,658 |
    | `lenet` | convolutions of 20 and 50, 500 hidden | 431,220 |
    | `all_cnn_bn` | All-CNN-C with batch normalization | 1,372,254 |

    LeNet has batch normalization and dropout 0.5 after each convolution, as
    section 5.2 says; the small networks, whose parameter counts section 5.1
    gives, have neither. The paper prints 32 hidden units for `small_mnistfc`,
    but its 50,890 parameters are those of 64. For All-CNN-BN it says about 1.6
    million; its description, All-CNN-C of the paper that it cites with batch
    normalization after each convolution, has fewer.

    Args:
        name: One of `NAMES`.
        num_classes: Number of logits.
        width: Multiplier of the hidden channels and units of every layer.

    Returns:
        A built model. Images are scaled to [0, 1] outside of it.

    Raises:
        ValueError: If there is no such network.

    Example:
    >>> build("small_mnistfc").count_params()
    50890

    References:
        Chaudhari et al., arXiv:1611.01838v1, sections 5.1 to 5.3; Springenberg
        et al., "Striving for simplicity", arXiv:1412.6806 (All-CNN-C).
    """
    if name not in _BODIES:
        raise ValueError(
            f"`name` must be one of {NAMES}. Received: name={name}"
        )

    def scaled(size: int) -> int:
        return max(1, round(size * width))

    return keras.Sequential(
        [keras.Input(input_shape(name)), *_BODIES[name](scaled, num_classes)],
        name=name,
    )


def input_shape(name: str) -> tuple[int, int, int]:
    """Returns the shape of one image that a network takes.

    Args:
        name: One of `NAMES`.

    Returns:
        Height, width and channels.
    """
    return (32, 32, 3) if name == "all_cnn_bn" else (28, 28, 1)


Scale = Callable[[int], int]


def _small_mnistfc(scaled: Scale, num_classes: int) -> list[keras.Layer]:
    return [
        layers.Flatten(),
        layers.Dense(scaled(64), "relu"),
        layers.Dense(num_classes),
    ]


def _mnistfc(scaled: Scale, num_classes: int) -> list[keras.Layer]:
    return [
        layers.Flatten(),
        layers.Dense(scaled(1024), "relu"),
        layers.Dense(scaled(1024), "relu"),
        layers.Dense(num_classes),
    ]


def _small_lenet(scaled: Scale, num_classes: int) -> list[keras.Layer]:
    return [
        layers.Conv2D(scaled(10), 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(scaled(20), 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(scaled(128), "relu"),
        layers.Dense(num_classes),
    ]


def _lenet(scaled: Scale, num_classes: int) -> list[keras.Layer]:
    def convolution(channels: int) -> list[keras.Layer]:
        return [
            layers.Conv2D(scaled(channels), 5),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Dropout(0.5),
        ]

    return [
        *convolution(20),
        *convolution(50),
        layers.Flatten(),
        layers.Dense(scaled(500), "relu"),
        layers.Dense(num_classes),
    ]


def _all_cnn_bn(scaled: Scale, num_classes: int) -> list[keras.Layer]:
    def convolution(
        channels: int, size: int, strides: int = 1, padding: str = "same"
    ) -> list[keras.Layer]:
        return [
            layers.Conv2D(channels, size, strides, padding),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]

    return [
        layers.Dropout(0.2),
        *convolution(scaled(96), 3),
        *convolution(scaled(96), 3),
        *convolution(scaled(96), 3, strides=2),
        layers.Dropout(0.5),
        *convolution(scaled(192), 3),
        *convolution(scaled(192), 3),
        *convolution(scaled(192), 3, strides=2),
        layers.Dropout(0.5),
        *convolution(scaled(192), 3, padding="valid"),
        *convolution(scaled(192), 1),
        *convolution(num_classes, 1),
        layers.GlobalAveragePooling2D(),
    ]


_BODIES: dict[str, Callable[[Scale, int], list[keras.Layer]]] = {
    "small_mnistfc": _small_mnistfc,
    "mnistfc": _mnistfc,
    "small_lenet": _small_lenet,
    "lenet": _lenet,
    "all_cnn_bn": _all_cnn_bn,
}
NAMES = tuple(_BODIES)
