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
}


def adapted(name, process=None, **options):
    output, state, level = PUBLISHED[name]
    function = ExactFunction(small_mixture(), output, state, level)
    return ex.models.from_denoiser(
        function,
        shape=(2,),
        parametrisation=output,
        level=ALPHA_BAR if level == "table" else level,
        log_snr_range=RANGE,
        data_std=STD if output == "edm" else None,
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


@pytest.mark.parametrize("clock", CLOCKS)
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
