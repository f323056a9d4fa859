"""The configuration of a training run."""

import dataclasses

EPOCH_UNITS = ("passes", "updates")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on; the flags of `trainers.train`.

    Attributes:
        dataset: Name of the data set, see `data.load`.
        data_dir: Where TensorFlow Datasets keeps its data.
        npz: Keras-style file to use in place of `dataset`.
        text: Text file to use in place of `dataset`.
        validation_fraction: Share of the training set held out; if positive,
            the test set is evaluated only once, at the end.
        network: Name of the network, see `networks.build`.
        width: Multiplier of the network's channels and units.
        optimizer: Name of the optimizer, see `optimizers.build`.
        epochs: Number of epochs.
        epoch_unit: What an epoch is: one pass over the data, or, as the paper
            counts, as many updates as mini-batches in the data, which is
            `gradients_per_update` passes.
        batch_size: Size of a mini-batch.
        learning_rate: Outer learning rate; `None` for the optimizer's default.
        schedule: Schedule of the learning rate over the run.
        step_fraction: See `optimizers.learning_rate_schedule`.
        step_factor: Likewise.
        momentum: Nesterov momentum: of the inner loop of Entropy-SGD, or of
            SGD.
        weight_decay: Decoupled weight decay, or `None`.
        clipnorm: Largest norm of the gradient of each variable, or `None`.
        num_langevin_steps: See `EntropySGD`, as for all that follow.
        langevin_learning_rate: Positive, or `None` to tie it to the outer one.
        scope: Scope at the start.
        scope_growth: Growth of the scope per update.
        maximum_scope: Cap of a growing scope, or `None`.
        temperature: Temperature.
        averaging_rate: Averaging rate; `None` for the plain mean.
        data_weight: Weight of the loss itself.
        scale_by_scope: Whether the scope multiplies the displacement.
        estimator: Estimator.
        sampler: `"sgld"` or `"split_sgld"`.
        start: Start of the chain.
        share_batch: Whether one mini-batch serves the whole update.
        recalibrate: Whether statistics of batch normalization are refreshed
            before each evaluation.
        jit_compile: Whether to compile with XLA: `"auto"`, `"true"`, `"false"`.
        seed: Seed of the split, the initial weights, the order and the noise.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    npz: str | None = None
    text: str | None = None
    validation_fraction: float = 0.0
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
    num_langevin_steps: int = 5
    langevin_learning_rate: float | None = 0.1
    scope: float = 0.03
    scope_growth: float = 0.0
    maximum_scope: float | None = None
    temperature: float = 5e-9
    averaging_rate: float | None = 0.75
    data_weight: float = 0.0
    scale_by_scope: bool = False
    estimator: str = "displacement"
    sampler: str = "sgld"
    start: str = "anchor"
    share_batch: bool = False
    recalibrate: bool = True
    jit_compile: str = "auto"
    seed: int = 0
