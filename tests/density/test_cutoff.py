"""Data without a density are refused with their codimension; with a cut-off they have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import entropix as ex
from tests.helpers import PROCESSES, as_shipped, quick
from tests.mixtures import mixture


METHODS = {
    "bound": ex.PathBound,
    "denoising": ex.DenoisingError,
    "flow": ex.ProbabilityFlow,
}


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def points():
    return ex.Empirical(jax.random.normal(jax.random.key(3), (12, 2)))


def flat():
    """A Gaussian in three dimensions that is all but flat in one."""
    return ex.Gaussian(jnp.zeros(3), jnp.diag(jnp.asarray([1.0, 0.5, 1e-14])))


def smoothed(distribution, process, cutoff, x):
    """log p_c(mu x) + D log mu: the data with noise of std cutoff / mu, in their own units."""
    s = brentq(lambda s: float(process.std(s)) - cutoff, 0.0, 1.0)
    scale = process.scale(s)
    there = distribution.diffused(process, s).log_prob(scale * x)
    return there + x.shape[-1] * jnp.log(scale)


@pytest.mark.parametrize(
    "case",
    quick(
        [("bound", "points")],
        [(m, d) for m in METHODS for d in ("points", "plane")],
    ),
    ids="-".join,
)
def test_no_density(case):
    """Also for few samples, of which the pilot has few evaluations at the data end."""
    method, data = case
    distribution, slope = (points(), 2) if data == "points" else (flat(), 1)
    x = distribution.sample(3, key=jax.random.key(0))
    model = ex.ExactModel(distribution, vp())
    with pytest.raises(ValueError, match=r"`cutoff`.*slope is") as error:
        ex.log_prob(model, x, key=jax.random.key(1), method=METHODS[method]())
    found = float(str(error.value).split("slope is ")[1].split(" ")[0])
    # The bound sees it by random pairs, 32 of them.
    assert found == pytest.approx(slope, abs=0.01 if method == "flow" else 4 * np.sqrt(slope / 16))


@pytest.mark.parametrize(
    "case",
    quick(
        [("sl", "flow", "points")],
        [
            ("sl", "bound", "mixture"),
            ("rf", "bound", "mixture"),
            ("rf", "denoising", "points"),
            ("rf", "flow", "mixture"),
            ("sl", "denoising", "mixture"),
            ("ve", "bound", "points"),
            ("vpx", "bound", "mixture"),
        ],
    ),
    ids="-".join,
)
def test_a_cutoff_smooths(case):
    """The density of the mixture diffused to that level, and of points, in their own units."""
    name, method, data = case
    process, cutoff = PROCESSES[name](), 0.05
    distribution = mixture(2) if data == "mixture" else points()
    x = distribution.sample(40, key=jax.random.key(0))
    if data == "points":  # where there is some density
        x = x + cutoff * jax.random.normal(jax.random.key(2), x.shape)
    model = ex.ExactModel(distribution, process)
    size = () if method == "flow" else (512,)
    result = ex.log_prob(
        model, x, key=jax.random.key(1), method=METHODS[method](*size), cutoff=cutoff
    )
    assert float(result.cutoff) == float(result.mean.cutoff) == pytest.approx(cutoff)
    error = np.asarray(result.value - smoothed(distribution, process, cutoff, x))
    if method == "flow":
        assert np.mean(np.abs(error)) < 1e-3
        return
    end = 5e-3 if method == "denoising" else 2e-4
    assert abs(error.mean()) < 4 * float(result.mean.mc_stderr) + end
    assert np.std(error / result.stderr) < 1.4
    assert float(jnp.mean(result.stderr)) < 0.4


@pytest.mark.slow
def test_smoothing_changes_the_mixture():
    """A large cut-off is no rounding error: the smoothed density is another one."""
    process, x = PROCESSES["sl"](), mixture(2).sample(40, key=jax.random.key(0))
    model = ex.ExactModel(mixture(2), process)
    cutoff = 0.08
    result = ex.log_prob(model, x, method=ex.ProbabilityFlow(), cutoff=cutoff)
    wanted = smoothed(mixture(2), process, cutoff, x)
    assert float(jnp.mean(jnp.abs(result.value - wanted))) < 1e-3
    assert float(jnp.max(jnp.abs(wanted - mixture(2).log_prob(x)))) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EntropyMatching", "VelocityPrediction"])
def test_trained_models_raise_no_alarm(kind):
    process, data = vp(), mixture(2).sample(2048, key=jax.random.key(0))
    network = ex.FourierMLP(2, key=jax.random.key(1), widths=(16, 16))
    extra = [ex.GaussianScaling.from_data(data, process)] if kind == "EntropyMatching" else []
    model = getattr(ex, kind)(network, process, *extra)
    model = ex.fit(model, data, key=jax.random.key(2), steps=400).model
    for method in (ex.PathBound(64), ex.ProbabilityFlow()):
        result = ex.log_prob(model, data[:200], key=jax.random.key(3), method=method)
        assert bool(jnp.all(jnp.isfinite(result.value)))


@pytest.mark.slow
def test_under_jit():
    """The alarm is raised when the compiled program runs."""
    x = points().sample(3, key=jax.random.key(0))
    model = ex.ExactModel(points(), vp())
    run = jax.jit(lambda x: ex.log_prob(model, x, method=ex.ProbabilityFlow()).value)
    with pytest.raises(Exception, match="does not decay at the data end"):
        run(x).block_until_ready()


@pytest.mark.parametrize(
    ("method", "cutoff", "match"),
    [
        (ex.ProbabilityFlow(), -1.0, "`cutoff` must be positive"),
        (ex.ProbabilityFlow(), 1.0, "`cutoff` must be a noise standard deviation below"),
        (ex.density.Jarzynski(), 0.1, "`cutoff` must be None for Jarzynski"),
    ],
)
def test_bad_arguments(method, cutoff, match):
    model = ex.ExactModel(mixture(3), vp())
    with as_shipped(), pytest.raises(ValueError, match=match):
        ex.log_prob(model, jnp.ones((4, 3)), key=jax.random.key(0), method=method, cutoff=cutoff)
