"""Every Gaussian process through the same identities, in float64, and finite in float32.

The reference for each coefficient is the definition: the moment equations mu' = b mu and
(Sigma^2)' = 2 b Sigma^2 + sigma^2 of dY = b Y ds + sigma dB, differentiated automatically.
"""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import (
    COLLAPSING,
    ENDS_IN_NOISE,
    KINDS,
    LOG_RATES,
    PROCESSES,
    STATIC,
    all_finite,
    double,
    finite_difference,
    inner_times,
    numbers,
    quick,
    quick_jit,
    small_gaussian,
    small_mixture,
)


every_process = pytest.mark.parametrize("name", PROCESSES)
# Derivatives of the inverse compile long; these are other numbers or schedules for a formula that
# another process of the list has too.
ALIKE = ("vpx", "vp-constant", "vp-learned", "subvp-cosine", "path-trig")
every_inverse = pytest.mark.parametrize(
    "name", quick([name for name in PROCESSES if name not in ALIKE], PROCESSES)
)


@quick_jit
def coefficients_and_rates(process, s):
    def along(fn):
        return jax.jvp(fn, (s,), (jnp.ones_like(s),))

    mu, mu_rate = along(process.scale)
    var, var_rate = along(process.var)
    _, snr_rate = along(process.log_snr)
    drift = jax.vmap(process.drift)(s, jnp.ones((s.size, 2)))[:, 0]
    y = jnp.asarray([0.3, -2.0])
    equilibrium_score = jax.vmap(process.equilibrium_score, (0, None))(s, y)
    return {
        "mu": mu,
        "mu_rate": mu_rate,
        "var": var,
        "var_rate": var_rate,
        "snr_rate": snr_rate,
        "b": drift,
        "sigma2": process.sigma_squared(s),
        "stated": (
            process.scale_rate(s),
            process.var_rate(s),
            process.scaled_sigma_squared(s),
            process.log_scale(s),
            process.std(s),
            process.diffusion(s),
            process.log_snr(s),
            process.equilibrium_gain(s),
        ),
        "pi": process.equilibrium_precision(s),
        "equilibrium_score": (equilibrium_score, y),
    }


@every_process
def test_coefficients_solve_the_moment_equations(name, x64):
    process = PROCESSES[name]()
    s = inner_times(process, 23)

    c = coefficients_and_rates(process, s)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)  # noqa: E731
    close(c["b"] * c["mu"], c["mu_rate"])
    close(2 * c["b"] * c["var"] + c["sigma2"], c["var_rate"])
    scale_rate, var_rate, scaled, log_scale, std, diffusion, log_snr, gain = c["stated"]
    close(scale_rate, c["mu_rate"])
    close(var_rate, c["var_rate"])
    close(scaled, c["sigma2"] * c["mu"])
    close(log_scale, jnp.log(c["mu"]))
    close(std**2, c["var"])
    close(diffusion**2, c["sigma2"])
    close(log_snr, jnp.log(c["mu"] ** 2 / c["var"]))
    close(gain, (1 - c["pi"] * c["var"]) / c["mu"])
    score, y = c["equilibrium_score"]
    close(score, (2 * c["b"] / c["sigma2"])[:, None] * y)
    # (sigma^2 / 2) ds = -(Sigma^2 / 2) d lambda: why one integral serves every process.
    close(c["sigma2"], -c["var"] * c["snr_rate"])
    assert np.all(c["snr_rate"] < 0)
    assert np.all(c["mu_rate"] <= 0)


@quick_jit
def equilibrium(process, s, y):
    density, gradient = jax.value_and_grad(process.equilibrium_log_prob, 1)(s, y)
    precision = process.equilibrium_precision(s)
    normal = jax.scipy.stats.norm.logpdf(y, 0.0, 1 / jnp.sqrt(precision)).sum()
    return density, gradient, normal, precision, process.equilibrium_score(s, y)


@every_process
def test_equilibrium_log_prob(name, x64):
    process = PROCESSES[name]()
    y = np.asarray([0.3, -0.2, 0.05])
    for s in (0.4, 0.8):
        density, gradient, normal, precision, score = equilibrium(process, s, y)
        np.testing.assert_allclose(density, 0.0 if name == "ve" else normal, rtol=1e-13)
        np.testing.assert_allclose(gradient, score, rtol=1e-13)
        if name in STATIC:
            np.testing.assert_allclose(precision, equilibrium(process, 0.0, y)[3], rtol=0)
    assert process.is_static == (name in STATIC)


@quick_jit
def budget_and_integral(process, times, shares):
    budget, gradient = eqx.filter_value_and_grad(lambda p: p.noise_budget())(process)
    return budget, gradient, shares @ process.sigma_squared(times) / 2


