"""Where labelled images come from: a file of arrays, or TensorFlow Datasets.

What is read here is still in the form that its owner gave it; `arrays` says
what it means.
"""

import os
import pathlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from entropy_keras.validation import require
from trainers import arrays

_DAMAGE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
_CHUNK = 1000
# The version is part of the path of a set of TensorFlow Datasets.
_VERSION = "1.0.0"


class Source(NamedTuple):
    """Images and labels by their owner's names, the training set first.

    Attributes:
        images: Images by name.
        labels: Labels by name, in the same order.
        classes: The classes where the source states them.
        note: What else there is to say about it.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: np.ndarray | None = None
    note: str = ""


def read_npz(path: str) -> Source:
    """Reads a Keras-style file of arrays.

    Args:
        path: Path of a file with `x_train` and `y_train`, and with `x_test`
            and `y_test` or neither.

    Returns:
        What is in it.

    Raises:
        ValueError: If it is not such a file.
    """
    require(pathlib.Path(path).is_file(), "npz", "a file", path)
    with open(path, "rb") as opened:
        try:
            file = np.load(opened)
        except _DAMAGE as error:
            raise ValueError(
                "`npz` must be a whole file of arrays, as np.savez writes it; "
                f"write or copy it again. Received: npz={path}, {error}"
            ) from error
        require(
            isinstance(file, np.lib.npyio.NpzFile),
            "npz",
            "a file of named arrays, as np.savez writes it",
            f"{path}, a single array",
        )
        names = ["x_train", "y_train"]
        if {"x_test", "y_test"} & set(file.files):
            names += ["x_test", "y_test"]
        missing = sorted(set(names) - set(file.files))
        require(
            not missing,
            "npz",
            "a file of the arrays x_train and y_train, and x_test and y_test "
            "or neither",
            f"{path} without {missing}, with {sorted(file.files)}",
        )
        read = {name: _member(path, file, name) for name in names}
    images = {name: read[name] for name in names if name[0] == "x"}
    labels = {name: read[name] for name in names if name[0] == "y"}
    return Source(images, labels)


def _member(path: str, file: Any, name: str) -> np.ndarray:
    try:
        return file[name]
    except _DAMAGE as error:
        raise ValueError(
            "`npz` must be a whole file of arrays of numbers or names; write "
            "it again, with np.stack(images) and np.array(list(labels)). "
            f"Received: npz={path}, whose {name} cannot be read: {error}"
        ) from error


def read_tfds(name: str, data_dir: str | None) -> Source:
    """Reads a set of TensorFlow Datasets.

    Its test set is the split "test" if that has labels, else "validation".

    Args:
        name: Name of the set, as in `tfds.load`.
        data_dir: Where it is or will be prepared.

    Returns:
        What is in it.

    Raises:
        ValueError: If there is no such set, or if it is not labelled images of
            one size.
    """
    import tensorflow_datasets as tfds

    received = f"{name}, data_dir={data_dir}"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        require(
            False,
            "dataset",
            "'digits' or the name of a set of TensorFlow Datasets, or of one "
            "in `data_dir`, such as `python -m trainers.prepare` writes",
            received,
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # Whatever a set's own code may raise.
        raise ValueError(
            "`dataset` must be in `data_dir`, or be one that can be downloaded "
            "and prepared here; else write it there on another machine, or "
            "from a file of arrays with `python -m trainers.prepare`. "
            f"Received: dataset={received}, "
            f"{type(error).__name__}: {error}"
        ) from error
    image, label = _keys(name, builder.info)
    splits = list(builder.info.splits)
    require(
        "train" in splits,
        "dataset",
        "a set with a split 'train'; write one with `python -m "
        "trainers.prepare`",
        f"{received}, whose splits are {splits}",
    )
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    note = ""
    for split in ("train", "test", "validation"):
        if split not in splits or len(images) == 2:
            continue
        x, y = _read_split(builder, split, image, label, received)
        if images and y.dtype.kind == "i" and (y < 0).all():
            note = f"the split '{split}' has no labels"
            continue
        images[f"{image} of {split}"], labels[f"{label} of {split}"] = x, y
        if split == "validation":
            note = f"{note}; " * bool(note) + "tested on its split 'validation'"
    feature = builder.info.features[label]
    num_classes = getattr(feature, "num_classes", None)
    classes = None if num_classes is None else np.arange(num_classes)
    return Source(images, labels, classes, note)


def _keys(name: str, info: Any) -> tuple[str, str]:
    """Returns the names of the features of images and of labels."""
    import tensorflow_datasets as tfds

    features = info.features
    supervised = info.supervised_keys
    if supervised and all(
        isinstance(key, str) and isinstance(features[key].shape, tuple)
        for key in supervised
    ):
        return supervised
    found = [
        [key for key in features if isinstance(features[key], kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    ]
    require(
        [len(keys) for keys in found] == [1, 1],
        "dataset",
        "a set of one image with one label per sample; write one with "
        "`python -m trainers.prepare`",
        f"{name}, whose features are {dict(features.items())}",
    )
    return found[0][0], found[1][0]


def _read_split(
    builder: Any, split: str, image: str, label: str, received: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a split, in its order.

    Args:
        builder: The set.
        split: Name of the split.
        image: Name of the feature of images.
        label: Name of that of labels.
        received: What the user asked for, for messages.

    Returns:
        Images and labels.

    Raises:
        ValueError: If the images have several sizes, or files are missing.
    """
    samples = builder.as_dataset(split=split, shuffle_files=False).map(
        lambda sample: (sample[image], sample[label])
    )
    if None in samples.element_spec[0].shape:
        pairs = list(samples.as_numpy_iterator())
        sizes = sorted({x.shape for x, _ in pairs})
        require(
            len(sizes) == 1,
            "dataset",
            "images of one size; resize them and write them with `python -m "
            "trainers.prepare`",
            f"{received}, with {len(sizes)} sizes from {sizes[0]} to "
            f"{sizes[-1]}",
        )
        x, y = (np.stack(parts) for parts in zip(*pairs, strict=True))
    else:
        count = builder.info.splits[split].num_examples
        try:
            x, y = next(samples.batch(max(1, count)).as_numpy_iterator())
        except (tf.errors.OpError, StopIteration) as error:
            raise ValueError(
                "`dataset` must be whole files with at least one sample in "
                "each split; remove its folder and prepare it again. "
                f"Received: dataset={received}, split {split}: {error}"
            ) from error
    return x, y.astype("S") if y.dtype.kind == "O" else y


