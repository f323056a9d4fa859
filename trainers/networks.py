"""The networks of the paper, by name."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

__all__ = ["NAMES", "CharacterLSTM", "build", "input_shape"]


def build(
    name: str, num_classes: int | None = None, width: float = 1.0
) -> keras.Sequential:
    """Builds a network of the paper, with logits as its output.

    | name | description | parameters |
    |---|---|---|
    | `small_mnistfc` | 784-64-10 | 50,890 |
    | `mnistfc` | 784-1024-1024-10 | 1,863,690 |
    | `small_lenet` | convolutions of 10 and 20, 128 hidden | 47,658 |
    | `lenet` | convolutions of 20 and 50, 500 hidden | 431,220 |
    | `all_cnn_bn` | All-CNN-C with batch normalization | 1,372,254 |
    | `char_lstm` | LSTM of 48 units over 96 symbols | 32,640 |

    LeNet has batch normalization and dropout 0.5 after each convolution, as
    section 5.2 says; the small networks, whose parameter counts section 5.1
    gives, have neither. The paper prints 32 hidden units for `small_mnistfc`,
    but its 50,890 parameters are those of 64. For All-CNN-BN it says about 1.6
    million; its description, All-CNN-C of the paper that it cites with batch
    normalization after each convolution, has fewer. The 32,640 parameters of
    `char_lstm` are an LSTM with one bias per gate (27,840), its learned initial
    state (96) and the read-out (4,704).

    Args:
        name: One of `NAMES`.
        num_classes: Number of logits, and for `char_lstm` of symbols that it
            reads; `None` for 10 classes or 96 symbols.
        width: Multiplier of the hidden channels and units of every layer.

    Returns:
        A built model. Images are scaled to [0, 1] outside of it. `char_lstm`
        maps integers below `num_classes`, of shape `[batch, time]` for any
        length of time, to logits of shape `[batch, time, num_classes]`.

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

    reads_text = name == "char_lstm"
    if num_classes is None:
        num_classes = 96 if reads_text else 10
    inputs = keras.Input(
        input_shape(name), dtype="int32" if reads_text else None
    )
    return keras.Sequential(
        [inputs, *_BODIES[name](scaled, num_classes)], name=name
    )


def input_shape(name: str) -> tuple[Any, ...]:
    """Returns the shape of one sample that a network takes.

    Args:
        name: One of `NAMES`.

    Returns:
        Height, width and channels of an image, or for `char_lstm` the length
        of a sequence: `None`, since it takes any.

    Example:
    >>> input_shape("small_lenet")
    (28, 28, 1)
    """
    if name == "char_lstm":
        return (None,)
    return (32, 32, 3) if name == "all_cnn_bn" else (28, 28, 1)


@keras.saving.register_keras_serializable(package="trainers")
class CharacterLSTM(layers.Layer):
    """An LSTM over symbols whose initial state is learned.

    Each symbol enters as a one-hot vector. Inputs are integers of shape
    `[batch, time]`, outputs the hidden states, of shape `[batch, time, units]`.

    Args:
        units: Number of units.
        num_symbols: Number of different symbols.
        **arguments: Those of `keras.layers.Layer`.

    Example:
    >>> CharacterLSTM(48, num_symbols=96)(np.zeros([2, 32], "int32")).shape
    TensorShape([2, 32, 48])
    """

    def __init__(self, units: int, num_symbols: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.units = units
        self.num_symbols = num_symbols
        # The fused kernel of GPUs has no second derivative.
        self._lstm = layers.LSTM(
            units,
            return_sequences=True,
            use_cudnn=False,
            name="lstm",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights.

        Args:
            input_shape: Shape of a batch.
        """
        self._initial_state = [
            self.add_weight((self.units,), "zeros", name=name)
            for name in ("initial_hidden_state", "initial_cell_state")
        ]
        self._lstm.build((*input_shape, self.num_symbols))

    def call(self, symbols: Any) -> Any:
        """Runs over sequences.

        Args:
            symbols: Integers below `num_symbols`, of shape `[batch, time]`.

        Returns:
            Hidden states, of shape `[batch, time, units]`.
        """
        shape = (keras.ops.shape(symbols)[0], self.units)
        return self._lstm(
            keras.ops.one_hot(
                symbols, self.num_symbols, dtype=self.compute_dtype
            ),
            initial_state=[
                keras.ops.broadcast_to(state, shape)
                for state in self._initial_state
            ],
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer.

        Returns:
            A dictionary that `from_config` takes.
        """
        return super().get_config() | {
            "units": self.units,
            "num_symbols": self.num_symbols,
        }


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


def _char_lstm(scaled: Scale, num_classes: int) -> list[keras.Layer]:
    return [CharacterLSTM(scaled(48), num_classes), layers.Dense(num_classes)]


_BODIES: dict[str, Callable[[Scale, int], list[keras.Layer]]] = {
    "small_mnistfc": _small_mnistfc,
    "mnistfc": _mnistfc,
    "small_lenet": _small_lenet,
    "lenet": _lenet,
    "all_cnn_bn": _all_cnn_bn,
    "char_lstm": _char_lstm,
}
NAMES = tuple(_BODIES)
