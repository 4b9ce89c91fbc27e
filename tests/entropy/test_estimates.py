"""Honesty of standard errors, exact identities, and the behaviour of the entropy functions."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entropix as ex
from entropix.estimators import integrate
from entropix.estimators.integral import check_estimate
from tests.helpers import quick
from tests.mixtures import mixture, process


class Scaled(eqx.Module):
    """c times the exact field, as a network; `kind` says which field."""

    model: ex.ExactModel
    factor: float
    kind: str = "entropy_field"

    def __call__(self, log_snr, y, condition=None):
        s = self.model.process.time_of_log_snr(log_snr)
        return self.factor * getattr(self.model, self.kind)(s, y)


def exact(dim=3, name="VP"):
    return ex.ExactModel(mixture(dim), process(name))


@pytest.fixture(scope="module")
def trained():
    """A model trained for a moment: neither exact nor useless."""
    path = process("VPx")
    data = mixture(3).sample(512, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(data, path)
    network = ex.FourierMLP(3, widths=(32, 32), key=jax.random.key(1))
    model = ex.EntropyMatching(network, path, scaling)
    optimiser = optax.adam(1e-2)

    def loss(network, key):
        current = eqx.tree_at(lambda m: m.network, model, network)

        def one(x, k):
            level_key, noise_key = jax.random.split(k)
            s = path.time_of_log_snr(8 * jax.random.normal(level_key))
            z = jax.random.normal(noise_key, x.shape)
            residual = path.std(s) * current.score(s, path.perturb(s, x, z)) + z
            return jnp.sum(residual**2)

        return jnp.mean(jax.vmap(one)(data, jax.random.split(key, 512)))

    @eqx.filter_jit
    def step(network, state, key):
        updates, state = optimiser.update(eqx.filter_grad(loss)(network, key), state)
        return eqx.apply_updates(network, updates), state

    state = optimiser.init(eqx.filter(network, eqx.is_inexact_array))
    for i in range(60):
        network, state = step(network, state, jax.random.key(i))
    return eqx.tree_at(lambda m: m.network, model, network)


@pytest.mark.parametrize("fresh", [True, False], ids=["stderr", "mc_stderr"])
@pytest.mark.parametrize("which", quick(["trained"], ["exact VPx"]))
@pytest.mark.parametrize("functional", quick(["entropy"], ["path KL"]))
def test_standard_errors_are_honest(functional, which, fresh, trained):
    """200 runs scatter by what they report: by neither half of it nor double."""
    model = trained if which == "trained" else exact(name=which.split()[1])
    truth = ex.ExactModel(mixture(3), model.process)
    if functional == "path KL" and which != "trained":
        model = ex.EntropyMatching(Scaled(truth, 0.8), model.process, shape=(3,))
    fixed = mixture(3).sample(400, key=jax.random.key(99))

    @jax.jit
    def run(key):
        data_key, key = jax.random.split(key)
        data = mixture(3).sample(400, key=data_key) if fresh else fixed
        if functional == "entropy":
            return ex.neural_entropy(model, data, key=key, num_evaluations=512)
        return ex.path_kl(model, truth, data, key=key, num_evaluations=512)

    estimates = jax.lax.map(run, jax.random.split(jax.random.key(7), 200))
    scatter = float(jnp.std(estimates.value))
    reported = float(jnp.mean(estimates.stderr if fresh else estimates.mc_stderr))
    assert 0.8 < scatter / reported < 1.25


@pytest.mark.slow
def test_multiples_of_the_exact_field():
    """e = c e* gives c^2 S_tot and (1 - c)^2 S_tot."""
    truth, factor = exact(), 0.7
    model = ex.EntropyMatching(Scaled(truth, factor), truth.process, shape=(3,))
    data = mixture(3).sample(1000, key=jax.random.key(0))
    options = {"key": jax.random.key(1), "num_evaluations": 2048}
    total = ex.neural_entropy(truth, data, control_variate=False, **options)
    stored = ex.neural_entropy(model, data, control_variate=False, **options)
    distance = ex.path_kl(model, truth, data, **options)
    np.testing.assert_allclose(stored.value, factor**2 * total.value, rtol=1e-4)
    np.testing.assert_allclose(distance.value, (1 - factor) ** 2 * total.value, rtol=1e-4)
    np.testing.assert_allclose(distance.stderr, (1 - factor) ** 2 * total.stderr, rtol=1e-3)


@pytest.mark.slow
def test_parametrisations_of_one_field_have_one_entropy(x64):
    truth = exact(name="VPx")
    data = mixture(3).sample(500, key=jax.random.key(0))
    models = [
        truth,
        ex.EntropyMatching(Scaled(truth, 1.0), truth.process, shape=(3,)),
        ex.ScoreMatching(Scaled(truth, 1.0, "score"), truth.process, shape=(3,)),
        ex.VelocityPrediction(Scaled(truth, 1.0, "velocity"), truth.process, shape=(3,)),
    ]
    values = [
        float(ex.neural_entropy(m, data, key=jax.random.key(1), num_evaluations=1024).value)
        for m in models
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-8)


@pytest.mark.slow
def test_curve_of_a_gaussian(x64):
    """Cumulative entropy and rate at times of the user's, against the closed form."""
    path = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    mean, variance = 0.7, 0.4
    data = jnp.asarray([[mean - variance**0.5], [mean + variance**0.5]])
    model = ex.ExactModel(ex.Gaussian([mean], [[variance]]), path)
    times = jnp.linspace(0.0, 1.0, 201)
    curve = ex.entropy_curve(model, data, key=jax.random.key(0), times=times)

    def divergence(s):
        total = path.scale(s) ** 2 * variance + path.var(s)
        return (total + (path.scale(s) * mean) ** 2 - 1 - jnp.log(total)) / 2

    expected = divergence(times[0]) - jax.vmap(divergence)(times)
    np.testing.assert_allclose(curve.cumulative, expected, atol=1e-8)
    rate = -jax.vmap(jax.grad(divergence))(times)
    np.testing.assert_allclose(curve.rate[1:-1], rate[1:-1], atol=3e-3)
    np.testing.assert_allclose(curve.cumulative[-1], curve.total.value, rtol=1e-12)
    np.testing.assert_allclose(curve.log_snr[1:], path.log_snr(times[1:]))


