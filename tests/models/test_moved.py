"""The same denoiser under another process: a perfect model of any class stays perfect."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import (
    KINDS,
    PROCESSES,
    all_finite,
    as_shipped,
    finite_difference,
    numbers,
    quick,
    quick_jit,
)
from tests.models.conditional import ConditionalGaussian
from tests.models.groups import Groups, perfect_models


def vp(kappa=1.0):
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa)


# Each kind of end on either side.
CYCLE = ["vpx-rf", "rf-sl", "sl-ve", "ve-cosine", "cosine-subvp", "subvp-path-module"]
PAIRS = [*CYCLE, "path-module-vpx", "ve-rf", "vpx-ve"]


def pair(names):
    for old in KINDS:
        if names.startswith(f"{old}-") and names[len(old) + 1 :] in KINDS:
            return PROCESSES[old](), PROCESSES[names[len(old) + 1 :]]()
    raise KeyError(names)


def common_times(old, new, count=12):
    """Times of the new process at log-SNRs that both processes reach."""
    ends = [max(float(p.log_snr(p.t1)), -12.0) for p in (old, new)]
    levels = np.linspace(max(ends) + 1e-3, 14.0, count)
    return new.time_of_log_snr(jnp.asarray(levels, float))


@quick_jit
def all_fields(models, process, times, draws):
    """Weighted fields of all models and in closed form at states of the process."""

    def at(s, z):
        y = process.scale(s) * z[:1] + process.std(s) * z[1:]
        weights = jnp.stack([process.std(s), process.std(s), jnp.ones_like(s)])[:, None]

        def of(model):
            return model.score(s, y), model.entropy_field(s, y), model.velocity(s, y)

        everything = [of(model) for model in models] + [Groups().fields(process, s, y)]
        return jnp.stack([weights * jnp.stack(fields) for fields in everything])

    fields = jax.vmap(at, out_axes=1)(times, draws)
    return fields[:-1], fields[-1]


@pytest.mark.parametrize("names", quick(["vpx-rf"], PAIRS))
def test_a_perfect_model_stays_perfect(names, x64, getkey):
    """Score, entropy field and velocity of every class equal those of the exact model."""
    old, new = pair(names)
    models = perfect_models(old)
    moved = [model.with_process(new) for model in models.values()]
    assert all(m.process == new and m.shape == (1,) for m in moved)
    times = common_times(old, new)
    found, truth = all_fields(moved, new, times, jax.random.normal(getkey(), (len(times), 2)))
    for kind, fields in zip(models, found, strict=True):
        np.testing.assert_allclose(fields, truth, rtol=1e-9, atol=1e-9, err_msg=kind)


@pytest.mark.parametrize("name", quick(["rf"], ["ve", "path-module"]))
def test_the_closed_form_is_the_exact_model(name, x64, getkey):
    """The reference of the tests of this file."""
    process = PROCESSES[name]()
    exact = ex.ExactModel(Groups().distribution, process)
    times = common_times(process, process)
    found, truth = all_fields([exact], process, times, jax.random.normal(getkey(), (len(times), 2)))
    np.testing.assert_allclose(found[0], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.slow  # the same programs as above in the other precision
@pytest.mark.parametrize("names", ["vpx-rf", "sl-ve"])
def test_single_precision(names, x32, getkey):
    old, new = pair(names)
    models = perfect_models(old)
    moved = [model.with_process(new) for model in models.values()]
    times = common_times(old, new)
    found, truth = all_fields(moved, new, times, jax.random.normal(getkey(), (len(times), 2)))
    for kind, fields in zip(models, found, strict=True):
        np.testing.assert_allclose(fields, truth, rtol=1e-3, atol=1e-3, err_msg=kind)


SLOPES = ["ve-vpx", "rf-path-module", "vpx-sl"]


@pytest.mark.parametrize("names", quick(["ve-vpx"], SLOPES))
def test_gradient_in_the_new_process(names, x64, request):
    """That of the closed form; in the slow cases finite differences as well."""
    old, new = pair(names)
    flat, rebuild = numbers(new)
    models = [m for k, m in perfect_models(old).items() if k in ("noise", "scaled")]
    times = common_times(old, new, 5)[1:-1]

    def weighed(v):
        process = rebuild(v)

        def at(s):
            y = jnp.asarray([0.8])
            moved = [m.with_process(process) for m in models]
            fields = [(m.entropy_field(s, y), m.velocity(s, y)) for m in moved]
            return jnp.stack([e + v for e, v in (*fields, Groups().fields(process, s, y)[1:])])

        return jnp.squeeze(jax.vmap(at)(times), -1)

    slopes = quick_jit(jax.jacfwd(weighed))(flat)
    for index in range(len(models)):
        np.testing.assert_allclose(slopes[:, index], slopes[:, -1], rtol=1e-7, atol=1e-7)
    if request.node.get_closest_marker("slow"):
        differences = finite_difference(quick_jit(jax.vmap(weighed)), flat)
        size = np.max(np.abs(differences))
        np.testing.assert_allclose(slopes, differences, rtol=1e-6, atol=1e-8 * size)


ENDS = ["vpx-sl", "sl-vpx", "rf-cosine", "ve-sl", "sl-subvp"]


@pytest.mark.parametrize("names", quick(["rf-cosine"], ENDS))
def test_both_ends_in_single_precision(names, x32):
    """Correct where formulas are 0/0, with finite gradients in state, network and process."""
    old, new = pair(names)
    model = perfect_models(old)["scaled"]
    flat, rebuild = numbers(new)

    @quick_jit
    def at(size, v, s, y):
        def velocity(size, v, y):
            known = eqx.tree_at(lambda m: m.network.size, model, size)
            return jnp.sum(known.with_process(rebuild(v)).velocity(s, y))

        field = model.with_process(new).entropy_field(s, y)
        truth = Groups().fields(new, s, y)[2]
        return field, truth, jax.value_and_grad(velocity, argnums=(0, 1, 2))(size, v, y)

    left = 5 * np.exp(min(float(old.log_snr(old.t1)), 0.0))  # by which the extrapolation may err
    for s in (new.t0, (new.t0 + new.t1) / 2, new.t1):
        field, truth, others = at(jnp.ones(()), flat, s, jnp.ones(1))
        assert all_finite(others)
        assert all_finite(field) or (not new.is_finite and s == new.t0)
        np.testing.assert_allclose(others[0], truth[0], rtol=1e-4, atol=1e-5 + left)


# ---------------------------------------------------------------------------- numbers of THEORY


class Linear(eqx.Module):
    """The entropy field of N(0, v) under VP, kappa = 1, as a function of the log-SNR."""

    v: float = eqx.field(static=True, default=0.09)
    dim: int = eqx.field(static=True, default=1)

    def __call__(self, log_snr, y, condition=None):
        signal = jax.nn.sigmoid(log_snr)  # mu^2, of mu^2 + Sigma^2 = 1
        return (1 - 1 / (1 + (self.v - 1) * signal)) * y


def total_entropy(v, process):
    """S_tot of N(0, v) under a static equilibrium."""
    kappa_squared = 1 / process.equilibrium_precision(process.t1)

    def divergence(variance):
        ratio = variance / kappa_squared
        return (ratio - 1 - jnp.log(ratio)) / 2

    end = process.scale(process.t1) ** 2 * v + process.var(process.t1)
    return divergence(v) - divergence(end)


def test_entropy_of_a_moved_network(x64):
    """Its neural entropy and the gradient are those of the new process."""
    model = ex.EntropyMatching(Linear(), vp())
    nodes, weights = np.polynomial.legendre.leggauss(200)
    levels = jnp.asarray(40 * nodes)

    def entropy(kappa):
        process = vp(kappa)
        moved = model.with_process(process)
        start = process.log_snr(process.t1)
        at = start + (levels + 40) / 80 * (40 - start)

        def rate(level):
            s = process.time_of_log_snr(level)
            slope = moved.entropy_field(s, jnp.ones(1))[0]
            var = process.var(s)
            return var / 2 * slope**2 * (process.scale(s) ** 2 * 0.09 + var)

        return jnp.sum(weights * jax.vmap(rate)(at)) * (40 - start) / 2

    @quick_jit
    def slopes(kappa):
        true = jax.value_and_grad(lambda k: total_entropy(0.09, vp(k)))(kappa)
        return jax.value_and_grad(entropy)(kappa), true

    (value, slope), (truth, true_slope) = slopes(0.5)
    assert float(truth) == pytest.approx(0.1908, abs=2e-3)
    np.testing.assert_allclose(value, truth, rtol=1e-6)
    np.testing.assert_allclose(slope, true_slope, rtol=1e-5)


@pytest.mark.slow  # two estimators to compile
def test_estimates_of_a_moved_network():
    """S_NN and path KL by the public functions; without moving the field S_NN would be 0.388."""
    process = vp(0.5)
    moved = ex.EntropyMatching(Linear(), vp()).with_process(process)
    exact = ex.ExactModel(ex.Gaussian([0.0], [[0.09]]), process)
    data = 0.3 * jax.random.normal(jax.random.key(0), (4096, 1))
    options = {"key": jax.random.key(1), "num_evaluations": 1024}
    found = ex.neural_entropy(moved, data, **options)
    assert abs(float(found.value) - float(total_entropy(0.09, process))) < 4 * float(found.stderr)
    gap = ex.path_kl(moved, exact, data, **options)
    assert abs(float(gap.value)) < 1e-6


@pytest.mark.slow  # second derivatives of several models
@pytest.mark.parametrize("name", ["path-module", "ve"])
def test_action_of_a_moved_model(name, x64):
    """The objective of a schedule is the action of the data, and so is its gradient."""
    process = PROCESSES[name]()
    data = Groups().distribution.sample(16, key=jax.random.key(0))
    models = perfect_models(PROCESSES["vp"]())
    exact = ex.ExactModel(Groups().distribution, PROCESSES["vp"]())
    objectives = [
        ex.KineticAction(m, data, key=jax.random.key(1), num_times=24)
        for m in (models["scaled"], exact)
    ]
    flat, rebuild = numbers(process)

    @quick_jit
    def slopes(v):
        return [jax.value_and_grad(lambda v, o=o: o(rebuild(v)))(v) for o in objectives]

    (value, slope), (true_value, true_slope) = slopes(flat)
    # What VP does not reach, exp(-8) of the signal, is extrapolated on the way to 20 times the std.
    np.testing.assert_allclose(value, true_value, rtol=1e-5)
    np.testing.assert_allclose(slope, true_slope, rtol=1e-3, atol=1e-5 * np.max(np.abs(true_slope)))


# ---------------------------------------------------------------------------- outside the range


def test_below_the_range(x64):
    """A posterior mean that is linear in the state: exact to first order in the signal."""
    old, new = vp(), ex.RectifiedFlow()
    last = float(old.log_snr(old.t1))
    model = perfect_models(old)["entropy"].with_process(new)
    y = jnp.asarray([1.3])
    for level in (last - 0.1, last - 2.0, last - 20.0):
        s = new.time_of_log_snr(jnp.asarray(level))
        velocity, truth = model.velocity(s, y), Groups().fields(new, s, y)[2]
        np.testing.assert_allclose(velocity, truth, rtol=0, atol=5 * np.exp(last))
        # The size of the field is that of the signal: its entropy is finite.
        assert abs(float(model.entropy_field(s, y)[0])) < 5 * np.exp(level / 2)


def rising_std(s):
    return 0.1 + 0.9 * s


def falling_scale(s):
    return 1 - 0.9 * s


def test_above_the_range(x64):
    """The score is that of the data at the smallest noise of the original process."""
    old, new = ex.GaussianPath(falling_scale, rising_std), PROCESSES["vp"]()
    first = float(old.log_snr(old.t0))
    models = {k: m for k, m in perfect_models(old).items() if k in ("score", "scaled")}
    y = jnp.asarray([0.2])
    times = new.time_of_log_snr(jnp.asarray([first - 1e-9, first + 3.0]))

    @quick_jit
    def scores(s):
        moved = [m.with_process(new).score(s, y) for m in models.values()]
        return jnp.stack([*moved, Groups().fields(new, s, y)[0]])

    edge, beyond = (scores(s) for s in times)
    np.testing.assert_allclose(edge - edge[-1], 0.0, atol=1e-6)
    np.testing.assert_allclose(beyond - beyond[-1], 0.0, atol=0.05)


# ---------------------------------------------------------------------------- properties


def test_moves_collapse():
    """A to B to C is A to C; a move back, or to an equal process, returns the model itself."""
    a, b, c = PROCESSES["vp"](), ex.StraightLine(0.1), ex.RectifiedFlow()
    for model in perfect_models(a).values():
        assert eqx.tree_equal(
            model.with_process(b).with_process(c), model.with_process(c), typematch=True
        )
        assert model.with_process(b).with_process(PROCESSES["vp"]()) is model
        assert model.with_process(a) is model
        # Another number of the same process is another process.
        assert model.with_process(vp(0.5)).process == vp(0.5)


def test_prior_and_divergence():
    """They are those of the new process for any original process."""
    for (old, build), (new, other) in itertools.permutations(PROCESSES.items(), 2):
        if {old, new} <= set(KINDS):
            process = other()
            moved = ex.ScoreMatching(abs_network, build(), shape=(2, 3)).with_process(process)
            own = ex.ScoreMatching(abs_network, process, shape=(2, 3))
            assert moved.divergence == own.divergence
            assert moved.shape == own.shape
            assert eqx.tree_equal(moved.prior, own.prior)


def abs_network(log_snr, y, condition=None):
    return jnp.abs(y) if condition is None else condition * y


def test_conditions_guidance_and_temperature(x64):
    """Derived fields move with their models."""
    old, new = PROCESSES["vp"](), PROCESSES["ve"]()
    conditional = ConditionalGaussian(old, 0.3, 0.8, 1)
    inner = perfect_models(old)["score"]
    exact = ex.ExactModel(Groups().distribution, old)
    s, y, condition = 0.4, jnp.asarray([0.7]), jnp.asarray([0.6])
    poor = ex.ScoreMatching(abs_network, old, shape=(1,))

    @quick_jit
    def scores(s, y):
        return (
            [ex.models.Tempered(m, 0.5, 0.3).with_process(new).score(s, y) for m in (inner, exact)],
            [
                ex.models.Guided(conditional, 2.0, m).with_process(new).score(s, y, condition)
                for m in (inner, exact)
            ],
            [poor.with_process(new).score(s, y, c) for c in (1.0, 2.0, 3.0)],
        )

    tempered, guided, (one, two, three) = scores(s, y)
    np.testing.assert_allclose(*tempered, rtol=1e-9)
    np.testing.assert_allclose(*guided, rtol=1e-9)
    np.testing.assert_allclose(three - two, two - one, rtol=1e-9)
    assert float(two[0]) != float(one[0])


@pytest.fixture(scope="module")
def trained():
    network = eqx.filter_jit(ex.FourierMLP)(1, widths=(8,), key=jax.random.key(0))
    process = vp()
    data = 0.3 * jax.random.normal(jax.random.key(1), (256, 1))
    scaling = ex.GaussianScaling.from_data(data, process)
    model = ex.EntropyMatching(network, process, scaling)
    return model.with_process(ex.StraightLine(0.5)), data


def test_saved_and_loaded(trained, tmp_path):
    model, _ = trained
    ex.save(tmp_path / "model", model)
    loaded = ex.load(tmp_path / "model")
    assert eqx.tree_equal(model, loaded, typematch=True)
    assert eqx.tree_equal(loaded.with_process(vp()), model.model, typematch=True)


@pytest.mark.slow(reason="a training")
def test_a_moved_model_is_trained_under_the_new_process(trained):
    """The network learns N(0, 0.09), and the result can be used under both processes."""
    model, data = trained
    exact = ex.ExactModel(ex.Gaussian([0.0], [[0.09]]), model.process)
    times = model.process.time_of_log_snr(jnp.linspace(-4.0, 6.0, 8))

    @eqx.filter_jit
    def gap(model):
        def at(s):
            y = 0.7 * jnp.sqrt(model.process.scale(s) ** 2 * 0.09 + model.process.var(s))[None]
            difference = model.entropy_field(s, y) - exact.entropy_field(s, y)
            return model.process.var(s) * difference**2

        return jnp.sum(jax.vmap(at)(times))

    fitted = ex.fit(model, data, key=jax.random.key(2), steps=200).model
    assert float(gap(fitted)) < 0.1 * float(gap(model))
    assert eqx.tree_equal(fitted.process, model.process)
    assert fitted.with_process(vp()).process == vp()


def test_mistakes():
    moved = perfect_models(vp())["score"].with_process(ex.RectifiedFlow())
    with as_shipped(), pytest.raises(ValueError, match="`process` must be a Gaussian process"):
        moved.with_process(Groups())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`shape` must be given"):
        ex.ScoreMatching(abs_network, vp()).with_process(ex.RectifiedFlow()).prior  # noqa: B018