def write_tfds(
    source: Source, name: str, data_dir: str, *, standardized: bool = False
) -> pathlib.Path:
    """Writes a set that TensorFlow Datasets, and `read_tfds`, can read.

    Args:
        source: Images and labels.
        name: Name of the set.
        data_dir: Folder of sets, in which it becomes a new folder.
        standardized: See `arrays.scale_images`.

    Returns:
        The folder of the set.

    Raises:
        ValueError: If the name is not free, or if the data cannot be trained
            on.
    """
    import tensorflow_datasets as tfds

    require(
        re.fullmatch("[a-z][a-z0-9_]*", name) is not None,
        "name",
        "lower-case letters, digits and underscores, a letter first",
        name,
    )
    try:
        tfds.builder_cls(name)
    except tfds.core.DatasetNotFoundError:
        folder = pathlib.Path(data_dir) / name
    else:
        require(False, "name", "none that TensorFlow Datasets has", name)
    require(not folder.exists(), "name", "new in `data_dir`", name)
    scaled, _ = arrays.scale_images(source.images, standardized=standardized)
    encoded, classes = arrays.encode_labels(source.labels, source.classes)
    raw = list(source.images.values())
    shape = scaled[0].shape[1:]
    if (
        raw[0].dtype in (np.uint8, np.uint16)
        and len(shape) == 3
        and shape[-1] in (1, 3, 4)
    ):
        feature = tfds.features.Image(shape=shape, dtype=raw[0].dtype)
        scaled = [array.reshape(-1, *shape) for array in raw]
    else:
        feature = tfds.features.Tensor(shape=shape, dtype=np.float32)
    partial = folder.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / _VERSION).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name, _VERSION, str(partial / _VERSION), __name__
            ),
            features=tfds.features.FeaturesDict({
                "image": feature,
                "label": tfds.features.ClassLabel(
                    names=[str(each) for each in classes]
                ),
            }),
            supervised_keys=("image", "label"),
        ),
        max_examples_per_shard=50 * _CHUNK,
    )
    for split, x, y in zip(("train", "test"), scaled, encoded, strict=False):
        writer.initialize_splits([split])
        for samples in _chunks(x, y):
            writer.add_examples({split: samples})
    writer.close_all()
    os.replace(partial, folder)
    return folder


def _chunks(x: np.ndarray, y: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(y), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield [
            {"image": image, "label": int(label)}
            for image, label in zip(x[part], y[part], strict=True)
        ]
