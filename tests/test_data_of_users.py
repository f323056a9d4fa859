"""What trainers make of the arrays of users: right, or refused by name."""

import json

import numpy as np
import pytest

from trainers import arrays
from trainers import config
from trainers import data
from trainers import sources
from trainers import training

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, [40, 28, 28]).astype("uint8")
CLASSES = np.arange(40) % 4
EXPECTED = (BYTES / 255.0).astype("float32")[..., np.newaxis]


def load(tmp_path, x=BYTES, y=CLASSES, **arguments):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    return data.load("digits", npz=str(path), **arguments)


@pytest.mark.parametrize(
    "images",
    [
        BYTES,
        BYTES.astype("uint16") * 257,  # 255 becomes 65,535
        (BYTES / 255.0).astype("float32"),
        BYTES / 255.0,
        (BYTES / 255.0).astype("float16"),
        BYTES[..., np.newaxis],
    ],
    ids=["uint8", "uint16", "float32", "float64", "float16", "channels"],
)
def test_images_of_any_range_are_the_same(tmp_path, images):
    found = load(tmp_path, images).train.images
    np.testing.assert_allclose(found, EXPECTED, atol=5e-4)
    assert found.dtype == np.float32


def test_other_forms_of_images():
    bools, words = arrays.scale_images({"x": BYTES > 127})
    assert set(np.unique(bools[0])) == {0.0, 1.0}
    assert words == "bool as 0 and 1"
    normal = RNG.normal(size=[20, 8, 8, 3])
    kept, _ = arrays.scale_images({"x": normal}, standardized=True)
    np.testing.assert_allclose(kept[0], normal, atol=1e-6)
    rows, _ = arrays.scale_images({"x": RNG.uniform(size=[20, 5])})
    assert rows[0].shape == (20, 5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (BYTES.astype("float32"), "`x_train` must be floats in .0, 1."),
        (BYTES / 255.0 - 0.5, "`x_train` must be floats in .0, 1."),
        (BYTES.astype("int32"), "`x_train` must be spread over the range"),
        (BYTES.astype("int16") - 128, "`x_train` must be without negative"),
        (np.full([40, 28, 28], np.nan), "`x_train` must be finite numbers"),
        (np.zeros([40, 3, 28, 28], "uint8"), "np.moveaxis"),
        (np.zeros([40, 28], "U3"), "`x_train` must be an array of numbers"),
        (np.zeros([40], "uint8"), "`x_train` must be images"),
    ],
)
def test_ambiguous_images_are_refused_by_name(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, images)


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES.astype("int8"),
        CLASSES.astype("uint64"),
        CLASSES[:, np.newaxis],
        CLASSES + 7,
        CLASSES.astype("float32"),
        np.eye(4)[CLASSES],
        np.array(["ant", "bee", "cow", "dog"])[CLASSES],
        np.array([b"ant", b"bee", b"cow", b"dog"])[CLASSES],
        CLASSES * 2 - 3,
    ],
    ids=[
        "int8", "uint64", "column", "from_7", "floats", "one_hot", "names",
        "bytes", "negative",
    ],
)  # fmt: skip
def test_labels_of_any_form_are_the_same(tmp_path, labels):
    found = load(tmp_path, y=labels)
    np.testing.assert_array_equal(found.train.labels, CLASSES)
    np.testing.assert_array_equal(found.test.labels, CLASSES[:8])
    assert found.num_classes == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (CLASSES + 0.5, "`y_train` must be whole numbers"),
        (np.zeros([40, 3]), "one-hot: rows of zeros with a single one"),
        (CLASSES * 0, "`y_train` must be labels of at least two classes"),
        (CLASSES[:-1], "`y_train` must be one label for each sample"),
        (np.zeros([40, 2, 2], int), "labels .n., .n, 1. or one-hot"),
    ],
)
def test_ambiguous_labels_are_refused_by_name(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, y=labels)


def test_labels_of_the_test_set_are_known(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=BYTES, y_train=CLASSES, x_test=BYTES[:1], y_test=[9])
    with pytest.raises(ValueError, match="`y_test` must be labels that are am"):
        data.load("digits", npz=str(path))


def test_what_was_understood_is_said(tmp_path):
    found = load(tmp_path, y=CLASSES + 1, validation_fraction=0.2)
    assert found.understood == (
        "data: samples of shape (28, 28, 1), uint8 divided by 255; 4 classes "
        "(1, 2, 3, … 4); 32 to train on, 8 to test on, 8 to choose on"
    )


def test_a_test_set_is_taken_where_there_is_none(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=BYTES, y_train=CLASSES)
    found = data.load("digits", npz=str(path))
    assert [len(s.labels) for s in (found.train, found.test)] == [32, 8]
    assert "tested on 20% of the training set" in found.understood


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=BYTES, y_train=CLASSES)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="`npz` must be a whole file"):
        data.load("digits", npz=str(path))


def test_a_set_is_written_and_read_back(tmp_path):
    path = tmp_path / "data.npz"
    names = np.array(["ant", "bee", "cow", "dog"])[CLASSES]
    np.savez(
        path, x_train=BYTES, y_train=names, x_test=BYTES[:8], y_test=names[:8]
    )
    sources.write_tfds(sources.read_npz(str(path)), "mine", str(tmp_path))
    found = data.load("mine", data_dir=str(tmp_path))
    np.testing.assert_allclose(found.train.images, EXPECTED, atol=1e-6)
    np.testing.assert_array_equal(found.train.labels, CLASSES)
    assert len(found.test.labels) == 8
    source = sources.read_npz(str(path))
    with pytest.raises(ValueError, match="`name` must be new in `data_dir`"):
        sources.write_tfds(source, "mine", str(tmp_path))


def make_run(tmp_path, shift=0):
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x_train=np.roll(BYTES, shift, 0),
        y_train=CLASSES,
        x_test=BYTES[:8],
        y_test=CLASSES[:8],
    )
    chosen = config.Config(
        npz=str(path), network="small_mnistfc", epochs=1, batch_size=8
    )
    return chosen, tmp_path / "run"


def test_data_are_part_of_what_a_run_is(tmp_path):
    training.prepare(*make_run(tmp_path))
    training.prepare(*make_run(tmp_path))
    with pytest.raises(ValueError, match="`workdir` .* the same data"):
        training.prepare(*make_run(tmp_path, shift=1))


@pytest.mark.parametrize("content", ["", "{", '{"test_accuracy": 0.'])
@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, content):
    chosen, workdir = make_run(tmp_path)
    run = training.prepare(chosen, workdir)
    (workdir / name).write_text(content)
    again = {
        "config.json": lambda: training.prepare(chosen, workdir),
        "metrics.json": lambda: training.finish(run),
    }[name]
    with pytest.raises(ValueError, match=rf"`workdir` .*{name} is damaged"):
        again()


def test_the_record_of_a_run_is_json(tmp_path):
    chosen, workdir = make_run(tmp_path)
    training.prepare(chosen, workdir)
    recorded = json.loads((workdir / "config.json").read_text())
    assert len(recorded["data"]) == 64
    assert recorded["num_langevin_steps"] == 5
