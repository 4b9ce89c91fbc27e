"""Every public function that takes numbers or samples converts them by one rule, or refuses them.

The rule is the table of `entropix._core.arrays`; here it is met at the entries. Refusals come
before anything is compiled, so that the whole grid is cheap.
"""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.datasets import Dataset, NormalScores, Standardisation, dequantise
from tests.helpers import as_shipped, small_mixture


N, DIM = 12, 2
KEY = jax.random.key(0)
GOOD = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)


def masked(shape):
    return np.ma.masked_greater(np.arange(np.prod(shape)).reshape(shape) / 8, -1.0)


BAD = {
    "masked": masked,
    "a list of masked": lambda shape: list(masked(shape)) if shape else masked(shape),
    "complex": lambda shape: np.ones(shape) * 1j,
    "dates": lambda shape: np.full(shape, "2020-01-01", "M8[D]"),
    "durations": lambda shape: np.ones(shape, "m8[s]"),
    "text": lambda shape: np.full(shape, "1.0"),
    "bytes": lambda shape: np.full(shape, b"1.0"),
    "records": lambda shape: np.ones(shape, [("a", float)]),
    "missing": lambda shape: np.full(shape, None),
    "keys": lambda shape: jax.random.split(KEY, shape) if shape else KEY,
    "beyond float32": lambda shape: np.linspace(1e300, 2e300, math.prod(shape)).reshape(shape),
    "below float32": lambda shape: np.linspace(1e-300, 2e-300, math.prod(shape)).reshape(shape),
}


@functools.cache
def setting():
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=1.0)
    gaussian = ex.Gaussian(np.zeros(DIM), np.eye(DIM))
    network = ex.FourierMLP(DIM, key=KEY, widths=(4,), num_features=2, condition_dim=1)
    exact = ex.ExactModel(gaussian, process)
    line = ex.ExactModel(ex.Gaussian(np.zeros(1), np.eye(1)), process)
    return process, gaussian, exact, ex.EntropyMatching(network, process), line


