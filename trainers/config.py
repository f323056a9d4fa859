"""The configuration of a training run."""

import dataclasses
from typing import Any

from entropy_keras import hyperparameters

EPOCH_UNITS = ("passes", "updates")
PREPROCESSING = ("none", "gcn_zca")
STRATEGIES = ("none", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class Common:
    """What any run depends on; flags of `trainers.train`.

    Attributes:
        dataset: Name of the data set, see `data.load`.
        data_dir: Where TensorFlow Datasets keeps its data.
        npz: Keras-style file to use in place of `dataset`.
        text: Text file to use in place of `dataset`.
        validation_fraction: Share of the training set held out; if positive,
            the test set is evaluated only once, at the end.
        standardized: Whether images are floats of mean 0 and deviation 1.
        preprocessing: `"gcn_zca"` to normalize the contrast of images and to
            whiten them, see `whitening`.
        network: Name of the network, see `networks.build`.
        width: Multiplier of the network's channels and units.
        optimizer: Name of the optimizer, see `optimizers.build`.
        epochs: Number of epochs.
        epoch_unit: What an epoch is: one pass over the data, or, as the paper
            counts, as many updates as mini-batches in the data, which is
            `minibatches_per_update` passes, and a little more where each
            pass ends in a short update.
        batch_size: Size of a mini-batch.
        learning_rate: Outer learning rate; `None` for the optimizer's default.
        schedule: Schedule of the learning rate over the run.
        step_fraction: See `optimizers.learning_rate_schedule`.
        step_factor: Likewise.
        momentum: Nesterov momentum: of the inner loop of Entropy-SGD, or of
            SGD.
        weight_decay: Decoupled weight decay, or `None`.
        clipnorm: Largest norm of the gradient of each variable, or `None`.
        recalibrate: Whether statistics of batch normalization are refreshed
            before each evaluation.
        jit_compile: Whether to compile with XLA: `"auto"`, `"true"`, `"false"`.
        strategy: Which devices train together, see `training.make_strategy`.
        seed: Seed of the split, the initial weights, the order and the noise.
        scope_growth: Growth of the scope of Entropy-SGD per update.
        maximum_scope: Cap of a growing scope, or `None`.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    npz: str | None = None
    text: str | None = None
    validation_fraction: float = 0.0
    standardized: bool = False
    preprocessing: str = "none"
    network: str = "lenet"
    width: float = 1.0
    optimizer: str = "entropy_sgd"
    epochs: int = 40
    epoch_unit: str = "passes"
    batch_size: int = 64
    learning_rate: float | None = None
    schedule: str = "cosine"
    step_fraction: float = 0.3
    step_factor: float = 5.0
    momentum: float = 0.9
    weight_decay: float | None = None
    clipnorm: float | None = None
    recalibrate: bool = True
    jit_compile: str = "auto"
    strategy: str = "none"
    seed: int = 0
    scope_growth: float = 0.0
    maximum_scope: float | None = None


def _default(field: Any) -> Any:
    """Returns the default of a flag, `None` for one that depends on others."""
    return None if field.default is hyperparameters.UNSET else field.default


# The hyper-parameters of Entropy-SGD that are flags, by name.
ENTROPY_FIELDS = {
    field.name: field
    for field in dataclasses.fields(hyperparameters.HyperParameters)
    if field.metadata["flag"]
}
Config: Any = dataclasses.make_dataclass(
    "Config",
    [
        (name, Any, dataclasses.field(default=_default(field)))
        for name, field in ENTROPY_FIELDS.items()
    ],
    bases=(Common,),
    frozen=True,
    namespace={
        "__doc__": "Everything that a run depends on: `Common`, and the "
        "arguments of `EntropySGD` that are flags, `None` where not given."
    },
)
