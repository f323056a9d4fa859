"""Several replicas, against single devices and closed forms."""

import json
import pathlib
import subprocess
import sys

import pytest


def run(*arguments):
    """Returns what a process of several logical devices found."""
    worker = pathlib.Path(__file__).with_name("devices_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), *arguments],
        cwd=worker.parent.parent,
        env={"PYTHONPATH": ".", "PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [x for x in done.stdout.split("\n") if x.startswith("RESULTS ")]
    return json.loads(line.removeprefix("RESULTS "))


@pytest.fixture(scope="module")
def results():
    return run("two")


@pytest.fixture(scope="module")
def more():
    return run("more")


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("entropy", 1e-6),
        ("sharpness_aware", 2e-6),
    ],
)
def test_an_update_is_the_average_of_single_devices(results, case, tolerance):
    found = results[case]
    assert found["difference"] < tolerance
    assert found["moved"] > 0.05
    first, second = found["loss"]
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.nightly
def test_half_precision_has_8_bits(more):
    found = more["half"]
    assert found["difference"] < 2e-3
    assert found["moved"] > 0.05
    assert found["loss"][0] == pytest.approx(found["loss"][1], rel=0.02)


@pytest.mark.nightly
def test_four_replicas_are_the_average_of_four_devices():
    for found in run("four").values():
        assert found["difference"] < 1e-6
        assert found["moved"] > 0.05


def test_elastic_replicas_are_those_of_the_publication(results):
    found = results["elastic"]
    assert found["difference"] < 2e-6
    assert found["moved"] > 0.05
    assert found["apart"] > 0.005
    assert found["resumed"] == 0


def test_synchronized_chains_are_those_of_one_device(results):
    # 50 updates, with noise and clipping.
    assert results["synchronized"]["difference"] < 1e-5


@pytest.mark.parametrize(
    ("process", "case"),
    [
        ("results", "legs"),
        pytest.param("more", "synchronized_legs", marks=pytest.mark.nightly),
    ],
)
def test_chains_go_on_from_group_to_group(process, case, request):
    found = request.getfixturevalue(process)[case]
    assert found["difference"] < 1e-6
    assert found["moved"] > 0.05
    assert found["loss"][0] == pytest.approx(found["loss"][1], rel=1e-5)


def test_one_reduction_of_all_weights_per_update(results):
    found = results["collectives"]
    # All weights, statistics among them, the loss, and how many have data.
    assert found["reduced"] == [found["weights"] + 2]
    # In the compiled program: one for each of the two replicas.
    assert found["compiled"] == ["CollectiveReduceV2"] * 2


def test_a_bad_number_on_one_replica_stops_all(results):
    found = results["failure"]
    assert "is not finite at update 1" in found["message"]
    assert found["difference"] == 0


def test_a_bad_number_on_one_replica_halves_the_scale_once(results):
    found = results["failure_half"]
    assert found["difference"] == 0
    scale = found["scale"]
    assert scale < 2**15
    assert scale == 2 ** round(scale).bit_length() / 2


def test_each_replica_has_noise_of_its_own(results):
    found = results["noise"]
    # 65 weights: the deviation of a deviation is 9 %, of a correlation 0.12.
    for deviation in found["deviations"]:
        assert deviation == pytest.approx(found["expected"], rel=0.4)
    assert abs(found["correlation"]) < 0.5


def test_dropout_differs_between_replicas(results):
    # Half of the units of one are dropped where the other keeps them.
    assert 0.2 < results["masks"]["differ"] < 0.8


def test_a_landscape_is_the_same_within_a_scope(results):
    found = results["landscape"]
    for inside in found["inside"]:
        assert inside == pytest.approx(found["outside"], rel=1e-5)


def test_last_groups_of_any_size_train(results):
    found = results["last_groups"]["found"]
    assert [updates for updates, _ in found] == [2, 2, 1]
    assert all(0 < loss < 100 for _, loss in found)


@pytest.mark.parametrize(
    ("process", "case"),
    [
        ("results", "short_leg"),
        pytest.param(
            "more", "synchronized_short_leg", marks=pytest.mark.nightly
        ),
    ],
)
def test_a_replica_without_data_in_a_leg_stays_where_it_is(
    process, case, request
):
    found = request.getfixturevalue(process)[case]
    assert found["difference"] < 1e-6
    assert 0 < found["loss"] < 100


def test_what_cannot_work_is_refused_by_name(results):
    first, second, *of_data = results["refused"]["messages"]
    assert first.startswith("`jit_compile` must be False or 'auto' under a Mir")
    assert second.startswith("`steps_per_execution` must be 1 under a Mirrored")
    # Two forms of generator, and batches that may differ in shape.
    assert [text.split(" on several")[0] for text in of_data] == [
        "`x` must be arrays, a tf.data.Dataset or a keras.utils.PyDataset",
        "`x` must be arrays, a tf.data.Dataset or a keras.utils.PyDataset",
        "`x` must be a data set whose mini-batches have one shape",
    ]


def test_parts_of_several_strategies_are_refused_by_name(results):
    messages = results["outside"]["messages"]
    assert len(messages) == 5
    cure = "`model` must be made and compiled under one strategy: build the"
    assert all(text.startswith(cure) for text in messages)
    for text in messages[:4]:
        assert "variables made outside of the MirroredStrategy" in text
    assert messages[4].endswith(
        "made under MirroredStrategy, used under OneDeviceStrategy"
    )