def test_default_curve_reaches_both_ends():
    model = exact(name="SL")
    data = mixture(3).sample(2000, key=jax.random.key(0))
    curve = ex.entropy_curve(model, data, key=jax.random.key(1), num_times=33)
    assert curve.times.shape == (33,)
    assert curve.times[0] == 0.0
    assert curve.times[-1] == 1.0
    assert bool(jnp.all(jnp.diff(curve.times) > 0))
    for name in ("rate", "rate_stderr", "cumulative", "stderr", "mc_stderr"):
        assert bool(jnp.all(jnp.isfinite(getattr(curve, name)))), name
    assert curve.cumulative[0] == 0.0
    np.testing.assert_allclose(curve.cumulative[-1], curve.total.value)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ex.ExactModel(ex.Empirical(jnp.eye(3)), process("VP")), "finite set of points"),
        (lambda: ex.ExactModel(mixture(3), ex.RectifiedFlow()), "collapses at the data end"),
        (
            lambda: ex.ExactModel(
                mixture(3), ex.SubVariancePreserving(ex.LinearSchedule(0.1, 16.0))
            ),
            "collapses at the data end",
        ),
        (
            lambda: ex.ExactModel(
                ex.Gaussian(jnp.zeros(3), jnp.diag(jnp.asarray([1.0, 1e-20, 1e-20]))),
                process("VP"),
            ),
            r"slope is (1\.|2).* ± 0.[1-6] ",
        ),
        (
            lambda: ex.NoisePrediction(lambda log_snr, y, condition: y, process("VP"), shape=(3,)),
            "does not decay at the data end",
        ),
        (
            lambda: ex.EntropyMatching(
                lambda log_snr, y, condition: jnp.ones_like(y), process("SL"), shape=(3,)
            ),
            "does not decay at the noise end",
        ),
        (
            lambda: ex.ScoreMatching(
                lambda log_snr, y, condition: y * jnp.nan, process("VP"), shape=(3,)
            ),
            "finite",
        ),
    ],
    ids=["empirical", "rectified", "sub-VP", "manifold", "noise", "unscaled", "NaN"],
)
def test_infinite_entropies_are_refused(x32, make, match):
    model = make()
    data = model.distribution if isinstance(model, ex.ExactModel) else mixture(3)
    data = data.sample(256, key=jax.random.key(0))
    with pytest.raises(ValueError, match=match):
        ex.neural_entropy(model, data, key=jax.random.key(1), num_evaluations=4096)


