"""One functional three ways: from the marginals, along SDE paths, along the probability flow."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped, finite_difference, quick_jit
from tests.mixtures import MEANS, STDS, WEIGHTS, mixture


# The D = 3 mixture: its second moment, and its entropy by quadrature.
SECOND = sum(
    w * (np.sum(np.square(m)) + 3 * s**2)
    for w, m, s in zip(WEIGHTS, MEANS[3], STDS[3], strict=True)
)
ENTROPY = 4.342940
OTHER = 2.0  # the variance of a Gaussian to compare with


def vp(kappa=1.0, beta_min=0.1):
    return ex.VariancePreserving(ex.LinearSchedule(beta_min, 16.0), kappa)


PROCESSES = {"VP": vp, "SL": lambda: ex.StraightLine(1.0)}


class Weighted(ex.interfaces.AbstractFunctional):
    r"""$\mu^2\|y\|^2$: a user's own, whose integral needs second moments only."""

    process: ex.VariancePreserving | ex.StraightLine
    uses_noise = False
    control = None

    def rate(self, s, y, z, condition):
        return self.process.scale(s) ** 2 * jnp.sum(y**2)


def gaussian():
    return ex.Gaussian(jnp.zeros(3), OTHER * jnp.eye(3))


FUNCTIONALS = {
    "total": lambda model: ex.entropy.EntropyProduction(model),
    "system": lambda model: ex.entropy.SystemEntropy(model),
    "medium": lambda model: ex.entropy.MediumEntropy(model),
    "divergence": lambda model: ex.entropy.PathDivergence(
        model, ex.ExactModel(gaussian(), model.process)
    ),
    "user": lambda model: Weighted(model.process),
}


def expected(name):
    """All five in closed form, but for the entropy of the mixture."""
    kept = np.exp(-8.05) if name == "VP" else 0.0  # mu_T^2
    distance = 2.952e-4 if name == "VP" else 0.0  # KL(p_T || p_eq)
    moment = kept * SECOND + 3 * (1 - kept)
    entropy = 1.5 * np.log(2 * np.pi) + moment / 2 - distance  # of p_T
    system, medium = entropy - ENTROPY, (SECOND - moment) / 2

    def against(moment, entropy, variance):
        return 1.5 * np.log(2 * np.pi * variance) + moment / (2 * variance) - entropy

    end = against(moment, entropy, kept * OTHER + 1 - kept)
    # (sigma^2/2) mu^2 ds = d(mu^2)/2, over which E|y|^2 is linear.
    user = ((SECOND - 3) * (1 - kept**2) / 2 + 3 * (1 - kept)) / 2
    return {
        "total": system + medium,
        "system": system,
        "medium": medium,
        "divergence": against(SECOND, ENTROPY, OTHER) - end,
        "user": user,
    }


QUICK = (("total", "VP"), ("user", "VP"))


@functools.cache
def estimate(name, functional, along):
    model = ex.ExactModel(mixture(3), PROCESSES[name]())
    data = mixture(3).sample(20_000, key=jax.random.key(0))
    options = {} if along == "marginals" else {"num_steps": 24}
    if along == "flow":
        options["model"] = model
    return ex.entropy.path_functional(
        FUNCTIONALS[functional](model),
        data,
        key=jax.random.key({"marginals": 1, "sde": 2, "flow": 3}[along]),
        along=along,
        num_evaluations=24 * 8000,
        **options,
    )


@pytest.mark.slow(reason="long paths")
@pytest.mark.parametrize(
    ("functional", "name"),
    [
        *QUICK,
        pytest.param("system", "VP", marks=pytest.mark.slow),
        pytest.param("medium", "SL", marks=pytest.mark.slow),
        pytest.param("divergence", "SL", marks=pytest.mark.slow),
    ],
)
def test_three_ways_agree(functional, name):
    truth = expected(name)[functional]
    found = {along: estimate(name, functional, along) for along in ("marginals", "sde", "flow")}
    for along, result in found.items():
        assert abs(float(result.value) - truth) < 4 * float(result.stderr), along
        assert float(result.stderr) < 0.05, along
        assert float(result.mc_stderr) <= float(result.stderr), along