def of_samples():
    """Functions of samples: their name, the argument, and the call."""
    process, _, model, trained, line = setting()
    labels = np.zeros((N, 1), np.float32)

    def own(function, argument="data", **options):
        return function, argument, lambda v: function(model, v, key=KEY, **options)

    yield own(ex.neural_entropy)
    yield own(ex.entropy_curve)
    yield own(ex.entropy.entropy_rates)
    yield own(ex.differential_entropy)
    yield own(ex.transport.geodesic_deviation)
    yield own(ex.speed_limit)
    yield own(ex.log_prob, "x")
    yield own(ex.path_entropy, "x")
    yield own(ex.entropy.fluctuation_theorem, "x")
    yield own(ex.entropy.path_log_ratio, "x")
    yield own(ex.density.bits_per_dimension, "images")
    yield own(ex.information.entropic_time, cutoff=0.1)
    yield own(ex.critical_times, num_points=10)
    yield own(ex.transport.speed_accuracy, shift=0.1)
    for function in (ex.path_kl, ex.kl_divergence):
        yield function, "data", lambda v, f=function: f(model, model, v, key=KEY)
    f = ex.total_correlation
    yield f, "data", lambda v: ex.total_correlation(model, [line, line], v, key=KEY)
    f = ex.mutual_information
    yield f, "data", lambda v: ex.mutual_information(trained, v, labels, key=KEY)
    f = ex.information.conditional_mutual_information
    yield f, "data", lambda v, f=f: f(trained, v, labels, labels, key=KEY)
    estimators = (ex.estimators.integrate, ex.estimators.integrate_parts)
    for f in (ex.entropy.path_functional, *estimators):
        yield f, "data", lambda v, f=f: f(ex.entropy.EntropyProduction(model), v, key=KEY)
    yield own(ex.optimise.KineticAction)
    yield own(ex.optimise.EstimatorVariance, cutoff=0.1)
    yield own(ex.optimise.ScoreOptimalLength)
    yield own(ex.optimise.EntropicTime, cutoff=0.1)
    yield own(ex.optimise.posterior_curve)
    f = ex.optimise.SamplerError
    yield f, "data", lambda v, f=f: f(model, 4, 0.1, v, key=KEY)
    f = ex.optimise.UnmaskingError
    tokens = ex.models.ExactDiscrete(np.zeros((2,) * DIM), ex.Masking(2, ex.LinearSchedule()))
    yield f, "data", lambda v, f=f: f(tokens, 4, v, key=KEY)
    yield ex.fit, "data", lambda v: ex.fit(trained, v, key=KEY, steps=1)
    keys = jax.random.split(KEY, 2)
    f = ex.fit_ensemble
    yield f, "data", lambda v: ex.fit_ensemble(lambda key: trained, v, keys=keys, steps=1)
    yield ex.solve_forward, "x", lambda v: ex.solve_forward(process, v, key=KEY)
    yield ex.solve_flow, "x", lambda v: ex.solve_flow(model, v)
    yield ex.solve_reverse, "y", lambda v: ex.solve_reverse(model, v, key=KEY)
    yield ex.transport.flow_action, "x", lambda v: ex.transport.flow_action(model, v)
    pairs = {
        ex.wasserstein: {},
        ex.sinkhorn_divergence: {},
        ex.transport.sliced_wasserstein: {"key": KEY},
        ex.transport.displacement_interpolation: {"t": 0.5},
        ex.transport.static_bridge: {"epsilon": 1.0},
        ex.transport.schroedinger_bridge: {"key": KEY, "epsilon": 1.0},
    }
    information = ex.information
    pairs |= {ex.estimate_mutual_information: {"key": KEY}, information.estimate_kl: {"key": KEY}}
    pairs |= {information.check_pair: {}}
    for function, options in pairs.items():
        yield function, "x", lambda v, f=function, o=options: f(v, GOOD, **o)
        yield function, "y", lambda v, f=function, o=options: f(GOOD, v, **o)
    given = information.estimate_conditional_mutual_information
    for name in ("x", "y", "z"):
        arrays = dict.fromkeys("xyz", GOOD)
        yield given, name, lambda v, n=name, a=arrays: given(**a | {n: v}, key=KEY)
    for function in (information.estimate_total_correlation, information.estimate_entropy):
        yield function, "x", lambda v, f=function: f(v, key=KEY)
    f = ex.transport.wasserstein_null
    yield f, "x", lambda v, f=f: f(v, key=KEY)
    yield ex.Empirical, "points", ex.Empirical
    yield ex.PathBound, "reference", lambda v: ex.PathBound(reference=v)
    f = ex.GaussianScaling
    yield f, "data", lambda v: ex.GaussianScaling.from_data(v, process)
    yield Standardisation, "points", Standardisation.per_feature
    yield Standardisation, "points", Standardisation.global_scale
    yield Standardisation, "x", Standardisation.identity(DIM).forward
    yield NormalScores, "points", NormalScores.fit
    scores = NormalScores([[0.0, 1.0]] * DIM, [[-1.0, 1.0]] * DIM)
    for method in (scores.forward, scores.inverse, scores.log_jacobian):
        yield NormalScores, "x", method
    yield dequantise, "points", lambda v: dequantise(v, key=KEY)
    for distribution in (setting()[1], small_mixture(), ex.Empirical(GOOD).diffused(process, 0.5)):
        yield type(distribution), "x", distribution.log_prob
        yield type(distribution), "x", distribution.score


