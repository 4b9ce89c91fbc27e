"""Normal scores: inverse, Jacobian, ties, tails, and that log densities stay those of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as stats

from entropix.datasets import NormalScores


HEAVY = stats.t(1.5, loc=3.0, scale=0.2)
DATA = np.column_stack(
    [
        HEAVY.rvs(2000, random_state=0),
        stats.lognorm(1.5).rvs(2000, random_state=1),
        np.random.default_rng(2).integers(0, 2, 2000),  # two values
        np.random.default_rng(3).integers(0, 40, 2000) / 4,
    ]
)
MAP = NormalScores.fit(DATA)


def test_scores_are_standard_normal():
    z = np.asarray(MAP.forward(DATA))[:, :2]
    assert abs(z.mean(axis=0)).max() < 0.01
    assert abs(z.std(axis=0) - 1).max() < 0.01
    assert stats.kstest(z[:, 0], "norm").statistic < 0.02


def test_of_a_known_distribution():
    """Between the knots of many samples, the map is that of the distribution function."""
    x = np.linspace(2.4, 3.6, 7)
    columns = NormalScores.fit(HEAVY.rvs((2000, 1), random_state=4))
    want = stats.norm.ppf(HEAVY.cdf(x))
    np.testing.assert_allclose(np.asarray(columns.forward(x[:, None]))[:, 0], want, atol=0.12)


def test_ties_share_the_score_of_their_mean_rank():
    data = np.array([[0.0], [1.0], [1.0], [1.0], [5.0]])
    want = stats.norm.ppf((stats.rankdata(data[:, 0]) - 0.5) / 5)
    np.testing.assert_allclose(NormalScores.fit(data).forward(data)[:, 0], want, atol=1e-6)


def points(beyond):
    rows = np.asarray(DATA[:64])
    width = np.asarray(MAP.values[:, -1] - MAP.values[:, 0])
    return rows + beyond * width * np.where(np.arange(64) % 2, 1.0, -1.0)[:, None]


@pytest.mark.parametrize("beyond", [0.0, 2.0], ids=["inside", "outside"])
def test_inverse_and_jacobian(beyond):
    """Both agree with the map, for points that the knots enclose and others."""
    x = jnp.asarray(points(beyond), MAP.values.dtype)
    back = MAP.inverse(MAP.forward(x))
    np.testing.assert_allclose(back, x, rtol=2e-3 if beyond else 2e-4, atol=1e-5)
    x = x + 1e-3  # away from knots, where the second derivative jumps
    jacobian = jax.jit(jax.vmap(jax.jacobian(MAP.forward)))(x)
    np.testing.assert_allclose(
        MAP.log_jacobian(x), jnp.linalg.slogdet(jacobian)[1], rtol=1e-3, atol=2e-3
    )
    assert np.isfinite(back).all()


def test_increases_everywhere():
    x = np.sort(np.concatenate([DATA, points(2.0), DATA + 1e-4]), axis=0)
    assert (np.diff(np.asarray(MAP.forward(x)), axis=0) >= 0).all()


def test_log_density_of_new_samples():
    """As a density, the mean log of new samples is at most the truth, by a few hundredths."""
    train, new = (HEAVY.rvs((4000, 1), random_state=seed) for seed in (5, 6))
    columns = NormalScores.fit(train)
    z = columns.forward(new)
    log_p = stats.norm.logpdf(np.asarray(z)[:, 0]) + np.asarray(columns.log_jacobian(new))
    gap = stats.t.logpdf(new[:, 0], 1.5, 3.0, 0.2) - log_p
    assert -4 * gap.std() / np.sqrt(4000) < gap.mean() < 0.04
    grid = np.linspace(-40, 40, 400_001)[:, None] + 3.0
    density = stats.norm.pdf(np.asarray(columns.forward(grid))[:, 0]) * np.exp(
        np.asarray(columns.log_jacobian(grid))
    )
    inside = stats.norm.cdf(np.asarray(columns.forward(grid[[0, -1]]))[:, 0])
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(inside[1] - inside[0], abs=2e-3)


def test_of_shapes_and_scales():
    """Any leading axes, any unit: scores do not change with it."""
    x = np.asarray(DATA[:6])
    np.testing.assert_array_equal(MAP.forward(x.reshape(2, 3, 4)), MAP.forward(x).reshape(2, 3, 4))
    assert MAP.log_jacobian(x.reshape(2, 3, 4)).shape == (2, 3)
    for unit in (1e-20, 1e20):
        scaled = NormalScores.fit(DATA[:200] * unit)
        np.testing.assert_allclose(
            scaled.forward(x * unit), NormalScores.fit(DATA[:200]).forward(x), atol=1e-3
        )
        assert np.isfinite(scaled.log_jacobian(x * unit)).all()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: NormalScores.fit(np.ones((5, 2))), "vary in every column, got a constant column"),
        (lambda: NormalScores.fit([[1.0, np.nan], [2, 3]]), "`points` must be finite"),
        (lambda: jax.jit(NormalScores.fit)(jnp.ones((3, 2))), "`points` must be concrete"),
        (lambda: NormalScores([[0.0, 1]], [[1.0, 0]]), "`scores` must increase"),
        (lambda: NormalScores([0.0, 1], [1.0, 0]), "must both have shape"),
        (lambda: MAP.forward(jnp.zeros(3)), r"`x` .*4\), got \(3,\)"),
        (lambda: MAP.inverse(jnp.zeros(3)), r"`x` .*4\), got \(3,\)"),
    ],
)
def test_refusals(run, message):
    with pytest.raises(ValueError, match=message):
        run()