@every_process
def test_noise_budget_is_the_integral_of_half_sigma_squared(name, x64):
    nodes, weights = np.polynomial.legendre.leggauss(40)
    knots = np.sin(np.pi / 2 * np.linspace(0.0, 1.0, len(LOG_RATES))) ** 2
    widths = np.diff(knots)[:, None]  # learned curves are smooth between their knots
    times = (knots[:-1, None] + widths * (nodes + 1) / 2).ravel()
    shares = (widths * weights / 2).ravel()
    budget, gradient, integral = budget_and_integral(PROCESSES[name](), times, shares)
    if name in ENDS_IN_NOISE:
        assert budget == jnp.inf
    else:
        np.testing.assert_allclose(budget, integral, rtol=1e-9)
        assert all_finite(gradient)


@quick_jit
def log_snr_and_moments(process, s):
    return process.log_snr(s), process.scale(s), process.var(s), process.time_per_log_snr(s)


@every_process
def test_log_snr_falls_from_end_to_end(name, x32):
    """In float32, with the exact values at the ends."""
    s = np.concatenate([[0.0, 1e-12, 1e-7], np.linspace(1e-4, 1.0, 401)]).astype(np.float32)
    found = log_snr_and_moments(PROCESSES[name](), s)
    log_snr, scale, var, pace = (np.asarray(v) for v in found)
    assert log_snr.dtype == np.float32
    assert np.all(np.diff(log_snr) < 0)
    assert log_snr[0] == np.inf
    assert scale[0] == 1
    assert var[0] == 0
    ends_in_noise = name in ENDS_IN_NOISE
    assert (log_snr[-1] == -np.inf, scale[-1] == 0) == (ends_in_noise, ends_in_noise)
    assert (pace[0] == 0, pace[-1] == 0) == (True, ends_in_noise)
    assert np.all(pace >= 0)
    assert PROCESSES[name]().ends_in_noise == ends_in_noise


# ---------------------------------------------------------------------------- inverse log-SNR


@quick_jit
def time_and_log_snr(process, s, values):
    log_snr = process.log_snr(s)
    return process.time_of_log_snr(jnp.concatenate([log_snr, values])), log_snr


@every_inverse
def test_time_of_log_snr(name, x32):
    """Inverts in float64; in float32 over all log-SNR that occur; clamps beyond them.

    Beyond the range the derivative is zero rather than NaN.
    """
    beyond = [np.inf, 1e30, 300.0, -95.0, -300.0, -1e30, -np.inf]
    values = np.concatenate([np.linspace(60.0, -60.0, 241), beyond]).astype(np.float32)
    flat, build = numbers(PROCESSES[name]())

    @quick_jit
    def inverse(flat, values):
        def time(value, flat):
            return build(flat).time_of_log_snr(value)

        return jax.vmap(jax.value_and_grad(time, (0, 1)), (0, None))(values, flat)

    times, slopes = (jax.tree.map(np.asarray, v) for v in inverse(flat, values))
    with double():
        process = PROCESSES[name]()
        inner = np.concatenate([[1e-14, 1e-9, 1e-5, 1e-3], np.linspace(0.01, 0.999, 50)])
        exact = time_and_log_snr(process, np.append(inner, [0.0, 1.0]), values.astype(np.float64))
        found, log_snr = map(np.asarray, exact)
    # Near t1 of a process that ends in noise, s itself has the resolution of 1 - s.
    np.testing.assert_allclose(found[: inner.size], inner, rtol=5e-13)
    np.testing.assert_array_equal(found[inner.size : inner.size + 2], [0.0, 1.0])
    # exp(-lambda / 2) is known to eps |lambda| / 2, and with it the time near the data end.
    rounding = 60 * np.finfo(np.float32).eps
    np.testing.assert_allclose(times, found[inner.size + 2 :], rtol=rounding, atol=1e-18)
    assert np.all(np.diff(times[:241]) >= 0)
    assert np.all(times[:241][values[:241] < log_snr[-1]] == 1)
    np.testing.assert_allclose(times[241:], [0, 0, 0, 1, 1, 1, 1], rtol=0, atol=1e-18)
    np.testing.assert_allclose(slopes[0][241:], 0.0, atol=1e-18)
    assert all_finite(slopes)


@quick_jit
def log_snr_and_slopes(process, s):
    def slope(s):
        return jax.jvp(process.log_snr, (s,), (jnp.ones_like(s),))[1]

    return process.log_snr(s), *jax.jvp(slope, (s,), (jnp.ones_like(s),))