@pytest.mark.slow
@pytest.mark.parametrize("along", ["sde", "flow"])
def test_system_and_medium_add_up(along, x64):
    """The same paths: total entropy production is the sum of its parts to rounding."""
    model = ex.ExactModel(mixture(3), ex.StraightLine(0.5))
    data = mixture(3).sample(50, key=jax.random.key(0))
    extra = {} if along == "sde" else {"model": model}
    system, medium, total = (
        ex.entropy.path_functional(
            FUNCTIONALS[name](model),
            data,
            key=jax.random.key(1),
            along=along,
            num_steps=12,
            num_evaluations=12 * 60,
            **extra,
        ).value
        for name in ("system", "medium", "total")
    )
    assert float(system + medium) == pytest.approx(float(total), rel=1e-10)


@pytest.mark.slow
def test_a_rotation_produces_more_than_it_relaxes():
    """Langevin with G = 1.7, N(0, I/2), the exact score as a network: S_tot, housekeeping included.

    A function in a `PathFunctional` says the same as the built-in functional.
    """
    path = ex.Langevin(ex.processes.Harmonic(1.0), 1.0, ex.processes.RotatingForce(1.7))
    model = ex.ScoreMatching(lambda s, y, c: -y / (1 - 0.5 * jnp.exp(-2 * s)), path, shape=(3,))
    data = ex.Gaussian(jnp.zeros(3), 0.5 * jnp.eye(3)).sample(4000, key=jax.random.key(0))

    def function(s, y, condition):
        return jnp.sum((path.drift(s, y) - model.score(s, y)) ** 2)  # sigma^2 = 2

    options = {
        "key": jax.random.key(1),
        "along": "sde",
        "num_steps": 32,
        "num_evaluations": 32 * 4000,
    }
    total = ex.entropy.path_functional(ex.entropy.EntropyProduction(model), data, **options)
    assert abs(float(total.value) - 4.8166828373039) < 4 * float(total.stderr)
    assert float(total.stderr) < 0.1
    users = ex.entropy.path_functional(ex.entropy.PathFunctional(function, path), data, **options)
    np.testing.assert_allclose(users.value, total.value, rtol=1e-5)
    np.testing.assert_allclose(users.stderr, total.stderr, rtol=1e-5)


# ---------------------------------------------------------------------------- gradients


@pytest.mark.slow
@pytest.mark.parametrize("along", ["sde", "flow"])
def test_gradients(along, x64):
    """With respect to kappa and beta_min: finite differences on the same key, and the truth."""
    distribution = ex.Gaussian([0.7], [[0.4]])
    data = distribution.sample(2000, key=jax.random.key(0))
    parameters = jnp.asarray([0.8, 0.3])

    def make(p):
        return ex.VariancePreserving(ex.LinearSchedule(p[1], 3.0), p[0])

    def value(p, key):
        model = ex.ExactModel(distribution, make(p))
        return ex.entropy.path_functional(
            ex.entropy.EntropyProduction(model),
            data,
            key=key,
            along=along,
            num_steps=24,
            num_evaluations=24 * 400,
        ).value

    keys = jax.random.split(jax.random.key(1), 16)
    both = quick_jit(jax.value_and_grad(value))
    found = jnp.stack([both(parameters, k)[1] for k in keys])
    difference = finite_difference(
        lambda ps: jnp.stack([both(p, keys[0])[0] for p in ps]), parameters
    )
    np.testing.assert_allclose(found[0], difference, rtol=1e-5)

    def divergence(kappa, mean, variance):
        ratio = variance / kappa**2
        return (ratio + mean**2 / kappa**2 - 1 - jnp.log(ratio)) / 2

    def exact(p):
        path = make(p)
        scale, var = path.scale(path.t1), path.var(path.t1)
        end = divergence(p[0], scale * 0.7, scale**2 * 0.4 + var)
        return divergence(p[0], 0.7, 0.4) - end

    error = jnp.std(found, axis=0, ddof=1) / 4
    # The points scatter about the distribution they are from as 16 draws of 200 of them do.
    error = error * (1 + 16 * 200 / 2000) ** 0.5
    truth = quick_jit(jax.grad(exact))(parameters)
    assert bool(jnp.all(jnp.abs(jnp.mean(found, axis=0) - truth) < 4 * error))


