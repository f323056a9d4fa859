"""An optimizer of several gradients as a user writes it: Lookahead."""

import keras

import entropy_keras


@keras.saving.register_keras_serializable(package="lookahead")
class Lookahead(entropy_keras.MultiGradientOptimizer):
    """Five steps of SGD, then half the way there (Zhang et al. 2019)."""

    gradients_per_update = 5

    def propose(self, gradient_at, anchor, slots, clock):
        def step(index, position):
            gradients = gradient_at(position, index)
            return [
                p - 0.1 * g for p, g in zip(position, gradients, strict=True)
            ]

        end = gradient_at.repeat(step, anchor, self.gradients_per_update)
        difference = [a - p for a, p in zip(anchor, end, strict=True)]
        return entropy_keras.Proposal(difference)
