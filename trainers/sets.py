"""What methods are compared on: networks with their data."""

import pathlib
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from entropy_keras.validation import require
from trainers import arrays
from trainers import comparison
from trainers import data
from trainers import sources

layers = keras.layers
# Characters that the next one is told from.
CONTEXT = 16
_TABLES = ("breast_cancer", "diabetes", "diamonds", "digits")
_TEST_SHARE = 0.3


class Set(NamedTuple):
    """A network, and data to train, to choose and to test it on.

    Attributes:
        build_model: Takes a kernel regularizer, returns a model whose outputs
            are logits.
        data: Three pairs `(x, y)`.
        measure: What the error is.
        jit_compile: Whether XLA serves this network on a CPU.
    """

    build_model: Callable[[Any], keras.Model]
    data: tuple[comparison.Labelled, comparison.Labelled, comparison.Labelled]
    measure: str = comparison.ERROR
    jit_compile: bool = True


class Sizes(NamedTuple):
    """How much of the data is used, and how large the network is.

    Attributes:
        train: Samples to train on.
        validation: Samples to choose on.
        label_noise: Share of the labels of both to replace by others.
        units: Hidden units, or filters of the first layer.
    """

    train: int
    validation: int
    label_noise: float = 0.0
    units: int = 128


def images(source: str | None, sizes: Sizes) -> Set:
    """Returns images and a network of one hidden layer.

    Args:
        source: Path of a Keras-style file of arrays; `None` for the digits that
            an installed package ships.
        sizes: Sizes.

    Returns:
        The set.
    """
    x, y, test, num_classes = _images(source)
    flat = [array.reshape(len(array), -1) for array in (x, test[0])]
    return Set(
        perceptron(flat[0].shape[1], num_classes, sizes.units),
        (*_parts(flat[0], y, sizes), (flat[1], test[1])),
    )


def convnet(source: str | None, sizes: Sizes) -> Set:
    """Returns images and a small convolutional network with BatchNorm.

    Args:
        source: As for `images`.
        sizes: Sizes.

    Returns:
        The set.
    """
    x, y, test, num_classes = _images(source)
    mean, deviation = x.mean((0, 1, 2)), x.std((0, 1, 2)) + 1e-6
    x, tested = ((each - mean) / deviation for each in (x, test[0]))
    return Set(
        convolutions(x.shape[1:], num_classes, sizes.units),
        (*_parts(x, y, sizes), (tested, test[1])),
        jit_compile=False,
    )


def tabular(source: str | None, sizes: Sizes) -> Set:
    """Returns rows of a table, and a network as for `images`.

    Args:
        source: Path of a Keras-style file of rows `[n, d]`; or, of those that
            scikit-learn ships, `"breast_cancer"` (the default; 569 rows, 30
            columns, 2 classes; a linear model errs on 2 %), `"digits"` (1797
            rows, 64 columns, 10 classes; 3 %), or `"diabetes"`, whose
            progression is told to be above or below its median (442 rows, 10
            columns; 25 %); or `"diamonds"`, which plotnine ships, the quality
            of whose cut is told from price, size and the other grades, as
            numbers (53,940 rows, 9 columns, 5 classes; 35 %).
        sizes: Sizes; without a test set, 30 % of the rows are for testing.

    Returns:
        The set, whose columns have mean 0 and deviation 1 where it is trained.

    Raises:
        ImportError: If the package that ships the table is not installed.
        ValueError: If the file does not hold such rows and their classes.
    """
    x, y, test = _rows(source or _TABLES[0])
    used = x[: sizes.train]
    mean, deviation = used.mean(0), used.std(0)
    # What never varies where it is trained says nothing of its scale.
    deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
    return Set(
        perceptron(x.shape[1], int(y.max()) + 1, sizes.units),
        (
            *_parts((x - mean) / deviation, y, sizes, shuffle=False),
            ((test[0] - mean) / deviation, test[1]),
        ),
    )