# ---------------------------------------------------------------------------- honesty


@pytest.mark.slow
@pytest.mark.parametrize(
    ("functional", "along"),
    [("total", "marginals"), ("total", "sde"), ("total", "flow"), ("medium", "flow")],
)
def test_standard_errors_are_honest(functional, along):
    """Over 60 fresh data sets and keys."""
    model = ex.ExactModel(mixture(3), vp())
    extra = {"sde": {"num_steps": 16}, "flow": {"num_steps": 16, "model": model}}.get(along, {})

    @jax.jit
    def run(key):
        data_key, key = jax.random.split(key)
        return ex.entropy.path_functional(
            FUNCTIONALS[functional](model),
            mixture(3).sample(300, key=data_key),
            key=key,
            along=along,
            num_evaluations=16 * 200,
            **extra,
        )

    results = jax.lax.map(run, jax.random.split(jax.random.key(5), 60))
    ratio = float(jnp.std(results.value) / jnp.mean(results.stderr))
    assert 0.75 < ratio < 1.3
    gap = float(jnp.mean(results.value)) - expected("VP")[functional]
    assert abs(gap) < 4 * float(jnp.std(results.value)) / 60**0.5


# ---------------------------------------------------------------------------- arguments


@pytest.mark.slow
def test_a_cutoff_chunks_and_conditions(x64):
    """Each condition meets its own point; a cut-off takes away what lies below it, in chunks."""
    data = mixture(3).sample(40, key=jax.random.key(0))
    condition = jnp.linspace(0.0, 1.0, 40)

    def function(s, y, condition):
        return condition * vp().scale(s) ** 2

    functional = ex.entropy.PathFunctional(function, vp())
    options = {
        "key": jax.random.key(1),
        "along": "sde",
        "num_steps": 16,
        "num_evaluations": 16 * 40,
        "condition": condition,
    }
    whole = ex.entropy.path_functional(functional, data, **options)
    assert whole.num_evaluations == 16 * 40
    # The integral of mu^2 is (1 - mu_T^2)/2, times the mean condition of the points drawn.
    error = float(whole.stderr)
    assert abs(float(whole.value) - (1 - np.exp(-8.05)) / 4) < 4 * error
    assert error < 0.05
    cut = ex.entropy.path_functional(functional, data, cutoff=0.5, chunk_size=160, **options)
    kept = (1 - 0.25 - np.exp(-8.05)) / (1 - np.exp(-8.05))  # mu^2 below 1 - cutoff^2
    assert float(cut.value / whole.value) == pytest.approx(kept, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"functional": lambda s, y, c: 0.0}, "`functional` must be a path functional"),
        ({"along": "both"}, "`along` must be"),
        ({"num_steps": 1, "along": "sde"}, "`num_steps` must be an integer of at least 2"),
        ({"num_evaluations": 100, "along": "sde"}, "`num_evaluations` must be an integer"),
        ({"chunk_size": 0, "along": "sde"}, "`chunk_size` must be"),
        ({"data": jnp.ones(3), "along": "sde"}, "`data` must have shape"),
        ({"condition": jnp.ones(3), "along": "sde"}, "`condition` must have a leading axis of 8"),
        ({"adjoint": diffrax.DirectAdjoint()}, "`along` must be 'sde' or 'flow' where `adjoint`"),
        ({"model": ex.ExactModel(gaussian(), vp())}, "`along` must be 'sde' or 'flow' where"),
        (
            {"functional": ex.entropy.HousekeepingEntropy(vp()), "along": "flow"},
            "`model` must be a model, got NoneType",
        ),
        (
            {
                "functional": ex.entropy.HousekeepingEntropy(ex.Langevin(ex.processes.Harmonic())),
                "along": "sde",
                "cutoff": 0.1,
            },
            "`cutoff` must be None where the process is not Gaussian",
        ),
        (
            {"functional": ex.entropy.HousekeepingEntropy(ex.Langevin(ex.processes.Harmonic()))},
            "must be Gaussian",
        ),
        (
            {
                "functional": ex.entropy.ConditionalEntropy(ex.ExactModel(gaussian(), vp())),
                "along": "sde",
            },
            "`along` must be 'marginals' for ConditionalEntropy",
        ),
        (
            {"functional": ex.entropy.PathFunctional(lambda s, y, c: y, vp()), "along": "sde"},
            "`function` must return a scalar",
        ),
        (
            {
                "functional": ex.entropy.PathFunctional(lambda s, y, c: jnp.nan, vp()),
                "along": "sde",
            },
            "must be finite on the whole path",
        ),
    ],
)
def test_bad_arguments(arguments, match):
    model = ex.ExactModel(gaussian(), vp())
    arguments = {
        "functional": ex.entropy.EntropyProduction(model),
        "data": jnp.arange(24.0).reshape(8, 3),
        **arguments,
    }
    functional, data = arguments.pop("functional"), arguments.pop("data")
    with as_shipped(), pytest.raises(ValueError, match=match):
        ex.entropy.path_functional(functional, data, key=jax.random.key(0), **arguments)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ex.entropy.EntropyProduction(vp()), "`model` must be a model"),
        (lambda: ex.entropy.SystemEntropy(None), "`model` must be a model"),
        (lambda: ex.entropy.MediumEntropy(1.0), "`model` must be a model"),
        (lambda: ex.entropy.HousekeepingEntropy("VP"), "`process` must be a process"),
        (
            lambda: ex.entropy.PathDivergence(ex.ExactModel(gaussian(), vp()), vp()),
            "`reference_model` must be a model",
        ),
        (lambda: ex.entropy.PathFunctional(1.0, vp()), "`function` must be callable"),
        (lambda: ex.entropy.PathFunctional(jnp.sum, None), "`process` must be a process"),
    ],
)
def test_bad_functionals(call, match):
    with as_shipped(), pytest.raises(ValueError, match=match):
        call()


