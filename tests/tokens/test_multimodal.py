"""Rows of tokens and numbers: entropies of known laws, their gradients and errors; networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped, quick_jit


SCHEDULE = ex.LinearSchedule(0.1, 16.0)
MIXTURE = ex.GaussianMixture([0.6, 0.4], [[1.0], [-1.5]], [[0.5], [0.3]])
LAWS = jnp.array([[[0.9, 0.1, 0.0], [0.3, 0.3, 0.4]], [[0.2, 0.1, 0.7], [0.1, 0.1, 0.8]]])


def process_of(tokens, numbers):
    return ex.processes.Multimodal(tokens, numbers, num_sites=2)


def masked():
    return process_of(ex.Masking(3, SCHEDULE), ex.VariancePreserving(SCHEDULE))


def entropy(model: ex.models.ExactMultimodal) -> float:
    """The divergence from uniform tokens and standard normal numbers, by a sum over a grid."""
    numbers, step = np.linspace(-8, 8, 1601, retstep=True)
    total = 0.0
    for i in range(3):
        for j in range(3):
            rows = np.stack([0 * numbers + i, 0 * numbers + j, numbers], axis=1)
            log_p = np.asarray(model.log_prob(jnp.asarray(rows)), np.float64)
            log_q = -2 * np.log(3) - numbers**2 / 2 - np.log(2 * np.pi) / 2
            ratio = np.where(log_p > -1e6, log_p - log_q, 0)
            total += float(np.sum(np.exp(log_p) * ratio) * step)
    return total


@pytest.mark.parametrize(
    "process",
    [
        masked(),
        pytest.param(
            process_of(
                ex.processes.UniformJumps(3, ex.processes.CosineSchedule()), ex.CosinePath()
            ),
            marks=pytest.mark.slow(reason="the same of other processes"),
        ),
    ],
    ids=["masking-vp", "jumps-cosine"],
)
def test_entropy_is_the_divergence_from_equilibrium_and_its_error_is_honest(process):
    model = ex.models.ExactMultimodal(MIXTURE, LAWS, process)
    truth = entropy(model)

    @quick_jit
    @jax.vmap
    def found(key):
        data_key, key = jax.random.split(key)
        data = model.sample(2000, key=data_key)
        found = ex.neural_entropy(model, data, key=key, num_evaluations=4096)
        return found.value, found.stderr

    value, stderr = found(jax.random.split(jax.random.key(0), 48))
    scatter = np.std(value, ddof=1)
    assert abs(np.mean(value) - truth) < 4 * scatter / 48**0.5
    assert 0.75 < scatter / np.sqrt(np.mean(stderr**2)) < 1.3


@pytest.mark.slow(reason="the gradient of an integral by parts")
def test_the_columns_sum_to_the_whole_and_gradients_flow():
    """Under masking the schedule of the tokens does not matter to the whole."""
    model = ex.models.ExactMultimodal(MIXTURE, LAWS, masked())
    data = model.sample(2000, key=jax.random.key(0))

    def columns(model):
        curve = ex.entropy_curve(model, data, key=jax.random.key(1), per_coordinate=True)
        return curve.total.value, curve

    @quick_jit
    def both(model):
        return eqx.filter_value_and_grad(columns, has_aux=True)(model)

    (value, curve), slopes = both(model)
    assert curve.value.shape == (3,)
    np.testing.assert_allclose(jnp.sum(curve.value), value, rtol=1e-5)
    assert abs(value - entropy(model)) < 4 * curve.total.stderr
    schedule = slopes.process.tokens.schedule
    assert 0 < abs(schedule.beta_max) < 2e-3  # 1.2 nats in all; it is 16
    assert np.all(np.isfinite(slopes.mixture.means))


@pytest.mark.parametrize(
    "process",
    [
        ex.Masking(3, SCHEDULE),
        ex.Masking(3, ex.processes.CosineSchedule()),
        ex.processes.UniformJumps(3, SCHEDULE),
    ],
    ids=["masking", "masking-cosine", "jumps"],
)
def test_the_measure_per_unit_time_is_that_of_the_log_snr(process):
    s = jnp.linspace(0.05, 0.95, 7)
    slope = jax.vmap(jax.grad(lambda s: -process.log_snr(s)))(s)
    np.testing.assert_allclose(process.rate(s), process.measure(s) * slope, rtol=2e-4)


@pytest.mark.slow(reason="64 steps of many rows")
def test_samples_have_the_law_of_the_rows():
    model = ex.models.ExactMultimodal(MIXTURE, LAWS, masked())
    found = np.asarray(ex.sample(model, key=jax.random.key(0), num_samples=20_000, num_steps=64))
    expected = np.asarray(model.sample(20_000, key=jax.random.key(1)))
    for token in range(3):
        own, other = found[found[:, 0] == token, 2], expected[expected[:, 0] == token, 2]
        assert abs(own.size - other.size) < 5 * np.sqrt(2 * other.size)
        assert abs(own.mean() - other.mean()) < 5 * other.std() / np.sqrt(own.size) + 0.05
        assert abs(own.std() / other.std() - 1) < 0.05


@pytest.mark.slow(reason="trains a network")
def test_a_network_learns_the_law_of_the_rows():
    process = masked()
    exact = ex.models.ExactMultimodal(MIXTURE, LAWS, process)
    data = exact.sample(10_000, key=jax.random.key(0))
    size = 2 * process.tokens.num_states + 1
    network = ex.FourierMLP(size, key=jax.random.key(1), widths=(64, 64))
    scaling = ex.GaussianScaling.from_data(data[:, 2:], process.numbers)
    model = ex.models.MultimodalModel(network, process, num_numbers=1, scaling=scaling)
    nothing = ex.neural_entropy(model, data, key=jax.random.key(2), num_evaluations=1024)
    assert abs(nothing.value) < 1e-5
    fitted = ex.fit(model, data, key=jax.random.key(3), steps=1500, batch_size=64).model
    stored = ex.neural_entropy(fitted, data, key=jax.random.key(4))
    lost = ex.path_kl(fitted, exact, data, key=jax.random.key(5))
    assert abs(stored.value - entropy(exact)) < 4 * stored.stderr + 0.03
    assert lost.value < 0.04


def test_what_is_refused():
    model = ex.models.ExactMultimodal(MIXTURE, LAWS, masked())
    network = ex.FourierMLP(2 * 4 + 1, key=jax.random.key(0), widths=(4,))
    fitted = ex.models.MultimodalModel(network, masked(), num_numbers=1)
    rows, key = jnp.zeros((4, 3)), jax.random.key(0)
    vp, tokens = ex.VariancePreserving(SCHEDULE), ex.Masking(3, SCHEDULE)
    with as_shipped():
        with pytest.raises(ValueError, match="`tokens` must be a process of tokens"):
            ex.processes.Multimodal(vp, vp, num_sites=1)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="`numbers` must be a Gaussian process"):
            ex.processes.Multimodal(tokens, tokens, num_sites=1)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"`laws` must have shape \(2, 2, 3\)"):
            ex.models.ExactMultimodal(MIXTURE, LAWS[:, :1], masked())
        with pytest.raises(ValueError, match="`laws` must be rows that sum to one"):
            ex.models.ExactMultimodal(MIXTURE, 2 * LAWS, masked())
        with pytest.raises(ValueError, match="`process` must be Multimodal"):
            model.with_process(vp)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="`process` must have as many sites"):
            model.with_process(ex.processes.Multimodal(tokens, vp, num_sites=1))
        with pytest.raises(ValueError, match="`data` must hold tokens, integers from 0 to 2"):
            ex.neural_entropy(model, rows.at[0, 1].set(0.5), key=key)
        with pytest.raises(ValueError, match=r"`solver` must be JointDDIM\(\)"):
            ex.sample(model, key=key, num_samples=2, solver=ex.dynamics.TauLeaping())
        with pytest.raises(ValueError, match=r"`loss` must be None or MultimodalDenoising"):
            ex.fit(fitted, rows, key=key, loss=ex.Denoising())
        for refused in (
            lambda: ex.log_prob(model, rows, key=key),
            lambda: ex.kl_divergence(model, model, rows, key=key),
            lambda: ex.models.Guided(fitted, 2.0),
        ):
            with pytest.raises(ValueError, match="numbers or of tokens alone"):
                refused()
