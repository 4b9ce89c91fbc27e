"""Shared by all tests: the grid of processes, test densities, finite differences.

Builders are functions without arguments, called inside a test: arrays keep the dtype they are made
with, so a process built under `x64` (or `double()`) is a float64 process.
"""

import contextlib
import functools
import importlib
import itertools
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import entropix as ex
from tests.mixtures import mixture as paper_mixture  # noqa: F401


def every_file() -> list[ModuleType]:
    """All packages and files of the library, imported."""
    names = [info.name for info in pkgutil.walk_packages(ex.__path__, "entropix.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def _precision(double: bool) -> contextlib.AbstractContextManager:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(double)
    from jax.experimental import enable_x64  # jax < 0.8

    return enable_x64(double)


def double() -> contextlib.AbstractContextManager:
    """A block in float64, for a test that compares the two precisions."""
    return _precision(True)


def single() -> contextlib.AbstractContextManager:
    """A block in float32, whatever the environment says."""
    return _precision(False)


# For functions that a test compiles to run once: the compiler leaves out what makes code fast.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@contextlib.contextmanager
def as_shipped():
    """A block in which annotations are not checked: what a user sees of a mistake."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# ---------------------------------------------------------------------------- processes


class Bell(eqx.Module):
    """`exp(-rate s^2)`: a scale function with a parameter."""

    rate: Array

    def __call__(self, s):
        return jnp.exp(-self.rate * s**2)


class Ramp(eqx.Module):
    """`size s`: a noise function with a parameter."""

    size: Array

    def __call__(self, s):
        return self.size * s


def cosine_scale(s):
    return jnp.cos(jnp.pi / 2 * s)


def sine_std(s):
    return jnp.sin(jnp.pi / 2 * s)


def exponential_scale(s):
    return jnp.exp(-s)


LOG_RATES = (0.3, -0.8, 0.5, 1.1, 0.2, -0.4)


def learned_path(final_scale, final_std):
    path = ex.processes.LearnablePath(final_scale, final_std, num_knots=6)
    logs = tuple(jnp.asarray(LOG_RATES[::step], float) for step in (1, -1))
    return eqx.tree_at(lambda p: p.learnable(), path, logs)


# Every Gaussian process and schedule goes through the same tests: add a new one here.
PROCESSES: dict[str, Callable[[], Any]] = {
    "vp": lambda: ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=1.0),
    "vpx": lambda: ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=0.1),
    "vp-constant": lambda: ex.VariancePreserving(ex.LinearSchedule(5.0, 5.0), kappa=1.3),
    "vp-cosine": lambda: ex.VariancePreserving(ex.processes.CosineSchedule(), kappa=0.7),
    "sl": lambda: ex.StraightLine(sigma0=0.1),
    "cosine": lambda: ex.CosinePath(),
    "ve": lambda: ex.VarianceExploding(0.01, 20.0),
    "subvp": lambda: ex.SubVariancePreserving(ex.LinearSchedule(0.1, 16.0)),
    "subvp-cosine": lambda: ex.SubVariancePreserving(ex.processes.CosineSchedule()),
    "rf": lambda: ex.RectifiedFlow(),
    "path-trig": lambda: ex.GaussianPath(cosine_scale, sine_std),
    "path-sqrt": lambda: ex.GaussianPath(exponential_scale, jnp.sqrt),
    "path-module": lambda: ex.GaussianPath(
        Bell(jnp.asarray(3.0, float)), Ramp(jnp.asarray(0.6, float))
    ),
    "path-learned": lambda: learned_path(0.05, 0.8),
    "path-learned-noise": lambda: learned_path(0.0, 1.2),
    "vp-learned": lambda: ex.VariancePreserving(ex.MonotoneSchedule(LOG_RATES, 8.05), kappa=0.3),
    "sl-warped": lambda: ex.TimeChanged(ex.StraightLine(0.1), ex.processes.MonotoneWarp(LOG_RATES)),
    "subvp-warped": lambda: ex.TimeChanged(
        ex.SubVariancePreserving(ex.LinearSchedule(0.1, 16.0)), ex.processes.MonotoneWarp(LOG_RATES)
    ),
}
# One of each kind, for tests too slow to go through all of them.
KINDS = ("vpx", "sl", "cosine", "ve", "subvp", "rf", "path-module")
# And each way to make another of it. Estimators and solvers go through these: what the others
# add, `processes/test_grid.py` compares with closed forms.
DISTINCT = (*KINDS, "vp-cosine", "path-learned-noise", "sl-warped")
# Three kinds, for what compiles long and is the same code for each; the others are slow tests.
FEW = ("vpx", "ve", "rf")
STATIC = ("vp", "vpx", "vp-constant", "vp-cosine", "sl", "cosine", "vp-learned", "sl-warped")
# The scale is exactly zero at t1, where the diffusion coefficient is infinite.
ENDS_IN_NOISE = (
    "vp-cosine",
    "sl",
    "cosine",
    "subvp-cosine",
    "rf",
    "path-trig",
    "path-learned-noise",
    "sl-warped",
)
# The equilibrium collapses at t0, where the entropy field is infinite.
COLLAPSING = ("subvp", "subvp-cosine", "rf", "subvp-warped")


def quick(names, everything=DISTINCT) -> list:
    """`names`, and the rest of `everything` marked slow: each compiles its own program."""
    rest = [n for n in everything if n not in names]
    return [*names, *(pytest.param(n, marks=pytest.mark.slow) for n in rest)]


def quick_rows(cases, everything) -> list:
    """`quick` where each case is a row of several parameters."""
    return [*cases, *(pytest.param(*c, marks=pytest.mark.slow) for c in everything)]


def inner_times(process, n: int = 9, margin: float = 0.03) -> np.ndarray:
    """Times away from the ends."""
    return np.linspace(float(process.t0) + margin, float(process.t1) - margin, n)


# ---------------------------------------------------------------------------- distributions


def small_mixture() -> ex.GaussianMixture:
    """Three unequal, anisotropic components in two dimensions."""
    return ex.GaussianMixture(
        [0.2, 0.5, 0.3],
        [[-1.0, 0.4], [0.7, 0.9], [0.1, -1.2]],
        [[0.5, 0.3], [0.25, 0.8], [0.6, 0.4]],
    )


def small_gaussian() -> ex.Gaussian:
    """The correlated Gaussian of which many exact values are known."""
    return ex.Gaussian([0.5, -1.0], [[0.6, 0.35], [0.35, 0.9]])


DISTRIBUTIONS: dict[str, Callable[[], Any]] = {
    "gaussian": small_gaussian,
    "mixture": small_mixture,
}


# ---------------------------------------------------------------------------- differentiation


def numbers(tree):
    """The numbers of a module as one vector, and the way back; end times stay as they are."""

    def moves(path, leaf):
        return eqx.is_inexact_array(leaf) and getattr(path[-1], "name", "") not in ("t0", "t1")

    chosen = jax.tree_util.tree_map_with_path(moves, tree)
    dynamic, static = eqx.partition(tree, chosen)
    flat, unravel = ravel_pytree(dynamic)
    flat = flat.astype(float)  # ravel_pytree has no dtype for an empty tree
    return flat, lambda v: eqx.combine(unravel(v), static)


def finite_difference(f: Callable, x: Array, step: float = 1e-3) -> Any:
    """Derivative of `f` at a vector by fourth-order central differences with relative steps.

    `f` maps a batch of vectors to arrays with that leading axis and is called once. Derivatives
    come with the axis of `x` last.
    """
    x = np.asarray(x)
    scale = step * np.where(np.abs(x) > 1e-6, np.abs(x), 1.0)
    shifts = np.asarray([-2.0, -1.0, 1.0, 2.0])[:, None, None] * np.diag(scale)
    values = f(jnp.asarray((x + shifts).reshape(-1, x.size)))

    def combine(v):
        v = np.asarray(v).reshape(4, x.size, *v.shape[1:])
        slopes = np.tensordot(np.asarray([1.0, -8.0, 8.0, -1.0]) / 12, v, axes=1)
        return np.moveaxis(slopes, 0, -1) / scale

    return jax.tree.map(combine, values)


def product_grid(lower: float, upper: float, step: float, dim: int) -> tuple[Array, float]:
    """Points of a regular grid on a cube, shape (n, dim), and the volume of a cell.

    The trapezoid rule converges exponentially for densities that vanish at the faces.
    """
    line = np.arange(lower, upper + step / 2, step)
    points = np.array(list(itertools.product(line, repeat=dim)))
    return jnp.asarray(points), float(line[1] - line[0]) ** dim


def all_finite(tree) -> bool:
    """Whether every number in every array of a tree is finite."""
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))