@pytest.mark.slow
def test_infinite_integrals_are_refused_along_paths_too():
    """By name where it is known, by the rate at the data end where it is not."""
    gaussian = ex.Gaussian([0.5], [[0.3]])
    x = gaussian.sample(64, key=jax.random.key(0))
    options = {"key": jax.random.key(1), "num_evaluations": 4096, "num_steps": 32}
    flow = ex.ExactModel(gaussian, ex.RectifiedFlow())
    production = ex.entropy.EntropyProduction(flow)
    for along in ("marginals", "sde"):
        with pytest.raises(ValueError, match="`cutoff` must be given"):
            ex.entropy.path_functional(production, x, along=along, **options)
    cut = ex.entropy.path_functional(production, x, along="sde", cutoff=0.1, **options)
    assert "noise std >= 0.1" in str(cut)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))

    def constant(s, y, condition):
        return 1 / process.var(s)

    endless = ex.entropy.PathFunctional(constant, process)
    for along in ("marginals", "sde"):
        with pytest.raises(ValueError, match="does not decay at the data end"):
            ex.entropy.path_functional(endless, x, along=along, **options)
    with pytest.raises(ValueError, match="`cutoff` must be positive"):
        ex.entropy.path_functional(production, x, along="sde", cutoff=-0.1, **options)
    with pytest.raises(ValueError, match="`model` must run on the process of `functional`"):
        ex.entropy.path_functional(
            ex.entropy.EntropyProduction(ex.ExactModel(gaussian, process)),
            x,
            along="flow",
            model=flow,
            **options,
        )