@pytest.mark.slow  # a program of its own
def test_a_manifold_is_refused_under_jit(x32):
    plane = ex.Gaussian(jnp.zeros(2), jnp.diag(jnp.asarray([1.0, 1e-20])))
    model = ex.ExactModel(plane, process("VP"))
    data = plane.sample(100, key=jax.random.key(0))
    with pytest.raises(eqx.EquinoxRuntimeError, match="does not decay at the data end"):
        eqx.filter_jit(ex.neural_entropy)(model, data, key=jax.random.key(1))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": jnp.ones(5)}, "`data` must have shape"),
        ({"data": jnp.ones((1, 3))}, "at least 2 samples"),
        ({"data": jnp.ones((4, 3)).at[0, 0].set(jnp.nan)}, "`data` must be finite"),
        ({"num_evaluations": 10}, "`num_evaluations` must be an integer of at least 256"),
        ({"cutoff": -1.0}, "`cutoff` must be positive"),
        ({"cutoff": 2.0}, "`cutoff` must be a noise standard deviation below"),
        ({"times": [0.5, 0.2]}, "`times` must increase"),
        ({"times": [0.0, 2.0]}, "`times` must increase within"),
        ({"num_times": 1}, "`num_times`"),
        ({"condition": jnp.ones((3, 2))}, "`condition` must have a leading axis of 4"),
    ],
)
def test_bad_arguments(change, match):
    arguments = {"data": jnp.arange(12.0).reshape(4, 3), **change}
    data = arguments.pop("data")
    with pytest.raises(ValueError, match=match):
        ex.entropy_curve(exact(), data, key=jax.random.key(0), **arguments)


def test_path_kl_needs_one_process():
    data = mixture(3).sample(10, key=jax.random.key(0))
    with pytest.raises(ValueError, match="process of `model`"):
        ex.path_kl(exact(), exact(name="VPx"), data, key=jax.random.key(0))