def text(source: str | None, sizes: Sizes) -> Set:
    """Returns a text, and a network that tells its next character.

    Samples are `CONTEXT` characters and the next one, from random places of the
    first 80 % of the text to train on, the next 10 % to choose on, and the
    last 10 % to test on.

    Args:
        source: Path of a text file.
        sizes: Sizes.

    Returns:
        The set.

    Raises:
        ValueError: If there is no such file, or if labels are to be wrong.
    """
    require(source is not None, "text", "the path of a text file", source)
    require(
        sizes.label_noise == 0, "label_noise", "0 for a text", sizes.label_noise
    )
    content = pathlib.Path(str(source)).read_text("utf-8")
    symbols, codes = np.unique(list(content), return_inverse=True)
    codes = codes.astype("int32")
    ends = [0, round(0.8 * len(codes)), round(0.9 * len(codes)), len(codes)]
    rng = np.random.default_rng(0)
    parts = []
    for start, end, count in zip(
        ends, ends[1:], (sizes.train, *[sizes.validation] * 2), strict=False
    ):
        room = end - start - CONTEXT
        require(
            0 < count <= room, "train_size and validation_size",
            f"numbers that fit into {room} places of this part of the text",
            count,
        )  # fmt: skip
        first = start + rng.choice(room, count, replace=False)
        windows = codes[first[:, None] + np.arange(CONTEXT + 1)]
        parts.append((windows[:, :-1], windows[:, -1]))
    return Set(
        next_character(len(symbols), sizes.units),
        (parts[0], parts[1], parts[2]),
        measure=comparison.BITS,
    )


SETS: dict[str, Callable[[str | None, Sizes], Set]] = {
    "images": images,
    "convnet": convnet,
    "tabular": tabular,
    "text": text,
}
# Samples to train and to choose on, units, and passes, unless told otherwise.
DEFAULTS = {
    "images": (2000, 2000, 128, 20),
    "convnet": (4000, 2000, 16, 20),
    "tabular": (200, 100, 32, 50),
    "text": (20000, 5000, 128, 5),
}


def _rows(
    source: str,
) -> tuple[np.ndarray, np.ndarray, comparison.Labelled]:
    """Returns rows in random order and classes to train on, and to test on."""
    rng = np.random.default_rng(0)
    if source.endswith(".npz"):
        read = sources.read_npz(source)
        x, *tests = arrays.rows_of_numbers(read.images)
        (y, *test_labels), _ = arrays.encode_labels(read.labels)
        order = rng.permutation(len(y))
        x, y = x[order], y[order]
        if tests:
            return x, y, (tests[0], test_labels[0])
    else:
        require(source in _TABLES, "table", f"one of {_TABLES}", source)
        x, y = _diamonds() if source == "diamonds" else _of_scikit_learn(source)
        order = rng.permutation(len(y))
        x, y = x[order].astype("float32"), y[order].astype("int32")
    num_test = round(_TEST_SHARE * len(y))
    return x[num_test:], y[num_test:], (x[:num_test], y[:num_test])


def _of_scikit_learn(name: str) -> comparison.Labelled:
    import sklearn.datasets

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    return x, y > np.median(y) if name == "diabetes" else y


def _diamonds() -> comparison.Labelled:
    """Returns what tells the cut of a diamond, grades as their ranks.

    Returns:
        Rows, and their classes.

    Raises:
        ImportError: If plotnine is not installed.
    """
    try:
        from plotnine.data import diamonds
    except ImportError as error:
        raise ImportError(
            "table=diamonds comes with plotnine: pip install plotnine"
        ) from error
    numbers = diamonds.apply(
        lambda column: (
            column.cat.codes if column.dtype == "category" else column
        )
    )
    return numbers.drop(columns="cut").to_numpy(), numbers["cut"].to_numpy()


