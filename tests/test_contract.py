"""What optimizers of several gradients promise beside their numbers."""

import subprocess
import sys
import warnings

import keras
import lookahead
import numpy as np
import pytest
import tensorflow as tf

import entropy_keras
from entropy_keras import chain

X = np.random.default_rng(0).normal(size=[40, 3]).astype("float32")
Y = X[:, :1].copy()
EntropySGD = entropy_keras.EntropySGD


def compiled(optimizer, **arguments):
    keras.utils.set_random_seed(0)
    model = entropy_keras.EntropyModel.from_model(
        keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    )
    model.compile(optimizer, loss="mse", **arguments)
    return model


def test_diagnostics_are_of_training_alone():
    model = compiled(EntropySGD(0.1, diagnostics=True), metrics=["mae"])
    history = model.fit(
        X, Y, batch_size=4, validation_data=(X, Y), verbose=0
    ).history
    assert "force_norm" in history
    assert {n for n in history if n.startswith("val_")} == {
        "val_loss",
        "val_mae",
    }
    loss, mae = model.evaluate(X, Y, verbose=0)
    assert loss > 0
    assert mae > 0
    assert set(model.evaluate(X, Y, verbose=0, return_dict=True)) == {
        "loss",
        "mae",
    }


@pytest.mark.parametrize("jit_compile", [False, "auto", True])
def test_without_jit_compile_nothing_is_compiled(jit_compile):
    model = compiled(EntropySGD(0.1, temperature=1e-4), jit_compile=jit_compile)
    model.train_on_batch(X, Y)

    @tf.function
    def step():
        return model.train_step((tf.constant(X), tf.constant(Y)))

    graph = step.get_concrete_function().graph.as_graph_def()
    attributes = [
        node.attr["_XlaMustCompile"].b
        for nodes in [graph.node, *(f.node_def for f in graph.library.function)]
        for node in nodes
    ] + [f.attr["_XlaMustCompile"].b for f in graph.library.function]
    assert any(attributes) == (jit_compile is not False)


def test_numerics_are_checked_where_nothing_is_compiled():
    tf.debugging.enable_check_numerics()
    try:
        model = compiled(EntropySGD(0.1), jit_compile=False)
        model.fit(X, Y, batch_size=4, verbose=0)
    finally:
        tf.debugging.disable_check_numerics()
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize(
    "argument",
    ["learning_rate", "scope", "langevin_learning_rate", "temperature"],
)
def test_what_is_callable_is_called_with_the_update(argument):
    seen = []

    def schedule(update):
        seen.append(int(update))
        return 0.1 / (1.0 + tf.cast(update, tf.float32))

    model = compiled(EntropySGD(**{argument: schedule}), run_eagerly=True)
    seen.clear()
    model.fit(X, Y, batch_size=4, verbose=0)
    assert set(seen) == {0, 1}


@pytest.mark.parametrize(
    "argument",
    ["learning_rate", "scope", "langevin_learning_rate", "temperature"],
)
def test_a_callable_without_argument_is_refused(argument):
    with pytest.raises(ValueError, match=rf"^`{argument}` must be .*schedule"):
        EntropySGD(**{argument: lambda: 0.1})


def test_settings_may_differ_from_variable_to_variable():
    noisy = entropy_keras.PerVariable(
        lambda v: 1.0 if "kernel" in v.path else 0.0
    )
    model = compiled(
        EntropySGD(
            1.0,
            temperature=noisy,
            langevin_learning_rate=1e-6,
            scope=0.0,
            seed=0,
        )  # fmt: skip
    )
    before = model.get_weights()
    model.train_on_batch(X, Y)
    kernel, bias = (
        abs(a - b).max()
        for a, b in zip(model.get_weights(), before, strict=True)
    )
    # Noise of deviation sqrt(2e-6) in the kernel, steps of 1e-6 in the bias.
    assert kernel > 5e-4
    assert bias < 1e-4


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (((1e-3,), {}), True),
        (((), {"learning_rate": 1e-4}), True),
        (((0.1,), {}), False),
        (((1e-3,), {"estimator": "mean_gradient"}), False),
        (((1e-3,), {"scale_by_scope": True}), False),
        (((), {"outer_optimizer": keras.optimizers.Adam(1e-3)}), False),
    ],
)
def test_a_learning_rate_of_another_optimizer_is_warned_of(arguments, warned):
    positional, named = arguments
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EntropySGD(*positional, **named)
    texts = [str(w.message) for w in caught]
    assert any("langevin_learning_rate" in text for text in texts) == warned


