"""What the arrays of a user mean: images and labels, in every usual form.

Nothing is guessed: what could mean two things is refused by name, with the
cure. The arrays of a data set come together, by the names that their owner
gave them, those of the training set first.
"""

import numpy as np

from entropy_keras.validation import require

# Arrays whose largest value is below this share of what their type can hold
# are more likely in another range: bytes in a wider type, or 0 and 1 in bytes.
_FILLED = 1 / 8
_CHANNELS = (1, 3, 4)
# Resizing leaves [0, 1] by rounding.
_ROUNDING = 1e-6


def scale_images(
    images: dict[str, np.ndarray], *, standardized: bool = False
) -> tuple[list[np.ndarray], str]:
    """Returns images as 32-bit floats, in [0, 1] unless standardized.

    Integers are divided by the largest value of their type; floats in [0, 1]
    stay as they are.

    Args:
        images: Images `[n, height, width]` or `[n, height, width, channels]`,
            or rows of numbers `[n, d]`, by name; the training set first.
        standardized: Whether they are floats of mean about 0 and deviation
            about 1, which stay as they are.

    Returns:
        The images, with an axis for channels, and what was done, in words.

    Raises:
        ValueError: If they are anything else.

    Example:
    >>> scale_images({"x_train": np.array([[0, 51], [102, 255]], "uint8")})
    ([array([[0. , 0.2], [0.4, 1. ]], dtype=float32)], 'uint8 divided by 255')
    """
    first = next(iter(images))
    for name, array in images.items():
        _require_shape(name, array)
        same_type = array.dtype.kind == images[first].dtype.kind and (
            array.dtype.kind == "f" or array.dtype == images[first].dtype
        )
        require(
            same_type and array.shape[1:] == images[first].shape[1:],
            name,
            f"of the type and shape of `{first}`, an array of "
            f"{images[first].dtype} of shape {images[first].shape}",
            f"an array of {array.dtype} of shape {array.shape}",
        )
        _require_finite(name, array)
    if standardized:
        _require_standardized(first, images[first])
        divisor, words = 1.0, "standardized floats"
    else:
        divisor, words = _divisor(images)
    return [
        _with_channels(array.astype("float32") / np.float32(divisor))
        for array in images.values()
    ], words