def _images(
    source: str | None,
) -> tuple[np.ndarray, np.ndarray, comparison.Labelled, int]:
    splits = data.load("digits", npz=source)
    return (
        splits.train.images,
        splits.train.labels.astype("int32"),
        (splits.test.images, splits.test.labels.astype("int32")),
        splits.num_classes,
    )


def _parts(
    x: np.ndarray, y: np.ndarray, sizes: Sizes, *, shuffle: bool = True
) -> tuple[comparison.Labelled, comparison.Labelled]:
    """Returns what to train and to choose on, with labels as noisy as asked."""
    needed = sizes.train + sizes.validation
    require(
        needed <= len(y),
        "train_size and validation_size",
        f"numbers that fit into the training set of {len(y)} samples together",
        (sizes.train, sizes.validation),
    )
    if shuffle:
        order = np.random.default_rng(0).permutation(len(y))[:needed]
        x, y = x[order], y[order]
    y = with_wrong_labels(y[:needed], sizes.label_noise)
    return (x[: sizes.train], y[: sizes.train]), (
        x[sizes.train : needed],
        y[sizes.train : needed],
    )


def perceptron(
    num_features: int, num_classes: int, units: int
) -> Callable[[Any], keras.Model]:
    """Returns what builds a network of one hidden layer.

    Args:
        num_features: Length of a sample.
        num_classes: Number of outputs.
        units: Number of hidden units.

    Returns:
        A function from a kernel regularizer to a model.
    """

    def build(regularizer: Any) -> keras.Model:
        dense = layers.Dense
        return keras.Sequential([
            keras.Input([num_features]),
            dense(units, "relu", kernel_regularizer=regularizer),
            dense(num_classes, kernel_regularizer=regularizer),
        ])

    return build


def convolutions(
    shape: tuple[int, ...], num_classes: int, filters: int
) -> Callable[[Any], keras.Model]:
    """Returns what builds three strided convolutions with BatchNorm.

    Args:
        shape: Of an image.
        num_classes: Number of outputs.
        filters: Filters of the first; the others have twice and four times as
            many.

    Returns:
        A function from a kernel regularizer to a model.
    """

    def build(regularizer: Any) -> keras.Model:
        body: list[Any] = [keras.Input(shape)]
        for factor in (1, 2, 4):
            body += [
                layers.Conv2D(
                    factor * filters, 3, 2, "same", use_bias=False,
                    kernel_regularizer=regularizer,
                ),
                layers.BatchNormalization(),
                layers.ReLU(),
            ]  # fmt: skip
        return keras.Sequential([
            *body,
            layers.GlobalAveragePooling2D(),
            layers.Dense(num_classes, kernel_regularizer=regularizer),
        ])

    return build


def next_character(
    num_symbols: int, units: int
) -> Callable[[Any], keras.Model]:
    """Returns what builds a network from `CONTEXT` characters to the next.

    Args:
        num_symbols: Number of characters that there are.
        units: Number of hidden units.

    Returns:
        A function from a kernel regularizer to a model.

    References:
        Bengio, Ducharme, Vincent, Jauvin, "A neural probabilistic language
        model", JMLR 2003.
    """

    def build(regularizer: Any) -> keras.Model:
        return keras.Sequential([
            keras.Input([CONTEXT], dtype="int32"),
            layers.Embedding(num_symbols, 16),
            layers.Flatten(),
            layers.Dense(units, "relu", kernel_regularizer=regularizer),
            layers.Dense(num_symbols, kernel_regularizer=regularizer),
        ])

    return build


def with_wrong_labels(
    labels: np.ndarray, share: float, seed: int = 0
) -> np.ndarray:
    """Returns labels of which a share is replaced by others, at random.

    Args:
        labels: Integers from 0 on.
        share: From 0 to 1.
        seed: Of the draws.

    Returns:
        As many labels.
    """
    rng = np.random.default_rng(seed)
    num_classes = labels.max() + 1
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] += rng.integers(1, num_classes, len(wrong)).astype(
        labels.dtype
    )
    return noisy % num_classes
