"""Replicas with weights of their own, which pull at each other elastically."""

import inspect
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from entropy_keras import entropy_sgd
from entropy_keras import hyperparameters
from entropy_keras import multi_gradient
from entropy_keras import replicas
from entropy_keras import schedules
from entropy_keras import validation

Tensors = Sequence[tf.Tensor]


class Anchors(NamedTuple):
    """Where each replica's weights lie, from an origin they have in common.

    Attributes:
        counted: How often each replica counts, of shape `[replicas]`: 1, or
            where only n of them had data, R / n for those and 0 for the others.
        places: For each variable a tensor of shape `[replicas, *its shape]`,
            each row as often as it counts.
    """

    counted: tf.Tensor
    places: list[tf.Tensor]

    def offsets(self, replica: Any) -> list[tf.Tensor]:
        """Returns how far one replica is from the mean of all.

        A replica without a place, since it had no data in the last update, is
        at the mean.

        Args:
            replica: Its number.

        Returns:
            A tensor for each variable.
        """
        here = self.counted[replica]
        number = tf.maximum(tf.reduce_sum(self.counted), 1.0)

        def offset(places: tf.Tensor) -> tf.Tensor:
            mean = tf.reduce_sum(places, 0) / tf.cast(number, places.dtype)
            own = places[replica] / tf.cast(tf.maximum(here, 1.0), places.dtype)
            return tf.where(here > 0, own - mean, tf.zeros_like(mean))

        return [offset(places) for places in self.places]


@keras.saving.register_keras_serializable(package="entropy_keras")
class ElasticEntropySGD(entropy_sgd.EntropySGD):
    """Entropy-SGD whose replicas keep anchors of their own (Parle).

    Under a `tf.distribute` strategy with R replicas each has weights `x_a` that
    its chains start from and are held by, and the weights `x` of the model are
    their mean, which alone is validated, saved and exported:

    ```
    mean_a = ...                  # of the chain around x_a, as in EntropySGD
    x_a -= learning_rate * ((x_a - mean_a) + elasticity * (x_a - x))
    x = mean of all x_a
    ```

    With elasticity 0 the replicas do not feel each other; with
    `1 / learning_rate` they all begin each update at `x`, which is `EntropySGD`
    to within the difference of one displacement. On one replica, and without a
    strategy, it is `EntropySGD`.

    All is known on every replica, so that a run can be saved and goes on
    exactly, at a price: memory and all-reduce are R + 1 times the weights,
    where `EntropySGD` has one. A checkpoint is for the same number of replicas.

    Args:
        *values: As for `EntropySGD`.
        elasticity: Strength of the pull to the mean, 1 / ρ in the publication:
            a non-negative float, or a schedule over updates.
        **arguments: As for `EntropySGD`. The outer optimizer moves the mean;
            `learning_rate` is its own. `chains` has to be `"per_replica"`.

    Raises:
        ValueError: If `elasticity` is negative or not finite, if it is a number
            that lets the replicas overshoot their mean and drift apart, if
            the chains are synchronized, or if gradients are accumulated.

    Example:
    >>> optimizer = ElasticEntropySGD(0.5, elasticity=0.1, seed=0)
    >>> optimizer.elasticity
    0.1

    References:
        Chaudhari et al., "Parle: parallelizing stochastic gradient descent",
        arXiv:1707.00424, equation 8. Zhang, Choromanska, LeCun, "Deep learning
        with elastic averaging SGD", arXiv:1412.6651.
    """

    def __init__(
        self, *values: Any, elasticity: Any = 1.0, **arguments: Any
    ) -> None:
        super().__init__(*values, **arguments)
        schedules.check(elasticity, "elasticity")
        if not callable(elasticity):
            rate = schedules.number(self.learning_rate)
            validation.require(
                rate * elasticity < 2,
                "elasticity",
                f"below 2 / learning_rate = {2 / max(rate, 1e-9):.3g}, beyond "
                "which the replicas drift apart",
                elasticity,
            )
        validation.require(
            self.chains == "per_replica",
            "chains",
            "'per_replica' where each replica has an anchor of its own",
            self.chains,
        )
        validation.require(
            not self.outer_optimizer.gradient_accumulation_steps,
            "gradient_accumulation_steps",
            "None where each replica has an anchor of its own, which moves at "
            "every update: take more inner steps",
            self.outer_optimizer.gradient_accumulation_steps,
        )
        self.elasticity = elasticity

    def initial_slots(self, variables: Sequence[keras.Variable]) -> Any:
        """Returns the state of `EntropySGD`, and anchors at the weights.

        Args:
            variables: The trainable variables.

        Returns:
            Their slots.
        """
        number = replicas.count()
        places = [
            tf.zeros([number, *v.shape], tf.as_dtype(v.dtype))
            for v in variables
        ]
        return super().initial_slots(variables), Anchors(
            tf.ones([number]), places
        )

    def begin_epoch(self) -> None:
        """Lets the means of the diagnostics begin anew."""
        if self.diagnostics and self.built:
            own, _ = tf.nest.pack_sequence_as(
                self._slot_structure, self.slot_variables
            )
            for variable in tf.nest.flatten(own[-1]):
                variable.assign(0.0)

    def propose(
        self,
        gradient_at: multi_gradient.GradientAt,
        anchor: Tensors,
        slots: Any,
        clock: multi_gradient.Clock,
    ) -> multi_gradient.Proposal:
        """Computes one update; see `MultiGradientOptimizer`.

        Args:
            gradient_at: Gives the gradient of the loss at any weights.
            anchor: The mean x of the replicas' weights.
            slots: The state of `EntropySGD`, and the `Anchors`.
            clock: The number of the update, the learning rate, the replica.

        Returns:
            The force on this replica, whose mean moves x, and the slots of the
            next update.
        """
        own, anchors = slots
        offsets = anchors.offsets(clock.replica)
        proposal = super().propose(
            gradient_at,
            [x + offset for x, offset in zip(anchor, offsets, strict=True)],
            own,
            clock,
        )
        pull = schedules.at(self.elasticity, clock.update)

        def place(offset: tf.Tensor, force: tf.Tensor) -> tf.Tensor:
            rate = tf.cast(clock.learning_rate, offset.dtype)
            # From where the mean was: where it will be, all replicas know only
            # after they have met.
            return offset - rate * (
                force + tf.cast(pull, offset.dtype) * offset
            )

        number = replicas.count()
        # The mean over replicas of what only one of them has.
        row = number * tf.one_hot(clock.replica, number)

        def spread(value: tf.Tensor) -> tf.Tensor:
            shape = [number] + [1] * value.shape.rank
            return tf.reshape(tf.cast(row, value.dtype), shape) * value

        places = [
            spread(place(offset, force))
            for offset, force in zip(offsets, proposal.gradients, strict=True)
        ]
        return proposal._replace(slots=(proposal.slots, Anchors(row, places)))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the optimizer, as JSON can hold them."""
        return super().get_config() | {
            "elasticity": hyperparameters.serialized(self.elasticity)
        }


def _signature() -> inspect.Signature:
    """Returns that of `EntropySGD`, with `elasticity`."""
    signature = inspect.signature(entropy_sgd.EntropySGD)
    *parameters, others = signature.parameters.values()
    own = inspect.signature(ElasticEntropySGD.__init__).parameters["elasticity"]
    return signature.replace(parameters=[*parameters, own, others])


ElasticEntropySGD.__signature__ = _signature()