def rows_of_numbers(rows: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the rows of a table as 32-bit floats, as they are.

    Args:
        rows: Numbers `[n, d]` by name; the training set first.

    Returns:
        The rows.

    Raises:
        ValueError: If they are anything else.

    Example:
    >>> rows_of_numbers({"x_train": np.array([[1, 20], [3, 40]])})
    [array([[ 1., 20.], [ 3., 40.]], dtype=float32)]
    """
    first = next(iter(rows))
    for name, array in rows.items():
        require(
            array.dtype.kind in "biuf" and array.ndim == 2 and array.size > 0,
            name,
            "rows of numbers [n, d], at least one; write categories as numbers",
            f"an array of {array.dtype} of shape {array.shape}",
        )
        require(
            array.shape[1] == rows[first].shape[1],
            name,
            f"of as many columns as `{first}`, {rows[first].shape[1]}",
            f"an array of shape {array.shape}",
        )
        _require_finite(name, array)
    return [array.astype("float32") for array in rows.values()]


def _with_channels(array: np.ndarray) -> np.ndarray:
    return array[..., np.newaxis] if array.ndim == 3 else array


def _require_shape(name: str, array: np.ndarray) -> None:
    require(
        array.dtype.kind in "biuf",
        name,
        "an array of numbers, such as np.stack(images).astype('uint8') makes "
        "of images of one size",
        f"an array of {array.dtype}",
    )
    require(
        array.ndim in (2, 3, 4) and array.size > 0,
        name,
        "images [n, height, width] or [n, height, width, channels], or rows "
        "of numbers [n, d], at least one",
        f"an array of shape {array.shape}",
    )
    channels_first = (
        array.ndim == 4
        and array.shape[1] in _CHANNELS
        and array.shape[3] not in _CHANNELS
    )
    require(
        not channels_first,
        name,
        "images [n, height, width, channels]; if its channels come first, "
        "move them with np.moveaxis(images, 1, -1)",
        f"an array of shape {array.shape}",
    )


def _require_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f":
        bad = int(array.size - np.isfinite(array).sum())
        require(
            not bad,
            name,
            "finite numbers; replace what is missing or leave those samples "
            "out",
            f"an array with {bad} that are NaN or infinite",
        )


def _require_standardized(name: str, array: np.ndarray) -> None:
    mean = float(array.mean(dtype="float64"))
    deviation = float(array.std(dtype="float64"))
    require(
        array.dtype.kind == "f" and abs(mean) <= 1 and 0.1 <= deviation <= 10,
        name,
        "floats of mean about 0 and standard deviation about 1, since "
        "`standardized` is set",
        f"an array of {array.dtype} of mean {mean:.3g} and deviation "
        f"{deviation:.3g}",
    )


def _divisor(images: dict[str, np.ndarray]) -> tuple[float, str]:
    """Returns what to divide images by, and that in words."""
    name, train = next(iter(images.items()))
    kind = train.dtype.kind
    if kind == "b":
        return 1, "bool as 0 and 1"
    limit = 1 if kind == "f" else np.iinfo(train.dtype).max
    for each, array in images.items():
        low, high = array.min(), array.max()
        received = f"an array of {array.dtype} from {low:.4g} to {high:.4g}"
        if kind == "f":
            require(
                low >= 0 and high <= 1 + _ROUNDING,
                each,
                "floats in [0, 1], or integers or bools; divide it by the "
                "largest value that it can hold, or set `standardized` if it "
                "has mean 0 and deviation 1",
                received,
            )
        else:
            require(low >= 0, each, "without negative integers", received)
    high = train.max()
    require(
        high >= _FILLED * limit,
        name,
        f"spread over the range of its type, 0 to {limit:.4g}; turn bytes in "
        "a wider type into 'uint8', 0 and 1 into 'bool', and divide others by "
        "the largest value that they can hold",
        f"an array of {train.dtype} up to {high:.4g}",
    )
    if kind == "f":
        return 1, f"{train.dtype} in [0, 1]"
    return float(limit), f"{train.dtype} divided by {limit}"


def encode_labels(
    labels: dict[str, np.ndarray], classes: np.ndarray | None = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns labels as integers from 0 on, and the classes they stand for.

    Args:
        labels: Whole numbers or bools that start anywhere, names, a column
            `[n, 1]` of these, or one-hot rows, by name; the training set first.
        classes: The classes in their order; `None` for the columns of one-hot
            labels or the sorted labels of the training set.

    Returns:
        Labels as 32-bit integers of shape `[n]`, and the classes.

    Raises:
        ValueError: If they are anything else, or if a label does not occur in
            the training set.

    Example:
    >>> labels = {"y_train": np.array(["cat", "dog"]), "y_test": np.array(["dog"])}
    >>> encode_labels(labels)
    ([array([0, 1], dtype=int32), array([1], dtype=int32)],
     array(['cat', 'dog'], dtype='<U3'))
    """  # noqa: E501
    plain = {name: _plain(name, array) for name, array in labels.items()}
    first = next(iter(plain))
    train, form = plain[first]
    if classes is None:
        columns = labels[first].shape[-1]
        known = np.unique(train)
        classes = np.arange(columns) if form.startswith("one-hot") else known
    else:
        known = np.intersect1d(train, classes)
        _require_known(first, train, classes, "one of the classes")
    require(
        len(known) > 1, first, "labels of at least two classes", known.tolist()
    )
    for name, (values, its_form) in plain.items():
        require(its_form == form, name, f"{form}, as `{first}` is", its_form)
        _require_known(name, values, known, f"among those of `{first}`")
    return [
        np.searchsorted(classes, values).astype("int32")
        for values, _ in plain.values()
    ], classes


def _require_known(
    name: str, values: np.ndarray, known: np.ndarray, where: str
) -> None:
    unknown = np.setdiff1d(values, known).tolist()
    require(
        not unknown,
        name,
        f"labels that are {where}; leave out samples without a label",
        f"labels with {len(unknown)} others: {unknown[:5]}",
    )


def _plain(name: str, array: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns labels as one number or name each, and their form in words."""
    kind = array.dtype.kind
    require(
        kind in "biufSU",
        name,
        "an array of whole numbers, bools or names, such as "
        "np.array(list(labels)) makes",
        f"an array of {array.dtype}",
    )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and kind in "biuf":
        one_hot = np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all()
        require(
            bool(one_hot),
            name,
            "one label each, or one-hot: rows of zeros with a single one",
            f"an array of {array.dtype} of shape {array.shape} that is not",
        )
        return array.argmax(1), f"one-hot of {array.shape[1]} columns"
    require(
        array.ndim == 1 and len(array) > 0,
        name,
        "labels [n], [n, 1] or one-hot [n, classes], at least one",
        f"an array of shape {array.shape}",
    )
    if kind in "SU":
        if kind == "S":
            array = np.char.decode(array, "utf-8", "backslashreplace")
        return array, "names"
    if kind == "f":
        whole = np.isfinite(array) & (np.rint(array) == array)
        require(
            (whole & (np.abs(array) < 2**53)).all(),
            name,
            "whole numbers; networks here tell classes apart",
            f"an array of {array.dtype} with others, such as "
            f"{array[~whole][:3].tolist()}",
        )
        array = array.astype("int64")
    return array, "numbers"
