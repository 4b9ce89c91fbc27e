"""One exact denoiser in every parametrisation of published models: the exact model's numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import inner_times, quick_jit, small_mixture


RANGE = (-14.0, 14.0)
STD = 0.7
# A table of alpha-bar so fine that its log-SNRs can be told from the step: the test's network
# undoes the interpolation.
STEPS = np.linspace(14.0, -14.0, 57)
ALPHA_BAR = 1 / (1 + np.exp(-STEPS))


class ExactFunction(eqx.Module):
    """`function(state, level, condition)` for a distribution whose denoiser is known."""

    distribution: ex.GaussianMixture
    output: str = eqx.field(static=True)
    state: str = eqx.field(static=True)
    level: str = eqx.field(static=True)

    def __call__(self, state, level, condition=None):
        if self.level == "log_snr":
            log_snr = level
        elif self.level == "std":
            log_snr = -2 * jnp.log(level)
        elif self.level == "time":
            log_snr = 2 * jnp.log((1 - level) / level)
        elif self.level == "edm":
            log_snr = -8 * level
        else:
            log_snr = jnp.interp(level, jnp.arange(len(STEPS)), jnp.asarray(STEPS))
        n = jnp.exp(-log_snr / 2)
        alpha, sigma = 1 / jnp.sqrt(1 + n**2), n / jnp.sqrt(1 + n**2)
        factor = {
            "vp": 1 / alpha,
            "ve": 1.0,
            "flow": alpha + sigma,
            "edm": jnp.sqrt(n**2 + STD**2),
        }
        factor["flow"] = (alpha + sigma) / alpha
        x = factor[self.state] * state
        process = ex.VarianceExploding(1e-6, 1e6)
        s = process.time_of_log_snr(log_snr)
        denoised = self.distribution.denoise(process, s, x)
        noise = (x - denoised) / n
        if self.output == "denoiser":
            return denoised
        if self.output == "noise":
            return noise
        if self.output == "v":
            return alpha * noise - sigma * denoised
        if self.output == "flow":
            return noise - denoised
        if self.output == "score":
            return -noise / n
        skip, out = STD**2 / (n**2 + STD**2), n * STD / jnp.sqrt(n**2 + STD**2)
        return (denoised - skip * x) / out


class Batched(eqx.Module):
    function: ExactFunction

    def __call__(self, state, level, condition=None):
        return jax.vmap(self.function)(state, level)


# parametrisation, state, level
PUBLISHED = {
    "x0": ("denoiser", "ve", "std"),
    "ddpm": ("noise", "vp", "table"),
    "noise": ("noise", "vp", "log_snr"),
    "v": ("v", "vp", "log_snr"),
    "flow": ("flow", "flow", "time"),
    "edm": ("edm", "edm", "edm"),
    "score": ("score", "ve", "std"),
    # Not usual, and not to be taken for what is.
    "F of another state": ("edm", "vp", "log_snr"),
    "noise of a scaled state": ("noise", "edm", "edm"),
}


def adapted(name, process=None, **options):
    output, state, level = PUBLISHED[name]
    function = ExactFunction(small_mixture(), output, state, level)
    return ex.models.from_denoiser(
        function,
        shape=(2,),
        parametrisation=output,
        state=state,
        level=ALPHA_BAR if level == "table" else level,
        log_snr_range=RANGE,
        data_std=STD if "edm" in (output, state) else None,
        process=process,
        **options,
    )


CLOCKS = {
    "vp": lambda: ex.VariancePreserving(ex.LinearSchedule(), kappa=0.8),
    "ve": lambda: ex.VarianceExploding(0.002, 80.0),
    "straight": lambda: ex.StraightLine(0.1),
}


class Network(eqx.Module):
    """The same function with the arguments of a network."""

    function: ExactFunction

    def __call__(self, log_snr, y, condition=None):
        return self.function(y, log_snr)


def wrapped(name, process):
    """The wrappers that are trained here, around an exact network."""
    network = Network(ExactFunction(small_mixture(), *WRAPPERS[name][1:]))
    return WRAPPERS[name][0](network, process, shape=(2,))


WRAPPERS = {
    "denoiser": (ex.DenoiserPrediction, "denoiser", "vp", "log_snr"),
    "v": (ex.models.VPrediction, "v", "vp", "log_snr"),
    "edm": (
        lambda network, process, shape: ex.models.EDMPrediction(network, process, STD, shape=shape),
        "edm",
        "edm",
        "log_snr",
    ),
}


@pytest.mark.slow(reason="fields of many models in one program")
@pytest.mark.parametrize("clock", ["vp", "ve", "straight"])
def test_fields_are_the_exact_ones(clock, x64, getkey):
    process = CLOCKS[clock]()
    models = {name: adapted(name, process) for name in PUBLISHED}
    models |= {f"{name}, moved": adapted(name).with_process(process) for name in ("ddpm", "edm")}
    models |= {f"{name} prediction": wrapped(name, process) for name in WRAPPERS}
    exact = ex.ExactModel(small_mixture(), process)

    @quick_jit
    def fields(models, s, z):
        def at(model, s, z):
            y = process.perturb(s, z[:2], z[2:])
            return model.score(s, y), model.entropy_field(s, y), model.velocity(s, y)

        return [jax.vmap(lambda s, z, m=m: at(m, s, z))(s, z) for m in models]

    s, z = inner_times(process, 8), jax.random.normal(getkey(), (8, 4))
    expected, *others = fields([exact, *models.values()], s, z)
    for name, got in zip(models, others, strict=True):
        for one, other in zip(got, expected, strict=True):
            size = float(jnp.max(jnp.abs(other)))
            np.testing.assert_allclose(
                one, other, rtol=1e-7, atol=1e-9 * size, err_msg=f"{name}, {clock}"
            )


@pytest.mark.slow(reason="programs of three estimators")
@pytest.mark.parametrize("name", ["ddpm", "edm", "flow"])
def test_estimates_are_those_of_the_exact_model(name, x64):
    """S_tot, path KL and log densities, cut off where the network is no longer defined."""
    mixture = small_mixture()
    data = mixture.sample(64, key=jax.random.key(0))
    model = adapted(name, batched=False)
    exact = ex.ExactModel(mixture, model.process)
    few = {"num_evaluations": 512, "key": jax.random.key(1)}
    found = ex.neural_entropy(model, data, **few)
    process = model.process
    least = process.std(process.time_of_log_snr(jnp.asarray(RANGE[1])))
    np.testing.assert_allclose(found.cutoff, least)
    truth = ex.neural_entropy(exact, data, cutoff=least, **few)
    np.testing.assert_allclose(found.value, truth.value, rtol=1e-8)
    np.testing.assert_allclose(found.slope, truth.slope, rtol=1e-5, atol=1e-8)
    assert float(ex.path_kl(model, exact, data, **few).value) < 1e-12
    larger = ex.neural_entropy(model, data, cutoff=0.1, **few)
    np.testing.assert_allclose(larger.cutoff, 0.1)
    method = ex.PathBound(16)
    one, other = (
        ex.log_prob(
            m, data[:4], key=jax.random.key(2), method=method, cutoff=least, prior=exact.prior
        )
        for m in (model, exact)
    )
    np.testing.assert_allclose(one.value, other.value, rtol=1e-7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parametrisation": "x0"}, "`parametrisation` must be one of"),
        ({"log_snr_range": None}, "`log_snr_range` must be given"),
        ({"log_snr_range": (3.0, -3.0)}, "`log_snr_range` must be"),
        ({"log_snr_range": (-3.0, np.inf)}, "`log_snr_range` must be .* high finite"),
        ({"shape": (-1,)}, "`shape` must be a tuple of positive integers"),
        ({"parametrisation": "edm"}, "`data_std` must be given"),
        ({"data_std": 0.5}, "`data_std` must be None"),
        ({"level": [0.1, 0.9]}, "`level` must be a table of alpha-bar that falls"),
        ({"level": [0.9, 0.0]}, "`level` must be a name, or a table"),
        ({"level": "variance"}, "`level` must be one of"),
        ({"state": "raw"}, "`state` must be one of"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_mistakes(options, match):
    function = ExactFunction(small_mixture(), "denoiser", "ve", "std")
    with pytest.raises(ValueError, match=match):
        ex.models.from_denoiser(function, **{"shape": (2,), "log_snr_range": RANGE} | options)


def test_a_function_of_another_shape():
    model = ex.models.from_denoiser(
        lambda state, level, condition: state[:1], shape=(2,), log_snr_range=RANGE
    )
    with pytest.raises(ValueError, match="`function` must return an array of the shape"):
        model.score(0.5, jnp.ones(2))
    with pytest.raises(ValueError, match=r"`data` must have shape \(n, 2\), got \(3, 5\)"):
        ex.neural_entropy(model, np.eye(3, 5), key=jax.random.key(0))


@pytest.mark.parametrize(
    "function",
    [
        lambda state, level, condition: np.tanh(np.asarray(state)),
        lambda state, level, condition: state if level > 1 else -state,
        lambda state, level, condition: state * [0.0, 1.0][level.astype(int)],
    ],
    ids=["numpy", "branch", "index"],
)
def test_a_function_that_is_not_traceable(function):
    model = ex.models.from_denoiser(function, shape=(2,), log_snr_range=RANGE)
    with pytest.raises(ValueError, match=r"`function` must be traceable by JAX: .*pure_callback"):
        eqx.filter_jit(model.score)(0.5, jnp.ones(2))


def test_batches_are_those_of_the_function():
    one = adapted("noise")
    other = ex.models.from_denoiser(
        Batched(one.network),
        shape=(2,),
        parametrisation="noise",
        log_snr_range=RANGE,
        batched=True,
    )
    y = jnp.asarray([[0.3, -1.0], [0.5, 2.0]])
    both = quick_jit(lambda y: [jax.vmap(lambda y, m=m: m.score(0.3, y))(y) for m in (one, other)])
    np.testing.assert_allclose(*both(y), rtol=1e-6)


@pytest.mark.slow(reason="a training")
def test_edm_is_trained():
    """The wrapper has a network, so `fit` trains it."""
    data = 0.5 * jax.random.normal(jax.random.key(0), (256, 2))
    process = ex.VarianceExploding(0.01, 10.0)
    network = ex.FourierMLP(2, key=jax.random.key(1), widths=(8,), num_features=4)
    model = ex.models.EDMPrediction(network, process, 0.5)
    # F = 0 is the denoiser of these data.
    zero = ex.ExactModel(ex.Gaussian([0.0, 0.0], 0.25 * np.eye(2)), process)
    fitted = ex.fit(model, data, key=jax.random.key(2), steps=100, learning_rate=1e-3).model
    found = ex.path_kl(fitted, zero, data, key=jax.random.key(3), num_evaluations=512, cutoff=0.02)
    assert float(found.value) < 0.3
