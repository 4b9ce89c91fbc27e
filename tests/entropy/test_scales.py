"""Estimates at drawn scales: right within their error, or refused with the remedy.

Data N(m, C) in two dimensions: variances from 1e-10 to 1e8 in the units of the process, means up to
1e4, condition numbers up to 1e8, in any direction. The samples have exactly the moments of the
distribution, so that quadratic integrands have exactly the mean of the population, and Monte Carlo
errors alone are tested.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import entropix as ex
from tests.helpers import as_shipped, double, quick, quick_rows, single


FAMILIES = {
    "vp": lambda u: ex.VariancePreserving(
        ex.LinearSchedule(0.1, 8 + 12 * u[0]), kappa=10 ** (1.5 * u[1] - 1)
    ),
    "sl": lambda u: ex.StraightLine(10 ** (2 * u[0] - 1.5)),
    "cosine": lambda u: ex.CosinePath(),
    "ve": lambda u: ex.VarianceExploding(10 ** (3 * u[0] - 4), 10 ** (2 * u[1] + 1)),
}
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
# 1024 evaluations are 14 independent nets: one in a million is further away than so many errors.
FURTHEST = stats.t.isf(5e-7, 13)


class Draw:
    """A Gaussian in its eigenbasis, and another one a moderate distance away."""

    def __init__(self, rng):
        angle = rng.uniform(0, np.pi)
        self.basis = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        largest = 10 ** rng.uniform(-10, 8)
        ratio = 10 ** rng.uniform(-8, 0) if rng.uniform() < 0.5 else rng.uniform(0.5, 1)
        self.variances = np.array([largest, max(largest * ratio, 1e-10)])
        size = 10 ** rng.uniform(-3, 4) if rng.uniform() < 0.6 else 0.0
        self.mean = size * np.array([np.cos(angle), np.sin(angle)]) * rng.choice([-1, 1])
        self.other_variances = self.variances * rng.uniform(0.5, 2, 2)
        self.other_mean = self.mean + rng.uniform(-1, 1, 2) * np.sqrt(self.variances)
        self.parameters = rng.uniform(size=2)
        self.noise = rng.standard_normal((256, 2))

    def gaussian(self):
        return self._gaussian(self.mean, self.variances)

    def other(self):
        return self._gaussian(self.other_mean, self.other_variances)

    def _gaussian(self, mean, variances):
        return ex.Gaussian(self.basis @ mean, (self.basis * variances) @ self.basis.T)

    def samples(self):
        z = self.noise - self.noise.mean(0)
        z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / len(z))).T
        return (self.mean + z * np.sqrt(self.variances)) @ self.basis.T

    def integral(self, process, rate):
        """The integral of `rate(mu, Sigma^2, process, s)` over log-SNR, by quadrature."""
        size = np.log1p(max(np.max(np.abs(self.mean)), np.sqrt(self.variances[0])) ** 2)
        low = max(float(process.log_snr(process.t1)), -60 - size)
        high = min(float(process.log_snr(process.t0)), 60 - np.log(self.variances[1]) + size)
        cuts = np.linspace(low, high, 600)
        nodes = cuts[:-1, None] + np.diff(cuts)[:, None] * (NODES + 1) / 2
        s = process.time_of_log_snr(jnp.asarray(nodes.ravel()))
        values = rate(np.asarray(process.scale(s)), np.asarray(process.var(s)), process, s)
        return float(np.sum(values.reshape(nodes.shape) * np.diff(cuts)[:, None] * WEIGHTS / 2))


def entropy_rate(draw):
    def rate(mu, var, process, s):
        gain = np.asarray(process.equilibrium_gain(s))
        precision = np.asarray(process.equilibrium_precision(s))
        total = 0.0
        for m, c in zip(draw.mean, draw.variances, strict=True):
            spread = mu**2 * c + var
            a = gain - precision * mu * c
            total += var / 2 * (mu / spread) ** 2 * (((1 - mu * a) * m) ** 2 + a**2 * spread)
        return total

    return rate


def divergence_rate(draw):
    def rate(mu, var, process, s):
        total = 0.0
        both = (draw.mean, draw.variances, draw.other_mean, draw.other_variances)
        for m, c, n, d in zip(*both, strict=True):
            one, two = mu**2 * c + var, mu**2 * d + var
            shift = mu * (m - n) / two
            total += var / 2 * ((mu**2 * (c - d) / (one * two)) ** 2 * one + shift**2)
        return total

    return rate


def entropy(draw, process, key):
    model = ex.ExactModel(draw.gaussian(), process)
    estimate = ex.neural_entropy(model, draw.samples(), key=key, num_evaluations=1024)
    return estimate.value, estimate.mc_stderr


def divergence(draw, process, key):
    models = [ex.ExactModel(g, process) for g in (draw.gaussian(), draw.other())]
    estimate = ex.path_kl(*models, draw.samples(), key=key, num_evaluations=1024)
    return estimate.value, estimate.mc_stderr


def log_density(draw, process, key):
    """The mean log density, and what it would be under the entropy of the Gaussian."""
    model = ex.ExactModel(draw.gaussian(), process)
    mean = ex.log_prob(model, draw.samples()[:64], key=key, method=ex.PathBound(64)).mean
    return mean.value, mean.mc_stderr


def log_density_truth(draw, process):
    del process
    centred = (draw.samples()[:64] @ draw.basis - draw.mean) ** 2 / draw.variances
    return float(-np.mean(np.sum(centred + np.log(2 * np.pi * draw.variances), axis=1)) / 2)


ESTIMATORS = {
    "entropy": (entropy, lambda d, p: d.integral(p, entropy_rate(d))),
    "path KL": (divergence, lambda d, p: d.integral(p, divergence_rate(d))),
    "log density": (log_density, log_density_truth),
}


def check(name, family, draws):
    """Both precisions, against one quadrature for each draw. Only single precision may refuse."""
    estimate, truth_of = ESTIMATORS[name]
    refused, ratios = 0, []
    for seed in range(draws):
        draw = Draw(np.random.default_rng(seed))
        with double():
            truth = truth_of(draw, FAMILIES[family](draw.parameters))
        for precise in (True, False):
            with double() if precise else single():
                process = FAMILIES[family](draw.parameters)
                try:
                    value, error = estimate(draw, process, jax.random.key(seed))
                except ValueError as refusal:
                    if precise or "float64" not in str(refusal):
                        raise
                    refused += 1
                    continue
            # The moments of the samples themselves are known to rounding.
            rounding = 1e-9 * abs(truth) if precise else 5e-5 * max(abs(truth), 1.0)
            if name == "path KL" and not precise:  # of two means, each of which is rounded
                step = np.finfo(np.float32).eps * np.max(np.abs(draw.mean))
                rounding += np.sqrt(2 * truth) * step / np.sqrt(min(draw.variances))
            gap, error = abs(float(value) - truth), float(error)
            assert gap < FURTHEST * error + rounding, (seed, precise, float(value), error, truth)
            assert error < 0.3 * max(abs(truth), 1.0), (seed, precise, error, truth)
            if error > 2 * rounding:
                ratios.append(gap / error)
    assert refused < 0.2 * draws
    # Most entropies are those of the control variate, exactly.
    if name != "entropy":
        assert 0.7 < np.sqrt(np.mean(np.square(ratios))) < 1.5


@pytest.mark.parametrize("family", quick(["vp"], ["ve"]))
def test_far_from_the_origin(family):
    """Thin data; one float32 step of their mean is a fortieth of their smallest deviation.

    The field and the control variate cancel there as well; the rounding of the data is left.
    """
    for seed in range(8):
        draw = Draw(np.random.default_rng(seed))  # turned by a drawn angle
        draw.variances, draw.mean = np.array([0.5, 1.4e-6]), np.array([-2.0, 346.0])
        with double():
            truth = draw.integral(FAMILIES[family](draw.parameters), entropy_rate(draw))
        with single():
            value, error = entropy(draw, FAMILIES[family](draw.parameters), jax.random.key(seed))
        assert abs(float(value) - truth) < 3 * float(error), (seed, value, error, truth)
        assert error < 8e-5 * truth, (seed, error, truth)


QUICK = [("entropy", "vp"), ("path KL", "sl")]
OTHERS = [("entropy", "ve"), ("log density", "vp")]


@pytest.mark.parametrize(("name", "family"), quick_rows(QUICK, OTHERS))
def test_right_or_refused(name, family):
    """Two hundred draws in all, half of them with the slow tests."""
    check(name, family, 50)


@pytest.mark.slow  # five thousand draws
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_right_or_refused_often(name, family):
    with as_shipped():  # annotations are checked above
        check(name, family, 210)
