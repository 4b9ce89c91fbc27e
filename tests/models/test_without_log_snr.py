"""Score and entropy matching under a process that is not Gaussian: functions of time and state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import PROCESSES, as_shipped


class Drifting(eqx.Module):
    """`network(s, y) = -(a + s) y`: reveals its arguments."""

    a: jax.Array

    def __call__(self, s, y, condition=None):
        shift = 0.0 if condition is None else condition
        return -(self.a + s) * y + shift


def driven():
    return ex.Langevin(ex.processes.DoubleWell(0.7), 0.4, ex.processes.RotatingForce(1.3), t1=2.0)


@pytest.mark.parametrize("kind", [ex.ScoreMatching, ex.EntropyMatching])
def test_fields(kind, x64):
    process, network = driven(), Drifting(jnp.asarray(0.5))
    model = kind(network, process, shape=(2,))
    s, y = 1.7, jnp.array([0.3, -1.2])
    reference = process.equilibrium_score(s, y)
    score = network(s, y) + (reference if kind is ex.EntropyMatching else 0.0)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)  # noqa: E731
    close(model.score(s, y), score)
    close(model.entropy_field(s, y), score - reference)
    # The force does work: the velocity is not -sigma^2/2 of the entropy field alone.
    close(model.velocity(s, y), process.drift(s, y) - 0.4 * score)
    close(model.velocity(s, y) + 0.4 * model.entropy_field(s, y), process.force(y))
    close(model.score(s, y, jnp.ones(2)), score + 1.0)
    assert model.divergence is None
    assert model.shape == (2,)
    other = ex.Langevin(ex.processes.Harmonic(), t1=3.0)
    moved = model.with_process(other)
    close(moved.velocity(s, y), other.drift(s, y) - moved.score(s, y))


def test_saved_and_loaded(tmp_path):
    model = ex.ScoreMatching(ex.FourierMLP(2, key=jax.random.key(0), widths=(4,)), driven())
    ex.save(tmp_path / "model", model)
    loaded = ex.load(tmp_path / "model")
    assert eqx.tree_equal(model, loaded)


def test_precision_of_the_time():
    """The network gets an array of the process's dtype, traced or not."""
    seen = []

    def network(s, y, condition=None):
        seen.append(s)
        return y

    model = ex.ScoreMatching(network, driven())
    model.score(0.5, jnp.ones(2))
    assert isinstance(seen[0], jax.Array)
    assert seen[0].dtype == model.process.t1.dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: ex.ScoreMatching(f, driven(), shape=(2,)).prior, "`prior` must be given by"),
        (lambda f: ex.EntropyMatching(f, driven()).prior, "`prior` must be given by the caller"),
        (lambda f: ex.NoisePrediction(f, driven()), "`process` must be a Gaussian process"),
        (lambda f: ex.VelocityPrediction(f, driven()), "`process` must be a Gaussian process"),
        (lambda f: ex.ScoreMatching(f, 3), "`process` must be a process, got int"),
        (
            lambda f: ex.EntropyMatching(
                f, driven(), ex.GaussianScaling.from_data(jnp.eye(3), PROCESSES["vp"]())
            ),
            "`scaling` must be None for a process that is not Gaussian, got Langevin",
        ),
        (
            lambda f: ex.ScoreMatching(f, driven()).with_process(PROCESSES["vp"]()),
            "`process` must be a process without log-SNR.*got VariancePreserving",
        ),
        (
            lambda f: ex.ScoreMatching(f, PROCESSES["vp"]()).with_process(driven()),
            "`process` must be a Gaussian process, got Langevin",
        ),
    ],
)
def test_mistakes(make, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        make(Drifting(jnp.asarray(0.5)))
