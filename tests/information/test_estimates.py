"""Information from samples alone: closed forms, invariances, errors, and what is refused."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.information.crossfit import _gaussian_forms, split


SMALL = ex.information.Recipe(
    folds=2, steps=100, width=8, depth=1, num_levels=4, learning_rate=1e-3
)
KEY = jax.random.key(1)


def gaussian_pair(n=600, rho=0.8, seed=0):
    x, noise = np.random.default_rng(seed).normal(size=(2, n, 2))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def within(found, truth, times=4.0):
    error = float(found.stderr) + float(found.model_error)
    return abs(float(found) - truth) < times * error


@pytest.mark.slow  # two trainings
def test_gaussian_pair_in_both_orders_and_after_monotone_maps():
    x, y = gaussian_pair()
    found = ex.estimate_mutual_information(x, y, key=KEY, recipe=SMALL)
    assert within(found, -np.log(1 - 0.64))
    assert found.pointwise.shape == (600,)
    assert float(jnp.mean(found.pointwise)) == pytest.approx(float(found.denoising), rel=1e-5)
    assert float((found.denoising + found.score) / 2) == pytest.approx(float(found), rel=1e-5)
    assert found.folds.shape == (2,)
    assert found.bound is None
    mapped = ex.estimate_mutual_information(np.exp(x), y**3, key=KEY, recipe=SMALL)
    assert abs(float(found) - float(mapped)) < 0.02 * float(found)


@pytest.mark.slow(reason="a training of its own")
def test_the_variable_of_fewer_dimensions_is_diffused():
    x, y = gaussian_pair()
    one, other = (
        ex.estimate_mutual_information(*pair, key=KEY, recipe=SMALL)
        for pair in ((x, y[:, 0]), (y[:, :1], x))
    )
    assert float(one) == float(other)
    assert within(one, -0.5 * np.log(1 - 0.64))


@pytest.mark.slow(reason="a training")
def test_independent_variables_have_none():
    x, y = gaussian_pair(rho=0.0)
    found = ex.estimate_mutual_information(x, y, key=KEY, recipe=SMALL)
    assert abs(float(found)) <= 3 * float(found.stderr) + 1e-6


def test_labels_are_conditions_and_bound_the_value():
    x, _ = gaussian_pair()
    labels = (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)
    with pytest.warns(UserWarning, match="held-out loss was still falling"):
        found = ex.estimate_mutual_information(
            x, labels, key=KEY, recipe=dataclasses.replace(SMALL, learning_rate=2e-2)
        )
    assert not found.converged
    assert float(found.bound) == pytest.approx(np.log(4), abs=0.01)
    assert 0.3 < float(found) < np.log(4)


@pytest.mark.slow(reason="programs of two shapes")
def test_conditional_information_and_divergence():
    """The docstrings of the other estimates compare them with closed forms."""
    x, y = gaussian_pair()
    rng = np.random.default_rng(3)
    information = ex.information
    z = rng.normal(size=(600, 2))
    given = information.estimate_conditional_mutual_information(
        x + z, y + z, z, key=KEY, recipe=SMALL
    )
    # Given z, both are as they were.
    assert within(given, -np.log(1 - 0.64))
    divergence = information.estimate_kl(x + [1.0, 0.0], z[:400], key=KEY, recipe=SMALL)
    assert divergence.pointwise.shape == (600,)
    assert within(divergence, 0.5)


def test_the_gaussian_part_of_both_forms():
    """The log ratio point by point; the score form has the same mean."""
    rho = jnp.array([0.9, 0.0, -0.5])
    rng = np.random.default_rng(0)
    c = rng.normal(size=(40_000, 2))
    x = np.asarray(rho) * np.pad(c, ((0, 0), (0, 1)))
    x = x + np.sqrt(1 - np.asarray(rho) ** 2) * rng.normal(size=x.shape)
    x, c = jnp.asarray(x, float), jnp.asarray(c, float)
    ratio, score = _gaussian_forms(rho.at[2].set(0.0), x, (c, None))
    expected = -0.5 * np.log(1 - 0.81)
    mean, error = np.mean(ratio), np.std(ratio) / 200
    assert abs(mean - expected) < 4 * error
    assert abs(np.mean(score) - expected) < 4 * np.std(score) / 200
    log_ratio = (x[:, 0] ** 2 - (x[:, 0] - 0.9 * c[:, 0]) ** 2 / 0.19 - jnp.log(0.19)) / 2
    np.testing.assert_allclose(ratio, log_ratio, atol=1e-4)
    # Of two conditions, the contrast has the mean shift rho (a - b) alone.
    _, squared = _gaussian_forms(rho, x[:4], (c[:4], -c[:4]))
    exact = (2 * 0.9 * c[:4, 0]) ** 2 / 0.19 / 2
    np.testing.assert_allclose(squared, exact, rtol=1e-3)


@pytest.mark.slow(reason="twenty trainings of two networks, of 0.2 s each, and their programs")
@pytest.mark.filterwarnings("ignore:the held-out loss was still falling")
def test_repeated_runs_scatter_by_the_stated_error():
    found = [
        ex.estimate_mutual_information(
            *gaussian_pair(seed=seed), key=jax.random.key(seed), recipe=SMALL
        )
        for seed in range(20)
    ]
    values, errors = (np.array([float(f) for f in v]) for v in (found, [f.stderr for f in found]))
    assert abs(values.mean() + np.log(1 - 0.64)) < 4 * values.std() / np.sqrt(20)
    # Twenty values know their own scatter to 16%.
    assert 0.6 < values.std(ddof=1) / np.sqrt(np.mean(errors**2)) < 1.5


@pytest.mark.parametrize("count", [20, 101, 1000])
def test_every_row_is_measured_once_and_all_folds_learn_from_equally_many(count):
    rows = split(count, 5, jax.random.key(0))
    tested = np.concatenate([test for *_, test in rows])
    np.testing.assert_array_equal(np.sort(tested), np.arange(count))
    assert len({(len(train), len(stop)) for train, stop, _ in rows}) == 1
    for train, stop, test in rows:
        assert not set(test) & set(np.concatenate([train, stop]))
        assert not set(train) & set(stop)


def test_canonical_coordinates_are_white_and_correlated_in_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(2000, 2))
    y = y + x[:, :2]
    canonical = ex.information.CanonicalCoordinates.from_samples(x, y, edge=False)
    u, v = np.asarray(canonical.x(x)), np.asarray(canonical.y(y))
    np.testing.assert_allclose(u.T @ u / 2000, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(v.T @ v / 2000, np.eye(2), atol=1e-4)
    expected = np.zeros((3, 2))
    np.fill_diagonal(expected, canonical.correlations[:2])
    np.testing.assert_allclose(u.T @ v / 2000, expected, atol=1e-4)
    joint = np.linalg.slogdet(np.cov(np.concatenate([x, y], axis=1).T))[1]
    apart = sum(np.linalg.slogdet(np.cov(part.T))[1] for part in (x, y))
    assert float(canonical.gaussian_information) == pytest.approx((apart - joint) / 2, rel=1e-3)


@pytest.mark.slow(reason="sixteen trainings of two networks, of 0.2 s each")
@pytest.mark.filterwarnings("ignore:the held-out loss was still falling")
def test_strong_dependence_at_drawn_scales():
    """Columns in any units, and a conditional spread of 0.003 to 1 of that of the whole."""
    rng = np.random.default_rng(0)
    for i in range(8):
        narrow = i < 4
        spread = 10 ** (rng.uniform(-2.5, -1.2) if narrow else rng.uniform(-0.8, 0))
        unit, offset = 10.0 ** rng.integers(-6, 7), 1e3 * rng.normal()
        x, noise = rng.normal(size=(2, 600))
        y = unit * (x + spread * noise + offset)
        truth = 0.5 * np.log1p(spread**-2)
        for scores in (False, True):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                found = ex.estimate_mutual_information(
                    x, y, key=jax.random.key(i), recipe=SMALL, normal_scores=scores
                )
            assert found.resolved == (not narrow)
            assert any("canonical correlation" in str(w.message) for w in seen) == narrow
            # The estimate of a correlation from 600 samples, and what normal scores bend.
            assert abs(float(found) - truth) < (0.4 if scores and narrow else 0.15)


DEPENDENT = {
    "the same": lambda x, y: (x, x),
    "in other units": lambda x, y: (x, 1e-3 * x[:, 0] + 5e3),
    "a combination": lambda x, y: (x, np.stack([y[:, 0], x[:, 0] - 3 * x[:, 1]], 1)),
    "rounded to single precision": lambda x, y: (x, x.astype(np.float32)),
}


@pytest.mark.parametrize("how", DEPENDENT)
def test_variables_that_determine_each_other_are_refused(how):
    x, y = DEPENDENT[how](*gaussian_pair(60))
    with pytest.raises(ValueError, match="`y` must not be determined by `x`"):
        ex.estimate_mutual_information(x, y, key=KEY)
    with pytest.raises(ValueError, match="`y` must not be determined by `x`"):
        ex.information.check_pair(x, y)
    z = gaussian_pair(60, seed=1)[0]
    with pytest.raises(ValueError, match="`y` must not be determined by `x`"):
        ex.information.estimate_conditional_mutual_information(x, y, z, key=KEY)


@pytest.mark.parametrize("estimate", ["estimate_total_correlation", "estimate_entropy"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_columns_without_a_joint_density_are_refused(estimate, scale):
    x = scale * gaussian_pair(60)[0]
    for dependent in (
        np.concatenate([x, x[:, :1] - x[:, 1:]], axis=1),
        np.random.default_rng(0).normal(size=(20, 30)),
    ):
        with pytest.raises(ValueError, match="`x` must have columns that do not determine"):
            getattr(ex.information, estimate)(dependent, key=KEY)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_sets_that_lie_far_apart_are_refused(scale):
    x = gaussian_pair(60)[0]
    with pytest.raises(ValueError, match="`y` must overlap with `x`"):
        ex.information.estimate_kl(scale * x, scale * (x + [1e4, 0.0]), key=KEY)


def test_canonical_correlations_do_not_depend_on_narrow_directions():
    """Affine maps of x that are nearly singular leave the information as it is."""
    rng = np.random.default_rng(0)
    u, v, noise = rng.normal(size=(3, 2000))
    plain = ex.information.CanonicalCoordinates.from_samples(
        np.stack([u, v], 1), (v + noise)[:, None]
    )
    for narrow in (1e-1, 1e-2, 1e-3, 1e-4):
        x = np.stack([u, u + narrow * v], 1)
        found = ex.information.CanonicalCoordinates.from_samples(x, (v + noise)[:, None])
        np.testing.assert_allclose(found.correlations, plain.correlations, atol=1e-4)


def test_correlations_below_the_noise_edge_are_zero():
    x, y = np.random.default_rng(0).normal(size=(2, 500, 4))
    canonical = ex.information.CanonicalCoordinates.from_samples(x, y)
    np.testing.assert_array_equal(canonical.correlations, np.zeros(4))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: ex.estimate_mutual_information(x, x[:-1], key=KEY), "y"),
        (lambda x: ex.estimate_mutual_information(x[:10], x[10:20], key=KEY), "x"),
        (lambda x: ex.estimate_mutual_information(x, np.arange(len(x)), key=KEY), "y"),
        (lambda x: ex.estimate_mutual_information(x * 0, x, key=KEY), "x"),
        (lambda x: ex.estimate_mutual_information(x, np.zeros(len(x), int), key=KEY), "y"),
        (lambda x: ex.information.estimate_total_correlation(np.sign(x), key=KEY), "x"),
        (lambda x: ex.information.estimate_entropy(np.sign(x), key=KEY), "x"),
        (lambda x: ex.information.estimate_entropy(x * [1, 0] + 0.1, key=KEY), "x"),
        (lambda x: ex.information.estimate_kl(x, x[:, :1], key=KEY), "y"),
        (lambda x: ex.information.Recipe(folds=1), "folds"),
    ],
)
def test_invalid_arguments_are_refused(call, name):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        call(gaussian_pair(60)[0])