def test_numbers_of_numpy_are_numbers():
    optimizer = EntropySGD(
        np.float32(0.5), np.float64(0.1), np.int32(3), seed=np.int64(7),
        scale_by_scope=np.bool_(True), temperature=np.float16(0.5),
        sampler=entropy_keras.SGLD(np.float32(0.5), np.bool_(False)),
    )  # fmt: skip
    assert type(optimizer.seed) is int
    assert type(optimizer.num_langevin_steps) is int
    assert optimizer.scale_by_scope is True
    model = compiled(optimizer)
    model.fit(X, Y, batch_size=4, verbose=0)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()


def test_loss_scaling_within_is_refused():
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    for make in (EntropySGD, entropy_keras.SharpnessAware, lookahead.Lookahead):
        with pytest.raises(ValueError, match="^`outer_optimizer` must "):
            make(outer_optimizer=inner)


def test_hyperparameters_cannot_be_changed_in_silence():
    optimizer = EntropySGD(0.1)
    with pytest.raises(AttributeError):
        optimizer.scope = 0.5


def test_a_plain_model_is_told_where_to_go():
    for make in (EntropySGD, entropy_keras.SharpnessAware, lookahead.Lookahead):
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        model.compile(make(), loss="mse")
        with pytest.raises(ValueError, match=r"EntropyModel\.from_model"):
            model.fit(X, Y, verbose=0)


def test_a_proposal_without_gradients_is_refused():
    class Idle(entropy_keras.MultiGradientOptimizer):
        gradients_per_update = 1

        def propose(self, gradient_at, anchor, slots, clock):
            return entropy_keras.Proposal(anchor)

    with pytest.raises(ValueError, match="`propose` must ask"):
        compiled(Idle()).train_on_batch(X, Y)


def test_the_first_pass_is_the_one_that_is_reported():
    model = compiled(lookahead.Lookahead(0.0))
    expected = np.mean((model(X[:8]).numpy() - Y[:8]) ** 2)
    logs = model.train_on_batch(X, Y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_another_backend_is_refused_in_one_sentence(backend):
    result = subprocess.run(
        [sys.executable, "-c", "import entropy_keras"],
        env={"KERAS_BACKEND": backend, "PATH": "", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: entropy_keras needs Keras on Tensor")
    assert last.endswith(f"KERAS_BACKEND={backend}")


_ALONE = """
import importlib, importlib.metadata, pkgutil, sys
from packaging.requirements import Requirement

# Everything installed that is not required, at any depth, is hidden.
present, new = {"pip", "setuptools"}, {("entropy_keras", sys.argv[1])}
while new:
    name, extra = new.pop()
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    present.add(name)
    for found in map(Requirement, lines):
        if not found.marker or found.marker.evaluate({"extra": extra}):
            name = found.name.replace("-", "_").lower()
            if name not in present:
                new |= {(name, extra) for extra in found.extras or {""}}
hidden = set()
for name, owners in importlib.metadata.packages_distributions().items():
    if not {o.replace("-", "_").lower() for o in owners} & present:
        sys.modules[name] = None
        hidden.add(name)
assert {"pytest", "hypothesis"} < hidden
package = importlib.import_module(sys.argv[2])
for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        print(error)
    # Each binary has flags of its own.
    flags = getattr(sys.modules.get("absl.flags"), "FLAGS", [])
    for name in list(flags):
        delattr(flags, name)
if package.__name__ == "trainers":
    import tensorflow_datasets
    print(tensorflow_datasets.builder_cls("mnist").__name__)
"""


@pytest.mark.parametrize(
    ("extra", "package", "said"),
    [
        (
            "",
            "entropy_keras",
            "entropy_keras.landscape needs psutil, which is not installed: "
            "pip install 'entropy_keras[landscape]'",
        ),
        ("landscape", "entropy_keras", ""),
        pytest.param(
            "trainers", "trainers", "MNIST", marks=pytest.mark.nightly
        ),
    ],
)
def test_nothing_is_needed_that_is_not_declared(extra, package, said):
    result = subprocess.run(
        [sys.executable, "-c", _ALONE, extra, package],
        env={"PATH": "", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == said


def test_a_chain_without_noise_asks_for_no_key(monkeypatch):
    monkeypatch.setattr(chain.Noise, "keys", None)
    compiled(EntropySGD(0.1, temperature=0.0)).train_on_batch(X, Y)
