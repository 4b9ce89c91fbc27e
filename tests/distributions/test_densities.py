"""Densities against SciPy and explicit sums, their derivatives, and their samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import entropix as ex
from entropix.distributions import IsotropicGaussian, SmoothedEmpirical
from tests.helpers import all_finite, double, product_grid, quick_jit, small_gaussian, small_mixture
from tests.mixtures import TOTAL_ENTROPY, mixture, process


def smoothed():
    return SmoothedEmpirical(
        jnp.asarray([[0.3, -1.0], [1.2, 0.4], [-0.7, 0.1]], float), jnp.asarray(0.4, float)
    )


EVERY = {"gaussian": small_gaussian, "mixture": small_mixture, "smoothed": smoothed}
every_density = pytest.mark.parametrize("name", EVERY)


# ---------------------------------------------------------------------------- values


SPECTRA = {
    "correlated": np.asarray([[0.6, 0.35, 0.1], [0.35, 0.9, -0.2], [0.1, -0.2, 0.4]]),
    "isotropic": 0.7 * np.eye(3),
    "two equal eigenvalues": 0.3 * np.eye(3) + 0.5 * np.ones((3, 3)),
    "ill-conditioned": np.diag([1e-6, 1.0, 1e6]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_gaussian_and_its_derivatives(name, x64, getkey):
    """Value, gradient and Hessian in mean, covariance and x, whatever the spectrum.

    JAX's own density, differentiated through a Cholesky factor, is the reference.
    """
    rows, columns = np.tril_indices(3)
    covariance = jnp.asarray(SPECTRA[name])
    root = np.sqrt(np.diag(SPECTRA[name]))

    def unpack(v):
        lower = jnp.zeros((3, 3)).at[rows, columns].set(v[6:])
        return v[:3], v[3:6], lower + jnp.tril(lower, -1).T

    def ours(v):
        x, mean, matrix = unpack(v)
        return ex.Gaussian(mean, matrix).log_prob(x)

    def reference(v):
        return jax.scipy.stats.multivariate_normal.logpdf(*unpack(v))

    @quick_jit
    def compare(v):
        return [(f(v), jax.grad(f)(v), jax.hessian(f)(v)) for f in (ours, reference)]

    x, mean = jax.random.normal(getkey(), (2, 3)) * root
    v = jnp.concatenate([x, mean, covariance[rows, columns]])
    # Parameters of very different sizes: compare what a relative change of each would do.
    size = jnp.concatenate([root, root, np.outer(root, root)[rows, columns]])
    (value, gradient, hessian), (value_, gradient_, hessian_) = compare(v)
    np.testing.assert_allclose(value, value_, rtol=1e-10)
    np.testing.assert_allclose(gradient * size, gradient_ * size, rtol=1e-8, atol=1e-8)
    scaled = size * size[:, None]
    np.testing.assert_allclose(hessian * scaled, hessian_ * scaled, rtol=1e-8, atol=1e-8)
    if name != "ill-conditioned":  # SciPy takes it to be singular
        scipys = scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
        np.testing.assert_allclose(value, scipys, rtol=1e-10)


def test_mixture_is_the_explicit_sum(x64, getkey):
    weights, means, stds = (
        np.asarray([2.0, 1.0, 5.0]),  # not normalised
        np.asarray([[-1.0, 0.4], [0.7, 0.9], [0.1, -1.2]]),
        np.asarray([[0.5, 0.3], [0.25, 0.8], [0.6, 0.4]]),
    )
    density = ex.GaussianMixture(weights, means, stds)
    x = jax.random.normal(getkey(), (7, 2))
    components = [
        scipy.stats.multivariate_normal(m, np.diag(s**2)).pdf(x)
        for m, s in zip(means, stds, strict=True)
    ]
    joint = weights[:, None] / weights.sum() * np.asarray(components)
    np.testing.assert_allclose(density.log_prob(x), np.log(joint.sum(0)), rtol=1e-12)
    posterior = (joint / joint.sum(0)).T
    np.testing.assert_allclose(density.responsibilities(x), posterior, rtol=1e-10)
    np.testing.assert_allclose(density.weights, weights / weights.sum(), rtol=1e-14)
    one = ex.GaussianMixture([1.0], [[0.5, -1.0]], [[0.3, 0.7]])
    same = ex.Gaussian([0.5, -1.0], np.diag([0.09, 0.49]))
    np.testing.assert_allclose(one.log_prob(x), same.log_prob(x), rtol=1e-12)


def test_points_are_a_mixture_without_width(x64, getkey):
    """The diffused Empirical is the diffused mixture of very narrow components."""
    points = jax.random.normal(getkey(), (6, 3))
    empirical = ex.Empirical(points)
    narrow = ex.GaussianMixture(np.ones(6), points, np.full((6, 3), 1e-9))
    vp = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=0.5)

    @quick_jit
    def fields(distribution, s, y):
        marginal = distribution.diffused(vp, s)
        later = marginal.diffused(vp, 0.3)  # once more
        return (
            marginal.log_prob(y),
            marginal.score(y),
            marginal.responsibilities(y),
            later.log_prob(y),
            distribution.denoise(vp, s, y),
            distribution.entropy_field(vp, s, y),
            marginal.denoise(vp, 0.3, y),
            marginal.entropy_field(vp, 0.3, y),
        )

    for s in (0.02, 0.3, 0.9):
        y = vp.perturb(s, points[2], jax.random.normal(getkey(), (3,)))
        for one, other in zip(fields(empirical, s, y), fields(narrow, s, y), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-11)


@every_density
def test_score_and_leading_axes(name, x64, getkey):
    density = EVERY[name]()
    x = 2 * jax.random.normal(getkey(), (2, 4, 2))

    @quick_jit
    def single(x):
        return density.log_prob(x), jax.grad(density.log_prob)(x), density.score(x)

    log_prob, gradient, score = jax.vmap(jax.vmap(single))(x)
    np.testing.assert_allclose(density.log_prob(x), log_prob, rtol=1e-13)
    np.testing.assert_allclose(density.score(x), score, rtol=1e-12)
    np.testing.assert_allclose(score, gradient, rtol=1e-10, atol=1e-12)
    assert density.log_prob(x[:, :0]).shape == (2, 0)
    assert density.score(x[:, :0]).shape == (2, 0, 2)


@every_density
def test_normalised(name, x64):
    points, cell = product_grid(-7.0, 7.0, 0.1, 2)
    density = quick_jit(lambda d, x: d.log_prob(x))(EVERY[name](), points)
    np.testing.assert_allclose(jnp.sum(jnp.exp(density)) * cell, 1.0, rtol=1e-10)


def test_isotropic_prior(x64, getkey):
    prior = IsotropicGaussian((2, 3), 0.4)
    y = jax.random.normal(getkey(), (5, 2, 3))
    expected = scipy.stats.norm(scale=0.4).logpdf(y).sum((1, 2))
    np.testing.assert_allclose(prior.log_prob(y), expected, rtol=1e-13)
    np.testing.assert_allclose(prior.log_prob(y[0]), expected[0], rtol=1e-13)
    number = IsotropicGaussian((), 2.0)
    np.testing.assert_allclose(number.log_prob(y), scipy.stats.norm(scale=2).logpdf(y), rtol=1e-13)
    assert number.sample(4, key=getkey()).shape == (4,)


# ---------------------------------------------------------------------------- the paper's mixtures


@pytest.mark.parametrize(
    ("dim", "entropy", "second_moment"),
    [(2, 3.004009231266383, 4.623771512718773), (3, 4.342939960327018, 5.3681735526491225)],
)
def test_exact_values_of_the_paper_mixtures(dim, entropy, second_moment, x64):
    """Entropy and moments; then S_tot = KL(p_d || p_eq) - KL(p_T || p_eq) for static p_eq."""
    density = mixture(dim)
    step = {2: 0.15, 3: 0.3}[dim]

    @quick_jit
    def integrals(distribution, points):
        log_prob = distribution.log_prob(points)
        p = jnp.exp(log_prob)
        return jnp.sum(p), -jnp.sum(p * log_prob), jnp.sum(p * jnp.sum(points**2, -1))

    points, cell = product_grid(-6.3, 6.3, step, dim)
    total, h, second = (cell * i for i in integrals(density, points))
    np.testing.assert_allclose(total, 1.0, rtol=1e-7)
    np.testing.assert_allclose(h, entropy, rtol=1e-7)
    np.testing.assert_allclose(second, second_moment, rtol=1e-7)
    from_moments = jnp.trace(density.covariance) + jnp.sum(density.mean**2)
    np.testing.assert_allclose(from_moments, second_moment, rtol=1e-12)

    for name in ("VP", "VPx", "SL"):
        p = process(name)
        kappa = p.equilibrium_std
        divergences = []
        for s in (p.t0, p.t1):
            spread = max(2 * float(p.scale(s)), 1.0 * float(kappa))  # of the diffused density
            marginal = density.diffused(p, s)
            # The same grid, stretched to the density: one compilation.
            scale = {0: 1.0}.get(int(s), spread)
            _, h, second = integrals(marginal, points * scale)
            volume = cell * scale**dim
            cross = dim / 2 * jnp.log(2 * jnp.pi * kappa**2) + second * volume / (2 * kappa**2)
            divergences.append(cross - h * volume)
        total_entropy = divergences[0] - divergences[1]
        np.testing.assert_allclose(total_entropy, TOTAL_ENTROPY[dim, name], rtol=3e-6)


# ---------------------------------------------------------------------------- float32


@pytest.mark.parametrize("scale", [1e2, 1e5, 1e9])
@every_density
def test_far_tails(name, scale, x32):
    x = np.asarray([[0.7, -0.4], [-1.0, -0.2]], np.float32) * np.float32(scale)

    def evaluate(x):
        density = EVERY[name]()
        return density.log_prob(x), density.score(x)

    log_prob, score = evaluate(jnp.asarray(x))
    with double():
        exact = [np.asarray(v) for v in evaluate(jnp.asarray(x, float))]
    np.testing.assert_allclose(log_prob, exact[0], rtol=1e-5)
    np.testing.assert_allclose(score, exact[1], rtol=1e-5)


@pytest.mark.parametrize("s", [1e-12, 1e-8, 1e-4])
def test_tiny_noise(s, x32):
    """A finite data set at noise far below the distance of its points, in float32."""
    points = np.asarray([[0.3, -1.0], [1.2, 0.4], [-0.7, 0.1]], np.float32)
    z = np.asarray([0.6, -1.3], np.float32)

    def evaluate(dtype):
        vp = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        empirical = ex.Empirical(jnp.asarray(points, dtype))
        y = vp.perturb(s, empirical.points[1], jnp.asarray(z, dtype))
        marginal = empirical.diffused(vp, s)
        far = jnp.asarray([5.0, 3.0], dtype)
        return [
            empirical.denoise(vp, s, y),
            empirical.denoise(vp, s, far),
            marginal.score(far),
            marginal.log_prob(far),
            empirical.entropy_field(vp, s, far),
        ]

    single = evaluate(jnp.float32)
    with double():
        exact = [np.asarray(v) for v in evaluate(jnp.float64)]
    for got, expected in zip(single, exact, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_points_at_no_noise_at_all():
    """At exactly s = 0 the posterior mean is the nearest point, and the score is infinite."""
    empirical = ex.Empirical([[0.0, 0.0], [1.0, 1.0]])
    vp = ex.VariancePreserving(ex.LinearSchedule())
    np.testing.assert_array_equal(empirical.denoise(vp, 0.0, jnp.asarray([0.9, 0.6])), [1.0, 1.0])
    gradient = jax.jacrev(lambda y: empirical.denoise(vp, 0.0, y))(jnp.asarray([0.9, 0.6]))
    assert all_finite(gradient)
    score = empirical.diffused(vp, 0.0).score(jnp.asarray([0.9, 0.6]))
    assert not jnp.any(jnp.isfinite(score))


# ---------------------------------------------------------------------------- samples


def points_of_a_square():
    return ex.Empirical([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])


SAMPLED = EVERY | {
    "empirical": points_of_a_square,
    "diffused gaussian": lambda: small_gaussian().diffused(ex.CosinePath(), 0.4),
    "diffused mixture": lambda: small_mixture().diffused(ex.CosinePath(), 0.4),
    "isotropic": lambda: IsotropicGaussian((2,), 0.7),
}


def moments(density):
    """Exact mean and covariance."""
    match density:
        case ex.Gaussian() | ex.GaussianMixture():
            return density.mean, density.covariance
        case SmoothedEmpirical(centres, std):
            return jnp.mean(centres, 0), jnp.cov(centres.T, bias=True) + std**2 * jnp.eye(2)
        case ex.Empirical(points):
            return jnp.mean(points, 0), jnp.cov(points.T, bias=True)
        case IsotropicGaussian():
            return jnp.zeros(2), density.std**2 * jnp.eye(2)


@pytest.mark.parametrize("name", SAMPLED)
def test_sample_moments(name, x32):
    n = 20_000
    density = SAMPLED[name]()
    x = np.asarray(density.sample(n, key=jax.random.key(0)), np.float64)
    assert x.shape == (n, 2)
    mean, covariance = (np.asarray(m) for m in moments(density))
    centred = x - mean
    products = centred[:, :, None] * centred[:, None, :]
    for values, exact in ((x, mean), (products, covariance)):
        stderr = values.std(0) / np.sqrt(n)
        assert np.all(np.abs(values.mean(0) - exact) < 5 * stderr + 1e-6)
    again = density.sample(n, key=jax.random.key(0))
    np.testing.assert_array_equal(again, x.astype(np.float32))


def test_empirical_samples_are_its_points():
    empirical = points_of_a_square()
    x = empirical.sample(200, key=jax.random.key(1))
    matches = jnp.all(x[:, None] == empirical.points, axis=-1)
    assert np.all(jnp.sum(matches, 1) == 1)
    assert np.all(jnp.sum(matches, 0) > 20)