@every_inverse
def test_derivatives_of_time_of_log_snr(name, x64):
    """First and second, in the value and in every number of the process."""
    process = PROCESSES[name]()
    flat, build = numbers(process)

    def inverse(v):
        return build(v[1:]).time_of_log_snr(v[0])

    @quick_jit
    def derivatives(batch):
        value_and_grad = jax.value_and_grad(inverse)
        return *jax.vmap(value_and_grad)(batch), jax.vmap(jax.jacfwd(jax.grad(inverse)))(batch)

    for s in (0.02, 0.3, 0.8):
        value, slope, curvature = log_snr_and_slopes(process, s)
        x = np.append(value, flat)
        time, gradient, hessian = (d[0] for d in derivatives(np.tile(x, (4 * x.size, 1))))
        by_value, by_gradient, _ = finite_difference(derivatives, x)
        np.testing.assert_allclose(time, s, rtol=1e-13)
        np.testing.assert_allclose(gradient, by_value, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(hessian, by_gradient, rtol=1e-6, atol=1e-8)
        # In the value, from the derivatives of the log-SNR: 1/f' and -f''/f'^3.
        np.testing.assert_allclose(gradient[0], 1 / slope, rtol=1e-10)
        np.testing.assert_allclose(hessian[0, 0], -curvature / slope**3, rtol=1e-9)


# ---------------------------------------------------------------------------- float32 and ends


@quick_jit
def coefficients(p, s):
    return p.scale(s), p.std(s), p.var(s), p.var_rate(s), p.scaled_sigma_squared(s)


@every_process
def test_no_digits_are_lost_near_the_data_end(name, x32):
    s = np.asarray([0.0, 1e-12, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.3, 0.9], np.float32)

    single = coefficients(PROCESSES[name](), s)
    with double():
        exact = [np.asarray(v) for v in coefficients(PROCESSES[name](), s.astype(np.float64))]
    for got, expected in zip(single, exact, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-18)


@quick_jit
def fields(model, s, y):
    p = model.process
    coefficients = (p.scale, p.std, p.var, p.scale_rate, p.var_rate, p.scaled_sigma_squared)
    values = [f(s) for f in coefficients]
    values += [model.score(s, y), model.velocity(s, y), model.prior.log_prob(y)]
    values += [model.distribution.denoise(p, s, y), model.distribution.diffused(p, s)]
    values += [p.perturb(s, y, y)]
    return values, model.entropy_field(s, y)


@every_process
def test_finite_at_both_ends(name, x32):
    """What a user runs: float32, s = 0 and s = 1 exactly."""

    process = PROCESSES[name]()
    distributions = [small_mixture()]
    if name in KINDS:
        distributions.append(small_gaussian())
    for distribution in distributions:
        model = ex.ExactModel(distribution, process)
        for s in (process.t0, process.t1):
            values, entropy_field = fields(model, s, np.asarray([0.4, -0.8], np.float32))
            assert all_finite(values)
            # A limitation of the theory: the equilibrium of these has no width at s = 0.
            collapsed = name in COLLAPSING and s == process.t0
            assert all_finite(entropy_field) != collapsed
    assert process.is_finite == (name not in COLLAPSING)


@every_process
def test_gradients_at_the_ends(name, x32):
    """Of scale, variance and std in every number of the process: finite, in float32."""
    process = PROCESSES[name]()
    flat, build = numbers(process)

    @quick_jit
    def gradients(flat, s):
        def moments(flat):
            p = build(flat)
            return jnp.stack([p.scale(s), p.var(s), p.std(s)])

        return jax.jacrev(moments)(flat), jax.jacfwd(moments)(flat)

    for s in (process.t0, process.t1):
        assert all_finite(gradients(flat, s))


# ---------------------------------------------------------------------------- modules


@eqx.filter_jit
def identity(process):
    return process


mapped_log_snr = quick_jit(jax.vmap(lambda process: process.log_snr(0.3)))


@every_process
def test_is_a_pytree_of_arrays(name, x32):
    process = PROCESSES[name]()
    mapped = jax.tree.map(lambda x: x, process)
    assert eqx.tree_equal(process, mapped)
    assert eqx.tree_equal(process, identity(process))
    assert jax.tree.structure(process) == jax.tree.structure(PROCESSES[name]())
    hash(jax.tree.structure(process))
    for leaf in jax.tree.leaves(process):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type
    stacked = jax.tree.map(lambda x: jnp.asarray(np.stack([x, x])), process)
    values = mapped_log_snr(stacked)
    expected = log_snr_and_moments(process, np.full(404, 0.3, np.float32))[0][0]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_new_numbers_do_not_recompile():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def log_snr(process, s):
        return process.log_snr(s)

    for kappa, beta_max in ((1.0, 16.0), (0.1, 5.0), (2, 8), (np.float64(0.3), jnp.asarray(2.0))):
        log_snr(ex.VariancePreserving(ex.LinearSchedule(0.1, beta_max), kappa), jnp.asarray(0.3))


def test_numbers_made_under_jit_are_the_same():
    """A process built inside a transformation is the one built outside: no weak types, no drift."""
    outside = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), 0.5)
    inside = quick_jit(lambda b, k: ex.VariancePreserving(ex.LinearSchedule(0.1, b), k))(16.0, 0.5)
    assert eqx.tree_equal(outside, inside)
    kappas = jnp.asarray([0.5, 1.0])
    stds = jax.vmap(lambda k: ex.VariancePreserving(ex.LinearSchedule(), k).std(0.4))(kappas)
    np.testing.assert_allclose(stds[0] / stds[1], 0.5, rtol=1e-6)