def of_others():
    """Functions of other arrays and numbers: the name, the argument, its shape, and the call."""
    process, gaussian, model, trained, _ = setting()
    condition = functools.partial(ex.sample, trained, key=KEY, num_samples=N)
    yield ex.sample, "condition", (N, 1), lambda v: condition(condition=v)
    yield ex.sample, "times", (3,), lambda v: ex.sample(model, key=KEY, num_samples=2, times=v)
    path = functools.partial(ex.solve_forward, process, GOOD, key=KEY)
    yield ex.solve_forward, "times", (3,), lambda v: path(times=v)
    yield ex.solve_forward, "save", (3,), lambda v: path(save=v)
    entropy = functools.partial(ex.path_entropy, model, GOOD, key=KEY)
    yield ex.path_entropy, "save", (3,), lambda v: entropy(save=v)
    curve = functools.partial(ex.entropy_curve, model, GOOD, key=KEY)
    yield ex.entropy_curve, "times", (3,), lambda v: curve(times=v)
    yield ex.entropy_curve, "cutoff", (), lambda v: curve(cutoff=v)
    yield (
        ex.neural_entropy,
        "condition",
        (N, 1),
        lambda v: ex.neural_entropy(trained, GOOD, key=KEY, condition=v),
    )
    bits = functools.partial(ex.density.bits_per_dimension, model, GOOD, key=KEY)
    yield ex.density.bits_per_dimension, "width", (), lambda v: bits(width=v)
    yield ex.density.bits_per_dimension, "transform[0]", (), lambda v: bits(transform=(v, 1.0))
    shift = functools.partial(ex.transport.speed_accuracy, model, GOOD, key=KEY)
    yield ex.transport.speed_accuracy, "shift", (DIM,), lambda v: shift(shift=v)
    speed = ex.optimise.constant_speed
    yield speed, "rate", (3,), lambda v: speed(process, (np.linspace(0, 1, 3), v))
    fit = functools.partial(ex.fit, trained, GOOD, key=KEY, steps=1, batch_size=4)
    yield ex.fit, "condition", (N, 1), lambda v: fit(condition=v)
    yield ex.fit, "learning_rate", (), lambda v: fit(learning_rate=v)
    clip = ex.training.RelativeClip
    yield clip, "ratio", (), lambda v: clip(v)
    for loss in (ex.training.denoising_loss, ex.training.relative_denoising_loss):
        yield loss, "x", (DIM,), lambda v, f=loss: f(model, 0.5, v, GOOD[0])
        yield loss, "z", (DIM,), lambda v, f=loss: f(model, 0.5, GOOD[0], v)
    moved = ex.transport.displacement_interpolation
    yield moved, "t", (), lambda v: moved(GOOD, GOOD, v)

    shapes = {"m1": (DIM,), "C1": (DIM, DIM), "m2": (DIM,), "C2": (DIM, DIM)}
    moments = {name: np.zeros(s) if len(s) == 1 else np.eye(DIM) for name, s in shapes.items()}
    distance, geodesic = ex.bures_wasserstein, ex.transport.bures_geodesic
    for name, shape in shapes.items():
        yield distance, name, shape, lambda v, n=name: distance(**moments | {n: v})
        yield geodesic, name, shape, lambda v, n=name: geodesic(**moments | {n: v}, t=0.5)
    yield ex.Gaussian, "mean", (DIM,), lambda v: ex.Gaussian(v, np.eye(DIM))
    yield ex.Gaussian, "covariance", (DIM, DIM), lambda v: ex.Gaussian(np.zeros(DIM), v)
    shapes = {"weights": (3,), "means": (3, DIM), "stds": (3, DIM)}
    given = {name: np.ones(shape) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        mixture = ex.GaussianMixture
        yield mixture, name, shape, lambda v, n=name: ex.GaussianMixture(**given | {n: v})
    bridge = ex.transport.GaussianBridge
    yield bridge, "epsilon", (), lambda v: bridge(gaussian, gaussian, epsilon=v)
    yield ex.MonotoneSchedule, "log_rates", (4,), lambda v: ex.MonotoneSchedule(v, 1.0)
    linear = ex.LinearSchedule()
    yield ex.VariancePreserving, "kappa", (), lambda v: ex.VariancePreserving(linear, kappa=v)
    yield ex.StraightLine, "sigma0", (), ex.StraightLine
    yield ex.VarianceExploding, "sigma_max", (), lambda v: ex.VarianceExploding(0.01, v)
    yield Standardisation, "mean", (DIM,), lambda v: Standardisation(v, np.ones(DIM))
    yield Standardisation, "std", (DIM,), lambda v: Standardisation(np.ones(DIM), v)
    knots = np.tile([0.0, 1.0], (DIM, 1))
    yield NormalScores, "values", (DIM, 2), lambda v: NormalScores(v, knots)
    yield NormalScores, "scores", (DIM, 2), lambda v: NormalScores(knots, v)


def entries():
    return [(f, a, (N, DIM), call) for f, a, call in of_samples()] + list(of_others())


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_array_of_real_numbers_is_refused_everywhere(kind, x32):
    remedy = "jax_enable_x64" if "float32" in kind else "real numbers"
    wrong = []
    with as_shipped():
        for function, argument, shape, call in entries():
            try:
                call(BAD[kind](shape))
            except ValueError as error:
                message = str(error)
                if f"`{argument}`" in message and remedy in message and "\n" not in message:
                    continue
            except Exception as error:
                message = f"{type(error).__name__} {error}"
            else:
                message = "accepted"
            wrong.append(f"{function.__name__}, `{argument}`: {message}")
    assert not wrong, "\n".join(wrong)


def test_the_table_is_complete():
    """A public function that takes samples has an entry above."""
    arguments = {"data", "x", "y", "images", "points", "m1", "rate", "condition", "covariance"}
    # A number of devices, one example, results that only hold arrays, and parts of estimators,
    # which take arrays.
    others = {"make_mesh", "network_size", "curve_with_end_term", "error_difference"}
    others |= {"check_ends", "end_points", "judge_ends", "judge_sizes", "resolved_points"}
    others |= {"learn_proposal", "reference_of", "call_network", "check_parts"}
    others |= {"check_example_shape"}
    others |= {"schedule_cost", "unbiased_w2_bound", "from_diffusers"}
    others |= {"describe"}  # data as a Dataset takes them, in their own precision
    known = {function.__name__ for function, *_ in entries()}
    packages = [ex, *(getattr(ex, name) for name in dir(ex) if inspect.ismodule(getattr(ex, name)))]
    missing = []
    for package in packages:
        for name, value in inspect.getmembers(package):
            if not inspect.isfunction(value) or name.startswith("_") or name in known | others:
                continue
            if value.__module__.startswith("entropix"):
                found = arguments & set(inspect.signature(value).parameters)
                missing += [f"{package.__name__}.{name}: {sorted(found)}"] if found else []
    assert not missing


ODD = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    "big-endian": lambda x: x.astype(">f8"),
    "longdouble": lambda x: x.astype(np.longdouble),
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "Fortran": np.asfortranarray,
    "list": lambda x: x.tolist(),
    "unmasked": lambda x: np.ma.masked_array(x, False),
    "integers": lambda x: np.asarray(x, np.int32),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_holds_real_numbers_is_accepted(kind):
    """At a distance, a density and a data set; one compilation for all kinds."""
    points = np.arange(24).reshape(12, 2) % np.array([5, 3])  # exact in every one of the dtypes
    x = ODD[kind](points.astype(np.float32))
    plain, shifted = points.astype(np.float32), points[::-1] + np.float32(0.5)
    gaussian = setting()[1]
    with as_shipped():
        value, expected = (ex.wasserstein(p, shifted).value for p in (x, plain))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        value, expected = gaussian.log_prob(x), gaussian.log_prob(plain)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    data = Dataset.from_array(x)
    np.testing.assert_array_equal(data.points, points)
    assert data.points.dtype.isnative


def test_a_model_does_not_follow_the_array_it_was_made_of():
    """JAX may take over the memory of an array: changing it later must change nothing."""
    memory = np.zeros(2**16 + 64, np.float32)
    start = (-memory.ctypes.data % 64) // 4  # an address for which JAX would not copy
    points = memory[start : start + 2**16].reshape(-1, 2)
    points[:] = np.arange(len(points))[:, None]
    model = ex.Empirical(points)
    points[:] = 7.0
    assert float(model.points[3, 0]) == 3.0
