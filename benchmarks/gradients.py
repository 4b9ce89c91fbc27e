"""Gradients through solves: what each adjoint costs, and what the Brownian path costs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.reference import table


PATHS, STEPS, ROUNDS, DIM = 10_000, 50, 7, 2
DATA = ex.Gaussian(jnp.zeros(DIM), 0.6 * jnp.eye(DIM))
Numbers = dict[str, jax.Array]
NUMBERS: Numbers = {"beta_min": jnp.asarray(0.1), "kappa": jnp.asarray(1.0)}


def process_of(numbers: Numbers) -> ex.VariancePreserving:
    """VP with the numbers that are differentiated."""
    return ex.VariancePreserving(ex.LinearSchedule(numbers["beta_min"], 2.0), numbers["kappa"])


def path_entropy(numbers: Numbers, x: jax.Array, key: jax.Array, **options: Any) -> jax.Array:
    """The mean total entropy of SDE paths."""
    model = ex.ExactModel(DATA, process_of(numbers))
    times = jnp.linspace(0.0, 1.0, options.pop("steps", STEPS) + 1)
    return jnp.mean(ex.path_entropy(model, x, key=key, times=times, **options).total)


def flow_functional(numbers: Numbers, x: jax.Array, key: jax.Array, **options: Any) -> jax.Array:
    """A functional of the end states of the probability flow."""
    model = ex.ExactModel(DATA, process_of(numbers))
    steps = options.pop("steps", STEPS)
    return jnp.mean(ex.solve_flow(model, x, num_steps=steps, variance=1.0, **options).final ** 2)


def gradient(fn: Callable, *, forward: bool = False, **options: Any) -> Callable:
    """A compiled gradient with respect to both numbers."""
    mode = jax.jacfwd if forward else jax.grad
    return jax.jit(lambda numbers, x, key: mode(lambda n: fn(n, x, key, **options))(numbers))


def seconds(runs: dict[str, Callable], *args: Any) -> dict[str, list[float]]:
    """Interleaved times of compiled functions; the first round compiles."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*args))
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def memory(run: Callable, *args: Any) -> float:
    """Megabytes that a compiled function needs besides its arguments and results."""
    analysis: Any = run.lower(*args).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 2**20


def adjoints(x: jax.Array, key: jax.Array) -> None:
    """What works, its memory and its time."""
    kinds: dict[str, Any] = {
        "RecursiveCheckpointAdjoint": diffrax.RecursiveCheckpointAdjoint(),
        "DirectAdjoint": diffrax.DirectAdjoint(),
        "ForwardMode": diffrax.ForwardMode(),
        "BacksolveAdjoint": diffrax.BacksolveAdjoint(),
        "ImplicitAdjoint": diffrax.ImplicitAdjoint(),
    }
    for title, fn in (("SDE paths", path_entropy), ("probability flow", flow_functional)):
        runs, rows = {}, []
        for name, adjoint in kinds.items():
            run = gradient(fn, adjoint=adjoint, forward=name == "ForwardMode")
            try:
                jax.block_until_ready(run(NUMBERS, x, key))
            except Exception as error:  # Diffrax refuses in many ways
                rows.append([name, "no: " + str(error).split("\n")[0][:70], "", ""])
                continue
            runs[name] = run
        base = None
        for name, times in seconds(runs, NUMBERS, x, key).items():
            base = times if base is None else base
            ratio = statistics.median(a / b for a, b in zip(times, base, strict=True))
            rows.append([name, "yes", f"{memory(runs[name], NUMBERS, x, key):.0f}", f"{ratio:.2f}"])
        table(
            f"Gradient of a functional along {title}: {PATHS:,} paths, {STEPS} steps, D = {DIM}",
            ["adjoint", "works", "memory (MiB)", "time (ratio to the first)"],
            rows,
        )


def brownian(x: jax.Array, key: jax.Array) -> None:
    """The default grid path against Diffrax's tree, with one solver."""
    tree = diffrax.VirtualBrownianTree(0.0, 1.0, 0.5 / STEPS, x.shape, key)
    options = {"solver": diffrax.Heun()}
    runs = {
        "grid path (default)": gradient(path_entropy, **options),
        "VirtualBrownianTree": gradient(path_entropy, path=tree, **options),
    }
    times = seconds(runs, NUMBERS, x, key)
    base = times["VirtualBrownianTree"]
    table(
        f"Gradient of path entropy in (beta_min, kappa): {PATHS:,} paths, {STEPS} steps, Heun",
        ["Brownian path", "seconds (median)", "ratio"],
        [
            [
                name,
                f"{statistics.median(t):.3f}",
                f"{statistics.median(a / b for a, b in zip(t, base, strict=True)):.2f}",
            ]
            for name, t in times.items()
        ],
    )


def growth(x: jax.Array, key: jax.Array) -> None:
    """Memory of the default adjoint against the number of steps."""
    x, rows, first = x[:1000], [], None
    for steps in (64, 256, 1024, 4096):
        used = memory(gradient(path_entropy, steps=steps), NUMBERS, x, key)
        first = used if first is None else first
        rows.append(
            [f"{steps}", f"{used:.2f}", f"{used / first:.1f}", f"{(steps / 64) ** 0.5:.1f}"]
        )
    table(
        "Memory of the default adjoint, 1,000 paths",
        ["steps", "memory (MiB)", "ratio to 64 steps", "square root of the steps"],
        rows,
    )


def main() -> None:
    """Print the tables."""
    key = jax.random.key(0)
    x = DATA.sample(PATHS, key=jax.random.key(1))
    adjoints(x, key)
    brownian(x, key)
    growth(x, key)


if __name__ == "__main__":
    main()