@pytest.mark.slow
def test_memory_argument_does_not_change_the_answer(x64):
    data = mixture(3).sample(300, key=jax.random.key(0))
    values = [
        ex.entropy_curve(
            exact(),
            data,
            key=jax.random.key(2),
            num_evaluations=1000,
            chunk_size=chunk,
            num_times=2,
        )
        for chunk in (64, 5000)
    ]
    for other in values[1:]:
        chex.assert_trees_all_close(values[0], other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_batches_compile_once_and_agree_with_single_runs():
    """vmap over seeds of a model; new data, keys and kappas do not compile again."""
    data = mixture(3).sample(300, key=jax.random.key(0))
    path = process("VP")
    scaling = ex.GaussianScaling.from_data(data, path)

    def make(key):
        network = ex.FourierMLP(3, widths=(8,), key=key)
        # The head starts at zero; give it something to say.
        weight = jax.random.normal(key, network.head.weight.shape)
        return eqx.tree_at(lambda n: n.head.weight, network, weight)

    networks = eqx.filter_vmap(make)(jax.random.split(jax.random.key(1), 3))

    def entropy(network):
        model = ex.EntropyMatching(network, path, scaling)
        return ex.neural_entropy(model, data, key=jax.random.key(2), num_evaluations=512)

    together = eqx.filter_vmap(entropy)(networks)
    alone = entropy(jax.tree.map(lambda x: x[0] if eqx.is_array(x) else x, networks))
    np.testing.assert_allclose(together.value[0], alone.value, rtol=1e-4)
    np.testing.assert_allclose(together.stderr[0], alone.stderr, rtol=1e-3)


def test_new_numbers_do_not_compile_again():
    """Other data, keys and process parameters reuse the compiled program."""
    traces = []

    class Counting(eqx.Module):
        def __call__(self, log_snr, y, condition=None):
            traces.append(1)
            return -0.5 * y

    def run(kappa, seed):
        path = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa)
        data = mixture(3).sample(200, key=jax.random.key(seed))
        model = ex.EntropyMatching(Counting(), path, shape=(3,))
        return ex.neural_entropy(model, data, key=jax.random.key(seed), num_evaluations=300)

    run(1.0, 0)
    after_first = len(traces)
    run(0.5, 1)
    assert len(traces) == after_first


def test_any_shape_and_conditions():
    """Image-shaped data; a conditional network sees the condition of its own sample."""

    class Conditional(eqx.Module):
        def __call__(self, log_snr, y, condition=None):
            return jnp.zeros_like(y) + condition

    data = jnp.broadcast_to(jnp.asarray([1.0, 2.0]).reshape(2, 1, 1), (2, 4, 5))
    data = data + 0.01 * jax.random.normal(jax.random.key(3), data.shape)
    path = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.EntropyMatching(Conditional(), path, shape=(4, 5))
    estimate = ex.neural_entropy(
        model, data, condition=jnp.asarray([1.0, 2.0]), key=jax.random.key(0)
    )
    # int sigma^2/2 = B/2 times the mean of 20 c^2 over c = 1, 2.
    expected = float(path.noise_budget()) * 20 * 2.5
    assert abs(float(estimate.value) - expected) < 4 * float(estimate.mc_stderr)
    assert float(estimate.mc_stderr) < 0.05 * expected


@pytest.mark.slow(reason="two estimates for each cut-off")
@pytest.mark.parametrize("times", [None, [0.1, 0.4]], ids=["all", "given"])
def test_a_curve_from_the_noise_is_what_is_left(times):
    """Of the same evaluations, with and without its control variate."""
    data = mixture(3).sample(100, key=jax.random.key(0))
    functional = ex.entropy.EntropyProduction(exact())
    options = {"key": jax.random.key(1), "num_evaluations": 512, "times": times, "num_times": 9}
    curve = integrate(functional, data, **options)
    left = integrate(functional, data, from_noise=True, **options)
    total = float(curve.total.value)
    assert float(left.total.value) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(curve.cumulative + left.cumulative, total, rtol=1e-5)
    np.testing.assert_allclose(left.rate, curve.rate, rtol=1e-3, atol=1e-3)
    if times is None:
        assert left.stderr[-1] == curve.stderr[0] == 0
        assert float(left.stderr[0]) == pytest.approx(float(curve.total.stderr), rel=1e-4)


def test_a_refused_error_says_how_many_evaluations_are_needed():
    """With twenty times as many the error would be a tenth of the value."""
    number = {"num_evaluations": 1024, "num_effective": jnp.asarray(1.0)}
    estimate = ex.Estimate(jnp.asarray(1.06), jnp.asarray(0.48), jnp.asarray(0.48), **number)
    with pytest.raises(ValueError, match=r"take more `num_evaluations`.*About 32768 evaluations"):
        check_estimate(estimate)
