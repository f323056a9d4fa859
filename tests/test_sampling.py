"""Samplers against laws that are not Gaussian, known on other ways."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from test_samplers import setting_of

from entropy_keras import landscape
from entropy_keras import samplers
from entropy_keras.landscape.mixing import diagnose

SCOPE = 0.5
ANCHOR = 0.7
COPIES = 20_000
GRID = np.linspace(-15.0, 15.0, 200_001)


def skewed(x):
    """A loss with one steep and one gentle side: exp(x) - x."""
    return np.exp(x) - x


def slope(x):
    return tf.exp(x) - 1.0


ENERGY = skewed(GRID) + SCOPE / 2 * (GRID - ANCHOR) ** 2


def moments(temperature):
    """Returns mean and variance of the Gibbs law, by quadrature."""
    density = np.exp(-(ENERGY - ENERGY.min()) / temperature)
    density /= density.sum()
    mean = (density * GRID).sum()
    return mean, (density * (GRID - mean) ** 2).sum()


def sampled(sampler, temperature, step_size, steps):
    """Returns where many independent chains are, some steps from the mode."""
    setting = setting_of(
        step_size=step_size, scope=SCOPE, temperature=temperature
    )
    anchor, mode = (
        tf.fill([COPIES], tf.constant(place, tf.float64))
        for place in (ANCHOR, GRID[ENERGY.argmin()])
    )

    def normal(number):
        return tf.random.stateless_normal(
            [COPIES], tf.stack([number, 7]), dtype=tf.float64
        )

    slots = sampler.initial_slots([keras.Variable(anchor, dtype="float64")])

    @tf.function
    def simulate():
        memory = sampler.start([mode], [normal(0)], [setting], slots)

        def step(number, position, memory):
            moved, memory = sampler.step(
                [position], [slope(position)], [anchor], [normal(number)],
                memory, [setting],
            )  # fmt: skip
            return number + 1, moved[0], memory

        return tf.while_loop(
            lambda number, *_: number <= steps,
            step,
            (tf.constant(1), mode, memory),
        )[1]

    return simulate().numpy()


def errors(sampler, temperature, step_size, steps=400):
    """Returns those of mean and variance, in units of the standard error."""
    found = sampled(sampler, temperature, step_size, steps)
    mean, variance = moments(temperature)
    # The chains are independent, so their number is the sample size.
    fourth = ((found - found.mean()) ** 4).mean()
    return (
        (found.mean() - mean) / (variance / COPIES) ** 0.5,
        (found.var() - variance) / ((fourth - variance**2) / COPIES) ** 0.5,
    )


@pytest.mark.parametrize(
    ("sampler", "temperature"),
    [
        (samplers.SGLD(0.0), 1.0),
        (samplers.SplitSGLD(), 1 / 60000),
        (samplers.SplitSGLD(average_noise=True), 2.0),
        (samplers.SGHMC(0.9), 2.0),
        (samplers.SGHMC(0.5), 0.1),
        (samplers.SGNHT(0.9), 1.0),
        (samplers.SGNHT(0.9), 1 / 60000),
        (samplers.Santa(0.9, thermostat_rate=0.1), 0.1),
    ],
    ids=repr,
)
def test_mean_and_variance_of_a_skewed_law(sampler, temperature):
    found = errors(sampler, temperature, step_size=0.01)
    assert np.abs(found).max() < 4.5


@pytest.mark.parametrize(
    "sampler", [samplers.SGLD(0.0), samplers.SplitSGLD()], ids=repr
)
def test_a_smaller_step_has_a_smaller_bias(sampler):
    biases = [
        abs(errors(sampler, 1.0, step_size, steps=100)[1])
        for step_size in (0.4, 0.1)
    ]
    assert biases[0] > 15
    assert 2 < biases[0] / biases[1] < 12  # 4 to first order


@pytest.mark.parametrize("step_size", [0.04, 0.01])
def test_sghmc_keeps_the_energy_without_friction(step_size):
    # A pendulum: the energy is potential and v**2 / (2 step_size).
    sampler = samplers.SGHMC(1.0 - 1e-12)
    setting = setting_of(step_size=step_size, scope=SCOPE, temperature=0.0)
    anchor = tf.constant([0.0], tf.float64)
    position = [tf.constant([1.0], tf.float64)]
    memory = sampler.start(position, [None], [setting], ())
    energies, places = [], []
    for _ in range(300):
        ((velocity,),) = memory
        # Half a kick, by which velocity and position belong to one moment.
        x = position[0].numpy()[0]
        v = velocity.numpy()[0] - step_size / 2 * (np.sin(x) + SCOPE * x)
        energies.append(1 - np.cos(x) + SCOPE / 2 * x**2 + v**2 / 2 / step_size)
        places.append(x)
        position, memory = sampler.step(
            position, [tf.sin(position[0])], [anchor], [None], memory, [setting]
        )
    expected = 1 - np.cos(1.0) + SCOPE / 2
    assert min(places) < -0.9  # it swings, with no loss of height
    assert abs(np.array(energies) / expected - 1).max() < 0.4 * step_size


def network(weights, inputs):
    """A network 2-3-1 with tanh, of one vector of weights."""
    hidden = tf.tanh(
        inputs @ tf.reshape(weights[..., :6], [-1, 2, 3])
        + weights[..., None, 6:9]
    )
    return hidden @ weights[..., 9:12, None] + weights[..., None, 12:]


def test_a_network_is_sampled_as_by_hamiltonian_monte_carlo():
    rng = np.random.default_rng(0)
    x = rng.normal(size=[16, 2])
    y = x[:, :1] * x[:, 1:]
    model = keras.Sequential([
        keras.Input([2], dtype="float64"),
        keras.layers.Dense(3, "tanh", dtype="float64"),
        keras.layers.Dense(1, dtype="float64"),
    ])
    scope, temperature = 1.0, 0.5
    chains = landscape.Chains(
        landscape.Objective(model, (x, y), "mse"), sampler="sghmc"
    )
    plan = landscape.Plan(
        scope, temperature, num_chains=64, num_steps=600, seed=1
    )
    found = chains.run(plan, [1.0], [0.05])
    ours = diagnose(found.losses, np.zeros(1))
    assert not ours.faults[0]

    anchor = chains.objective.position()

    def loss(weights):
        return tf.reduce_mean((network(weights, x) - y) ** 2, axis=[1, 2])

    def log_density(weights):
        pull = scope / 2 * tf.reduce_sum((weights - anchor) ** 2, axis=-1)
        return -(loss(weights) + pull) / temperature

    @tf.function
    def peer():
        return tfp.mcmc.sample_chain(
            300,
            current_state=tf.repeat(anchor[None], 64, axis=0),
            kernel=tfp.mcmc.HamiltonianMonteCarlo(log_density, 0.25, 5),
            num_burnin_steps=50,
            trace_fn=lambda weights, _: loss(weights),
            seed=[1, 2],
        )

    weights, losses = peer()
    theirs = diagnose(losses.numpy()[..., None], np.zeros(1))
    error = np.hypot(ours.standard_error, theirs.standard_error)
    # And for the step size of ours, which nothing accepts or rejects.
    assert abs(ours.mean - theirs.mean) < 4 * error + 0.01 * theirs.mean
    assert error < 0.03 * theirs.mean
    # Where the weights are, on average, in units of the errors of both.
    places = weights.numpy()
    errors = np.sqrt(
        found.displacements[:, 0].var(0) / 64 + places.mean(0).var(0) / 64
    )
    distance = found.displacements.mean((0, 1)) - (
        places.mean((0, 1)) - anchor.numpy()
    )
    assert (abs(distance) < 4 * errors).all()
    assert errors.max() < 0.05
