"""A program is compiled once for a structure and a shape, never for new numbers, without callbacks.

Every public function that computes is called twice: with one set of inputs, and with another of the
same shapes: a new key, new data, other numbers in process, model and network. Nothing may be
compiled for the second, the making of its inputs included. No program of the first call may hold a
host callback, and a second process must find all of them in JAX's persistent cache, which stores no
program with a callback. A new public function must join the table.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import entropix as ex


_COMPILED: list[str] = []


@jax.monitoring.register_event_duration_secs_listener
def _listen(event: str, duration_secs: float, **_: str | int | float) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(event)


@pytest.fixture(autouse=True)
def _no_leftovers():
    """Numbers of one set of inputs, and no more than that, differ between the two calls."""
    yield
    _COMPILED.clear()


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Keys, data and modules whose numbers depend on `seed` and whose structure does not."""

    seed: int
    folder: Any = None

    @functools.cached_property
    def key(self):
        return jax.random.key(self.seed)

    @property
    def number(self) -> float:
        """A Python float near one."""
        return 1.0 + 0.07 * self.seed

    @functools.cached_property
    def x(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        return (self.number * rng.normal(size=(128, 2))).astype(np.float32)

    @functools.cached_property
    def y(self) -> np.ndarray:
        rng = np.random.default_rng(100 + self.seed)
        return (0.5 + rng.normal(size=(128, 2))).astype(np.float32)

    @property
    def labels(self) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[(self.x[:, 0] > 0).astype(int)]

    @functools.cached_property
    def process(self):
        schedule = ex.LinearSchedule(0.1, 12.0 * self.number)
        return ex.VariancePreserving(schedule, kappa=1 / self.number)

    @functools.cached_property
    def exact(self):
        covariance = [[self.number, 0.2], [0.2, 0.8]]
        return ex.ExactModel(ex.Gaussian([0.1, self.number], covariance), self.process)

    @functools.cached_property
    def other(self):
        covariance = [[self.number, -0.2], [-0.2, 0.8]]
        return ex.ExactModel(ex.Gaussian([0.0, self.number], covariance), self.process)

    @functools.cached_property
    def model(self):
        network = ex.FourierMLP(2, key=self.key, widths=(4,), num_features=4)
        scaling = ex.GaussianScaling.from_data(self.x, self.process)
        return ex.EntropyMatching(network, self.process, scaling)

    @functools.cached_property
    def conditional(self):
        inner = ex.FourierMLP(2, key=self.key, widths=(4,), num_features=4, condition_dim=3)
        network = ex.networks.ConditionDropout(inner, 2)
        scaling = ex.GaussianScaling.from_data(self.x, self.process)
        return ex.EntropyMatching(network, self.process, scaling)

    @functools.cached_property
    def twice_conditional(self):
        inner = ex.FourierMLP(2, key=self.key, widths=(4,), num_features=4, condition_dim=6)
        network = ex.networks.ConditionDropout(inner, (2, 2))
        scaling = ex.GaussianScaling.from_data(self.x, self.process)
        return ex.EntropyMatching(network, self.process, scaling)

    @functools.cached_property
    def learnable(self):
        rates = self.number * np.linspace(-1.0, 1.0, 4, dtype=np.float32)
        return ex.VariancePreserving(ex.MonotoneSchedule(rates, 9.0 * self.number), self.number)


def _one_component(index: int, i: Inputs):
    return ex.ExactModel(ex.Gaussian([0.1 * index], [[i.number]]), i.process)


def _member(key, kappa):
    process = ex.VariancePreserving(ex.LinearSchedule(), kappa)
    return ex.EntropyMatching(
        ex.FourierMLP(2, key=key, widths=(4,), num_features=4), process, shape=(2,)
    )


def _save_and_load(i: Inputs):
    path = i.folder / f"{i.seed}.eqx"
    ex.save(path, i.model)
    return ex.load(path)


def _tokens(i: Inputs):
    table = i.number * np.arange(8.0).reshape(2, 2, 2)
    return ex.models.ExactDiscrete(table, ex.Masking(2, ex.LinearSchedule(0.1, 10 * i.number)))


def _chain(i: Inputs):
    fields, couplings = i.number * np.arange(6.0).reshape(3, 2), i.number * np.eye(2)
    process = ex.Masking(2, ex.LinearSchedule(0.1, 10 * i.number))
    return ex.models.ExactChain(fields, couplings, process, periodic=True)


def _optimise(i: Inputs):
    objective = ex.optimise.EulerKL(i.number, 4, 0.01 * i.number)
    return ex.optimise_schedule(i.learnable, objective, key=i.key, steps=2, tolerance=1e-6 * i.seed)


def _halved(state, level, condition):
    return state / 2


def _score_norm(s, y, condition):
    return (y**2).sum()


def _path_functional(along: str, i: Inputs):
    functional = ex.entropy.PathFunctional(_score_norm, i.process)
    options: dict[str, Any] = {"num_evaluations": 512}
    if along != "marginals":
        options = {"num_steps": 4, "num_evaluations": 64}
    model = i.exact if along == "flow" else None
    return ex.entropy.path_functional(
        functional, i.x, key=i.key, along=along, model=model, cutoff=0.1 * i.number, **options
    )


def _scale(s):
    return 1 - 0.9 * s


def _std(s):
    return s**0.5


FEW: dict[str, Any] = {"num_evaluations": 512}
TINY: dict[str, Any] = {
    "recipe": ex.information.Recipe(folds=2, steps=2, width=4, depth=1, num_levels=2)
}

# Short functions that estimators and solvers are made of, in one case.
PARTS = {"log_snr_of_std", "rates_along", "time_rule", "step_times", "uniform_levels"}
PARTS |= {"forward_times"}


@jax.jit
def _parts(process, number):
    times = ex.dynamics.forward_times(process, 8)
    return (
        ex.estimators.log_snr_of_std(process, 0.1 * number),
        ex.estimators.rates_along(times, times**2, times),
        ex.transport.time_rule(process, number, 8),
        ex.optimise.step_times(process, 4, 0.1 * number),
        ex.optimise.uniform_levels(process, 4),
    )


# Name, or "name: variant", of what is called, and the call.
CASES: dict[str, Callable[[Inputs], Any]] = {
    "TimeChanged": lambda i: ex.TimeChanged(
        i.process, ex.processes.MonotoneWarp(np.linspace(0, i.number, 4))
    ).sigma_squared(0.5 * i.number),
    "bits_per_dimension": lambda i: ex.density.bits_per_dimension(
        i.model, np.round(i.x), key=i.key, method=ex.PathBound(16)
    ),
    "bures_geodesic": lambda i: ex.transport.bures_geodesic(
        i.x[0], np.eye(2) * i.number, i.y[0], np.eye(2), 0.3 * i.number
    ),
    "bures_wasserstein": lambda i: ex.bures_wasserstein(
        i.x[0], np.eye(2) * i.number, i.y[0], np.eye(2)
    ),
    "conditional_mutual_information": lambda i: ex.information.conditional_mutual_information(
        i.twice_conditional, i.x, i.labels, i.labels, key=i.key, **FEW
    ),
    "constant_speed": lambda i: ex.optimise.constant_speed(
        i.process,
        ex.optimise.EntropicTime(i.exact.distribution, cutoff=0.01 * i.number),
        num_knots=8,
    ),
    "critical_times": lambda i: ex.critical_times(
        i.conditional,
        i.x,
        num_points=20,
        labels=i.labels,
        marginal_model=i.exact,
        key=i.key,
        num_times=33,
        **FEW,
    ),
    "critical_times: data": lambda i: ex.critical_times(i.x),
    "denoising_loss": lambda i: ex.training.denoising_loss(
        i.model, 0.3 * i.number, *jax.device_put((i.x[0], i.y[0]))
    ),
    "differential_entropy": lambda i: ex.differential_entropy(
        i.model, i.x, key=i.key, method=ex.PathBound(16)
    ),
    "displacement_interpolation": lambda i: ex.transport.displacement_interpolation(
        i.x, i.y, 0.3 * i.number
    ),
    "displacement_interpolation: sinkhorn": lambda i: ex.transport.displacement_interpolation(
        i.x, i.y, 0.3 * i.number, method="sinkhorn"
    ),
    "entropic_time": lambda i: ex.information.entropic_time(
        i.exact, i.x, key=i.key, cutoff=0.01 * i.number, **FEW
    ),
    "entropy_curve": lambda i: ex.entropy_curve(i.model, i.x, key=i.key, **FEW),
    "entropy_curve: per coordinate": lambda i: ex.entropy_curve(
        i.model, i.x, key=i.key, per_coordinate=ex.estimators.CosineTransform(bands=True), **FEW
    ),
    "entropy_rates": lambda i: ex.entropy.entropy_rates(i.exact, i.x, key=i.key, **FEW),
    "fit": lambda i: ex.fit(i.model, i.x, key=i.key, steps=4, learning_rate=1e-3 * i.number),
    "fit: options": lambda i: ex.fit(
        i.model,
        i.x,
        key=i.key,
        steps=4,
        loss=ex.Denoising(times=ex.training.LogisticTimes(0.1 * i.number, i.number)),
        optimiser=ex.training.ClippedAdam(
            ex.training.WarmupCosine(1e-3 * i.number, 4), 2.0 * i.number
        ),
        holdout=ex.Holdout(i.y, patience=1),
        ema_decay=0.9 / i.number,
        callback=lambda step, metrics, model: model().process.kappa < 0,
        measure=lambda model: 2.0 * model.process.kappa + i.number,
        measure_at=[0, 2],
    ),
    "fit_ensemble": lambda i: ex.fit_ensemble(
        _member,
        i.x,
        keys=jax.random.split(i.key),
        over={"kappa": [i.number, 0.5]},
        steps=4,
    ),
    "flow_action": lambda i: ex.transport.flow_action(i.exact, i.x, num_steps=4),
    "fluctuation_theorem": lambda i: ex.entropy.fluctuation_theorem(
        i.exact, i.x, key=i.key, num_steps=4
    ),
    "geodesic_deviation": lambda i: ex.transport.geodesic_deviation(
        i.exact, i.x, key=i.key, num_samples=32, num_times=4, num_speeds=64
    ),
    "integrate": lambda i: ex.estimators.integrate(
        ex.entropy.EntropyProduction(i.exact), i.x, key=i.key, num_evaluations=512
    ),
    "integrate_parts": lambda i: ex.entropy_curve(
        i.exact, i.x, key=i.key, per_coordinate=True, num_evaluations=512
    ),
    "from_denoiser": lambda i: ex.models.from_denoiser(
        _halved, shape=(2,), level=np.linspace(0.99, 0.01 * i.number, 8)
    ).score(0.5, jax.device_put(i.x[0])),
    "check_pair": lambda i: ex.information.check_pair(i.x, i.y),
    "estimate_conditional_mutual_information": lambda i: (
        ex.information.estimate_conditional_mutual_information(
            i.x, i.y, i.labels, key=i.key, **TINY
        )
    ),
    "estimate_entropy": lambda i: ex.information.estimate_entropy(i.x, key=i.key, **TINY),
    "estimate_kl": lambda i: ex.information.estimate_kl(i.x, i.y, key=i.key, **TINY),
    "estimate_mutual_information": lambda i: ex.estimate_mutual_information(
        i.x, i.y, key=i.key, **TINY
    ),
    "estimate_total_correlation": lambda i: ex.information.estimate_total_correlation(
        i.x, key=i.key, **TINY
    ),
    "kl_divergence": lambda i: ex.kl_divergence(i.exact, i.other, i.x, key=i.key, **FEW),
    "log_prob": lambda i: ex.log_prob(i.model, i.x, key=i.key, method=ex.PathBound(16)),
    "log_prob: prior": lambda i: ex.log_prob(
        i.model,
        i.x,
        key=i.key,
        method=ex.PathBound(16),
        prior=i.exact.prior,
        cutoff=0.01 * i.number,
    ),
    "log_prob: AnyOrder": lambda i: ex.log_prob(
        _chain(i), np.zeros((4, 3)), key=i.key, method=ex.density.AnyOrder(2)
    ),
    "log_prob: DenoisingError": lambda i: ex.log_prob(
        i.model, i.x, key=i.key, method=ex.DenoisingError(16)
    ),
    "log_prob: per coordinate": lambda i: ex.log_prob(
        i.model, i.x, key=i.key, method=ex.PathBound(32), per_coordinate=True
    ),
    "log_prob: Jarzynski": lambda i: ex.log_prob(
        i.model, i.x, key=i.key, method=ex.density.Jarzynski(2, 4)
    ),
    "log_prob: ProbabilityFlow": lambda i: ex.log_prob(
        i.model, i.x, key=i.key, method=ex.ProbabilityFlow("hutchinson", num_probes=2)
    ),
    "mutual_information": lambda i: ex.mutual_information(
        i.conditional, i.x, i.labels, key=i.key, **FEW
    ),
    "mutual_information: pointwise": lambda i: ex.mutual_information(
        i.conditional, i.x, i.labels, key=i.key, pointwise=True, num_evaluations=4096
    ),
    "neural_entropy": lambda i: ex.neural_entropy(i.model, i.x, key=i.key, **FEW),
    "neural_entropy: tokens": lambda i: ex.neural_entropy(
        _tokens(i), (np.asarray(i.x)[:, :1] > np.zeros(3)).astype(float), key=i.key, **FEW
    ),
    "optimise_schedule": _optimise,
    "path_entropy": lambda i: ex.path_entropy(i.exact, i.x, key=i.key, num_steps=4).mean,
    "path_entropy: Langevin": lambda i: (
        ex.path_entropy(
            ex.Langevin(ex.processes.Harmonic(i.number), i.number),
            i.x,
            key=i.key,
            num_steps=4,
            log_p0=np.zeros(128, np.float32),
            log_pT=np.zeros(128, np.float32),
        ).mean
    ),
    "path_functional": functools.partial(_path_functional, "marginals"),
    "path_functional: sde": functools.partial(_path_functional, "sde"),
    "path_functional: flow": functools.partial(_path_functional, "flow"),
    "path_kl": lambda i: ex.path_kl(i.exact, i.other, i.x, key=i.key, **FEW),
    "path_log_ratio": lambda i: ex.entropy.path_log_ratio(
        i.model, i.x, key=i.key, num_paths=2, num_steps=4
    ),
    "posterior_curve": lambda i: ex.optimise.posterior_curve(
        i.model, i.x, key=i.key, num_samples=64, num_log_snr=9
    ),
    "relative_denoising_loss": lambda i: ex.training.relative_denoising_loss(
        i.model, 0.3 * i.number, *jax.device_put((i.x[0], i.y[0]))
    ),
    "sample": lambda i: ex.sample(i.model, key=i.key, num_samples=8, num_steps=4),
    "sample: ode": lambda i: ex.sample(
        i.model, key=i.key, num_samples=8, num_steps=4, method="ode", variance=i.number
    ),
    "sample: log_prob": lambda i: ex.sample(
        i.model, key=i.key, num_samples=8, num_steps=4, method="ode", log_prob=True
    ),
    "sample: tokens": lambda i: ex.sample(_tokens(i), key=i.key, num_samples=8, num_steps=4),
    "sample: DDIM": lambda i: ex.sample(
        i.model, key=i.key, num_samples=8, num_steps=4, solver=ex.dynamics.DDIM(0.1 * i.number)
    ),
    "sample: EDMHeun": lambda i: ex.sample(
        i.model, key=i.key, num_samples=8, num_steps=4, solver=ex.dynamics.EDMHeun(0.1 * i.number)
    ),
    "sample: DPMSolver": lambda i: ex.sample(
        i.model, key=i.key, num_samples=8, num_steps=4, solver=ex.dynamics.DPMSolver()
    ),
    "sample: PredictorCorrector": lambda i: ex.sample(
        i.model,
        key=i.key,
        num_samples=8,
        num_steps=4,
        solver=ex.dynamics.PredictorCorrector(0.1 * i.number),
    ),
    "save": _save_and_load,
    "load": _save_and_load,
    "schroedinger_bridge": lambda i: ex.transport.schroedinger_bridge(
        i.x, i.y, key=i.key, epsilon=i.number, num_iterations=2, steps=2, batch_size=16, num_steps=4
    ),
    "sinkhorn_divergence": lambda i: ex.sinkhorn_divergence(i.x, i.y, epsilon=0.5 * i.number),
    "sliced_wasserstein": lambda i: ex.transport.sliced_wasserstein(
        i.x, i.y, key=i.key, num_projections=8
    ),
    "solve_flow": lambda i: ex.solve_flow(i.model, i.x, num_steps=4),
    "solve_flow: times": lambda i: ex.solve_flow(
        i.model, i.x, times=np.linspace(0.01 * i.number, 0.9, 4), save="steps"
    ),
    "solve_forward": lambda i: ex.solve_forward(i.process, i.x, key=i.key, num_steps=4),
    "solve_forward: save": lambda i: ex.solve_forward(
        i.process, i.x, key=i.key, num_steps=4, save=[0.31 * i.number, 0.7]
    ),
    "solve_forward: dense": lambda i: ex.solve_forward(
        i.process, i.x, key=i.key, num_steps=4, dense=True
    ).evaluate(0.3 * i.number),
    "solve_reverse": lambda i: ex.solve_reverse(i.model, i.y, key=i.key, num_steps=4),
    "speed_accuracy": lambda i: ex.transport.speed_accuracy(
        i.exact,
        i.x,
        shift=0.1 * i.number,
        key=i.key,
        num_samples=32,
        num_steps=4,
        num_times=4,
        num_speeds=64,
    ),
    "speed_limit": lambda i: ex.speed_limit(
        i.exact, i.x, key=i.key, num_times=4, num_samples=64, max_exact=32, **FEW
    ),
    "static_bridge": lambda i: ex.transport.static_bridge(i.x, i.y, epsilon=i.number),
    "total_correlation": lambda i: ex.total_correlation(
        i.exact, [_one_component(k, i) for k in range(2)], i.x, key=i.key, **FEW
    ),
    "wasserstein": lambda i: ex.wasserstein(i.x, i.y),
    "wasserstein: line": lambda i: ex.wasserstein(i.x[:, :1], i.y[:, :1]),
    "wasserstein: sinkhorn": lambda i: ex.wasserstein(i.x, i.y, method="sinkhorn"),
    "wasserstein_null": lambda i: ex.transport.wasserstein_null(i.x, key=i.key, num_splits=2),
    "datasets.dequantise": lambda i: ex.datasets.dequantise(
        np.round(i.x) * i.number, key=i.key, width=i.number
    ),
    "datasets.load": lambda i: ex.datasets.load("mixture2", key=i.key, num_samples=16),
    "datasets.NormalScores": lambda i: [
        method(i.x)
        for scores in [ex.datasets.NormalScores.fit(i.x)]
        for method in (scores.forward, scores.log_jacobian, scores.inverse)
    ],
    "models.GaussianPart": lambda i: ex.models.GaussianPart.from_data(i.x),
    "datasets.paper_mixture": lambda i: ex.datasets.paper_mixture(2),
    "objectives": lambda i: [
        (objective(i.learnable), objective(ex.GaussianPath(_scale, _std)))
        for objective in (
            ex.KineticAction(i.exact.distribution, num_times=8),
            ex.KineticAction(i.model, i.x, key=i.key, num_samples=16, num_times=8),
            ex.optimise.EntropicTime(i.exact.distribution, cutoff=0.01 * i.number, num_times=8),
            ex.optimise.ScoreOptimalLength(i.exact.distribution, num_times=8),
            ex.optimise.EstimatorVariance(
                i.exact.distribution, cutoff=0.01 * i.number, num_times=8
            ),
            ex.optimise.SamplerError(i.exact.distribution, 4, 0.01 * i.number),
            ex.optimise.EulerKL(i.number, 4, 0.01 * i.number),
        )
    ],
    "parts": lambda i: _parts(i.process, i.number),
    "schedule_cost": lambda i: ex.optimise.schedule_cost(
        i.exact, i.process, *jax.device_put((i.x, i.y)), evaluations=256
    ),
    "distributions": lambda i: [
        (d.sample(16, key=i.key), d.log_prob(x), d.score(x))
        for x in jax.device_put([i.x])
        for d in (
            i.exact.distribution,
            ex.GaussianMixture([0.4, i.number], i.x[:2], np.abs(i.y[:2]) + 0.1),
        )
    ],
    "reference_variance": lambda i: ex.models.reference_variance(i.exact),
    "networks": lambda i: [
        ex.UNet((4, 4), key=i.key, widths=(4,)),
        ex.DiT((4, 4), key=i.key, width=4, depth=1, heads=1),
        ex.TokenTransformer((4,), 3, key=i.key, width=4, depth=1, heads=1),
        ex.networks.LinearSkip(ex.FourierMLP(2, key=i.key, widths=(4,)), 2, key=i.key, width=4),
        ex.networks.ResidualMLP(2, key=i.key, width=4, depth=1),
        ex.networks.PaperMLP(2, i.process, key=i.key, widths=(4,), num_frequencies=2),
        ex.networks.PaperConvNet((17, 17), i.process, key=i.key, widths=(32,) * 4),
    ],
}

NOTHING_TO_COMPILE = {"make_mesh", "network_size", "datasets.available", "datasets.stream"}
NOTHING_TO_COMPILE |= {"datasets.describe"}
# Checks, and what is computed by NumPy.
NOTHING_TO_COMPILE |= {"check_cutoff", "check_divergence", "check_ends", "check_times"}
NOTHING_TO_COMPILE |= {"equilibrium_std", "unbiased_w2_bound", "from_diffusers"}
NOTHING_TO_COMPILE |= {"highest_log_snr", "noise_limits", "trainable"}
SLOW = {
    "conditional_mutual_information",
    "estimate_conditional_mutual_information",
    "estimate_entropy",
    "estimate_kl",
    "estimate_mutual_information",
    "estimate_total_correlation",
    "networks",
    "schedule_cost",
    "speed_accuracy",
    "critical_times",
    "entropy_rates",
    "geodesic_deviation",
    "mutual_information",
    "mutual_information: pointwise",
    "displacement_interpolation: sinkhorn",
    "log_prob: Jarzynski",
    "log_prob: ProbabilityFlow",
    "objectives",
    "sample: EDMHeun",
    "sample: log_prob",
    "sample: ode",
    "schroedinger_bridge",
    "solve_flow: times",
    "solve_forward: save",
}


def _marked(name: str) -> Any:
    marks = [pytest.mark.slow(reason="several large programs")] if name in SLOW else []
    return pytest.param(name, marks=marks)


# Diffrax checks the times at which a solve is saved.
CALLS_BACK = {"solve_forward: save"}


@contextlib.contextmanager
def _programs(folder: pathlib.Path):
    """The custom calls of all programs that are compiled, of each program one list."""
    programs: list[list[str]] = []
    jax.config.update("jax_dump_ir_to", str(folder / "programs"))
    try:
        yield programs
    finally:
        jax.config.update("jax_dump_ir_to", None)
        for file in (folder / "programs").glob("*.mlir"):
            programs.append(re.findall(r"custom_call @(\w+)", file.read_text()))


def _callbacks(programs: list[list[str]]) -> list[str]:
    return [call for calls in programs for call in calls if "callback" in call]


@pytest.mark.parametrize("name", ["sample: DDIM", "neural_entropy"])
def test_programs_hold_no_callbacks(name, tmp_path):
    jax.clear_caches()  # programs that other tests have compiled would not be seen
    with _programs(tmp_path) as programs:
        CASES[name](Inputs(1, tmp_path))
    assert len(programs) > 1
    assert _callbacks(programs) == []
    with _programs(tmp_path / "other") as programs:  # the words that are looked for
        jax.jit(lambda x: eqx.error_if(x, x > 1, "large"))(np.float32(0.1))
    assert _callbacks(programs) != []


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def persistent_cache(tmp_path_factory):
    """JAX's persistent cache, that of the test run or in an empty folder, with every program."""
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tmp_path_factory.mktemp("cache")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    jax.clear_caches()  # programs that other tests have compiled would not be stored
    _set(settings)
    yield {name.upper(): str(value) for name, value in settings.items()}
    _set(before)


def call(name: str, seed: int, folder: pathlib.Path) -> None:
    jax.block_until_ready(eqx.filter(CASES[name](Inputs(seed, folder)), eqx.is_array))


@pytest.mark.slow(reason="every public function is compiled")
@pytest.mark.filterwarnings("ignore:the held-out loss was still falling")  # a few steps only
@pytest.mark.parametrize("name", [_marked(name) for name in CASES])
def test_new_numbers_compile_nothing(name, tmp_path, persistent_cache):
    with _programs(tmp_path) as programs:
        call(name, 1, tmp_path)
    if name not in CALLS_BACK:
        assert _callbacks(programs) == []
    before = len(_COMPILED)
    call(name, 2, tmp_path)
    compiled = len(_COMPILED) - before
    assert compiled == 0, f"{compiled} programs were compiled again"


@pytest.mark.slow(reason="many public functions are called in another process")
@pytest.mark.filterwarnings("ignore:the held-out loss was still falling")
def test_a_second_process_compiles_nothing(persistent_cache, tmp_path):
    """An eighth of the table: that programs hold no callback is tested for all of it."""
    names = [name for name in CASES if name not in CALLS_BACK][::8]
    for name in names:  # compiles nothing after the test above
        call(name, 1, tmp_path)
    program = pathlib.Path(__file__).with_name("cached_programs.py")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), *names],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | persistent_cache,
    )
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout.splitlines()[-1])
    assert counts["missed"] == []
    assert counts["cache_hits"] > len(names)


def test_every_public_function_is_in_the_table():
    """Every function that docs/api documents, but the studies, which train networks."""
    pages = (pathlib.Path(__file__).parent.parent / "docs" / "api").glob("*.md")
    paths = re.findall(r"^::: entropix\.([\w.]+)$", "".join(p.read_text() for p in pages), re.M)
    public = set()
    for path in paths:
        *parents, name = path.split(".")
        if parents == ["studies"]:
            continue
        if len(parents) > 1 and parents[-1] == name:  # a function with the name of its module
            parents = parents[:-1]
        value = functools.reduce(getattr, [*parents, name], ex)
        if inspect.isfunction(inspect.unwrap(value)):
            public.add(f"datasets.{name}" if parents == ["datasets"] else name)
    tested = {name.split(":")[0] for name in CASES} | PARTS
    assert len(public) > 40
    assert sorted(public - tested - NOTHING_TO_COMPILE) == []
