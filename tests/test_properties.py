"""What holds for any sizes, configurations and schedules."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import entropy_keras
from entropy_keras import batching

repeatable = settings(derandomize=True, deadline=None, max_examples=40)


@repeatable
@given(size=st.integers(1, 60), count=st.integers(1, 12))
def test_splitting_drops_nothing(size, count):
    inputs = tf.range(size)
    group = {"a": inputs}, (-inputs,), tf.cast(inputs, "float32")
    minibatch = batching.split(group, count)
    seen = []
    for index in range(count):
        x, y, sample_weight = minibatch(index)
        assert len(x["a"]) == math.ceil(size / count)
        # What belongs together stays together.
        np.testing.assert_array_equal(x["a"], -y[0])
        np.testing.assert_array_equal(x["a"], sample_weight)
        seen += x["a"].numpy().tolist()
    # In order, and then again from the start for what is missing.
    assert seen == [i % size for i in range(len(seen))]


@repeatable
@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    count=st.integers(1, 6),
)
def test_grouping_keeps_every_sample_in_order(size, batch_size, count):
    dataset = tf.data.Dataset.range(size).batch(batch_size)
    groups = list(batching.group_dataset(dataset, count).as_numpy_iterator())
    lengths = [len(group) for group in groups]
    assert np.concatenate(groups).tolist() == list(range(size))
    assert set(lengths[:-1]) <= {batch_size * count}
    assert 0 < lengths[-1] <= batch_size * count


exact = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75])
scopes = st.one_of(
    exact,
    st.builds(
        entropy_keras.ExponentialScope,
        st.sampled_from([0.125, 0.25]),
        exact,
        st.sampled_from([0.5, 1.0]),
    ),
)
samplers = st.one_of(
    st.builds(entropy_keras.SGLD, exact, st.booleans()),
    st.just(entropy_keras.SplitSGLD()),
)
configurations = st.fixed_dictionaries({
    "learning_rate": st.one_of(
        st.sampled_from([0.25, 1.0]),
        st.builds(
            keras.optimizers.schedules.CosineDecay,
            st.sampled_from([0.5, 1.0]),
            st.integers(1, 100),
        ),
    ),
    "scope": scopes,
    "num_langevin_steps": st.integers(1, 9),
    "langevin_learning_rate": st.sampled_from([None, 0.25, 0.5]),
    "temperature": exact,
    "data_weight": exact,
    "scale_by_scope": st.booleans(),
    "sampler": samplers,
    "share_batch": st.booleans(),
    "seed": st.integers(0, 2**31 - 1),
})


@repeatable
@given(arguments=configurations)
def test_any_configuration_survives_json(arguments):
    optimizer = entropy_keras.EntropySGD(**arguments)
    serialized = json.dumps(keras.optimizers.serialize(optimizer))
    revived = keras.optimizers.deserialize(json.loads(serialized))
    assert type(revived) is entropy_keras.EntropySGD
    assert keras.optimizers.serialize(revived) == json.loads(serialized)
    config = revived.get_config()
    for name, value in arguments.items():
        if value is None or isinstance(value, (bool, int, float)):
            assert config[name] == value
    expected = arguments["num_langevin_steps"] + (arguments["data_weight"] > 0)
    assert revived.gradients_per_update == expected


@repeatable
@given(
    name=st.sampled_from([
        "scope",
        "temperature",
        "data_weight",
        "langevin_learning_rate",
        "averaging_rate",
    ]),
    value=st.one_of(
        st.floats(max_value=-1e-300),
        st.sampled_from([math.nan, math.inf, "1", [0.5]]),
    ),
)
def test_any_bad_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` .* Received: {name}="):
        entropy_keras.EntropySGD(**{name: value})


@repeatable
@given(
    initial=st.floats(1e-6, 10.0),
    rate=st.floats(0.0, 0.1),
    ratio=st.floats(1.0, 1e3),
    update=st.integers(0, 100_000),
)
def test_a_growing_scope_is_the_power_below_its_cap(
    initial, rate, ratio, update
):
    maximum = initial * ratio
    scope = entropy_keras.ExponentialScope(initial, rate, maximum)
    grown = math.log(initial) + update * math.log1p(rate)
    expected = math.exp(min(grown, math.log(maximum)))
    assert float(scope(update)) == pytest.approx(expected, rel=1e-4)
    assert float(scope(update)) <= float(scope(update + 1))
    assert float(scope(update)) <= maximum * (1 + 1e-6)
