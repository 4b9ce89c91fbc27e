"""Steps of the probability flow: adaptive for each sample, or one grid chosen by a pilot run.

Under `vmap` the adaptive steps of a batch wait for its slowest sample. One grid for the whole batch
does not: equal steps of the angle of `ProbabilityFlow`, or quantiles of the adaptive steps of a
pilot run of 64 samples. The table compares errors of log densities and evaluations per sample, as
many as the slowest sample needs, without those of the pilot run. All is computed in float64, so
that rounding is negligible. The truth is exact, or for networks that of adaptive steps with
tolerance 1e-9.

A second table has the processor time of adaptive steps for 256 samples in batches of several sizes.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
from benchmarks.reference import mixture, table
from entropix.dynamics import ReverseCoordinates
from entropix.models import reference_variance


# The solver and the adaptive steps are those of `ProbabilityFlow`; six evaluations per step.
SOLVER, EVALUATIONS, PILOT, COUNT = diffrax.Tsit5(), 6, 64, 128
BATCHES = (256, 128, 64)
Case = tuple[str, Any, jax.Array, Callable | None]


@eqx.filter_jit
def densities(
    model: Any, x: jax.Array, controller: Any, max_steps: int = 4096, *, save: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Log densities, numbers of steps tried and accepted, and the angles of the accepted ones."""
    process = model.process
    bridge = ReverseCoordinates(process, reference_variance(model), flow=True)
    (t0, t1), root = (process.t0, process.t1), jnp.sqrt(bridge.variance)
    first, last = (jnp.sqrt(bridge.total(t)) for t in (t0, t1))
    begin, end = (jnp.arctan2(process.std(t), root * process.scale(t)) for t in (t0, t1))

    def field(theta: Any, state: jax.Array) -> jax.Array:
        theta = jnp.maximum(theta, 1e-11)
        t = -2 * jnp.sin(theta / 2) ** 2
        return -jnp.sin(theta) * bridge.field(t, state[None], (model, None))[0]

    def rate(theta: Any, state: Any, _: Any) -> Any:
        moved, jvp = jax.linearize(lambda y: field(theta, y), state[0])
        return moved, jnp.trace(jax.vmap(jvp)(jnp.eye(state[0].size)))

    def one(x: jax.Array) -> Any:
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(rate),
            SOLVER,
            begin,
            end,
            None,
            (process.scale(t0) * x / first, jnp.zeros(())),
            stepsize_controller=controller,
            max_steps=max_steps,
            saveat=diffrax.SaveAt(t1=True, steps=save),
            throw=False,
        )
        assert found.ys is not None
        state, gain = (part[-1] for part in found.ys)
        volume = x.size * (jnp.log(last / first) + process.log_scale(t0))
        value = model.prior.log_prob(last * state) + volume + gain
        stats = found.stats
        return value, stats["num_steps"], stats["num_accepted_steps"], found.ts if save else None

    return jax.vmap(one)(x)


def adaptive(tolerance: float) -> diffrax.PIDController:
    """Adaptive steps; the tolerance is an array, so that another value compiles nothing."""
    return diffrax.PIDController(rtol=jnp.asarray(tolerance), atol=jnp.asarray(tolerance))


def quantiles(angles: np.ndarray, accepted: np.ndarray, end: float, num_steps: int) -> jax.Array:
    """A grid whose steps are as dense as those of a pilot on average."""
    fine = np.linspace(0.0, end, 4001)
    counts = [
        np.interp(fine, [0.0, *row[: n - 1], end], np.arange(n + 1))
        for row, n in zip(angles, accepted, strict=True)
    ]
    mean = np.mean(counts, axis=0)
    grid = np.interp(np.linspace(0.0, mean[-1], num_steps + 1), mean, fine)
    grid[[0, -1]] = 0.0, end
    return jnp.asarray(grid)


@eqx.filter_jit
def in_batches(model: Any, x: jax.Array, size: int) -> jax.Array:
    """Log densities by adaptive steps, `size` samples together."""
    batches = x.reshape(-1, size, *x.shape[1:])
    return jax.lax.map(lambda x: densities(model, x, adaptive(1e-5))[0], batches)


def seconds(model: Any, x: jax.Array) -> list[float]:
    """Processor time of log densities in batches of each size, interleaved: the least of three."""
    found = np.full((4, len(BATCHES)), np.inf)
    for run in found:
        for k, size in enumerate(BATCHES):
            begin = time.process_time()
            jax.block_until_ready(in_batches(model, x, size))
            run[k] = time.process_time() - begin
    return found[1:].min(axis=0).tolist()  # the first compiles


def cases() -> Iterator[Case]:
    """A smooth density, three that are not, and trained networks.

    There are `max(BATCHES)` samples of each. The last entry is the exact log density, or None for
    networks.
    """
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    key = jax.random.key(0)
    smooth = mixture(3)
    centres, near = jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.full((2, 2), 1e-4)
    distributions = {
        "mixture, D = 3": smooth,
        "Gaussian of variances 1, 1e-2, 1e-6": ex.Gaussian(
            jnp.zeros(3), jnp.diag(jnp.array([1.0, 1e-2, 1e-6]))
        ),
        "two clusters of variance 1e-4": ex.GaussianMixture(jnp.full(2, 0.5), centres, near),
        # The pilot run is likely to have no sample of it.
        "a rare cluster of variance 1e-6": ex.GaussianMixture(
            jnp.array([0.99, 0.01]), centres, jnp.array([[0.1, 0.1], [1e-6, 1e-6]])
        ),
    }
    for name, law in distributions.items():
        parts = [
            law.sample(COUNT, key=key),
            law.sample(max(BATCHES) - COUNT, key=jax.random.key(1)),
        ]
        yield name, ex.ExactModel(law, process), jnp.concatenate(parts), law.log_prob
    digits = np.asarray(ex.datasets.load("digits").points, float).reshape(-1, 64)
    digits = jnp.asarray((digits - digits.mean(0)) / digits.std())
    digits = digits + 0.05 * jax.random.normal(key, digits.shape)
    for name, data in {"mixture, trained": smooth.sample(4096, key=key), "digits": digits}.items():
        dim = data.shape[1]
        network = ex.FourierMLP(dim, key=key, widths=(128, 64))
        scaling = ex.GaussianScaling.from_data(data, process)
        model = ex.EntropyMatching(network, process, scaling)
        model = ex.fit(model, data, key=key, steps=500, batch_size=64).model
        yield name, model, data[: max(BATCHES)], None


def main() -> None:
    """Print both tables."""
    jax.config.update("jax_enable_x64", True)
    rows, times = [], []
    for name, model, given, exact in cases():
        taken = seconds(model, given)
        times.append([name, f"{taken[0]:.2g}", *(f"{t / taken[0]:.2f}" for t in taken[1:])])
        print(*times[-1], sep=" | ", flush=True)
        x = given[:COUNT] if given.shape[1] < 64 else given[:32]
        truth = exact(x) if exact else densities(model, x, adaptive(1e-9))[0]

        def row(what: str, batch: float, values: jax.Array, name=name, truth=truth) -> None:
            error = np.abs(np.asarray(values - truth))
            rms = np.sqrt(np.mean(error**2))
            rows.append([name, what, f"{batch:.0f}", f"{rms:.1e}", f"{error.max():.1e}"])
            print(*rows[-1], sep=" | ", flush=True)

        for tolerance in (1e-4, 1e-5):
            found = densities(model, x, adaptive(tolerance))
            row(f"adaptive, {tolerance:g}", EVALUATIONS * float(found[1].max()), found[0])
        pilot = densities(model, x[:PILOT], adaptive(1e-5), 256, save=True)
        accepted, angles = np.asarray(pilot[2]), np.asarray(pilot[3])
        end = float(angles[0, accepted[0] - 1])
        for share in (0.8, 1.2):
            count = round(share * accepted.mean())
            grid = quantiles(angles, accepted, end, count)
            values = densities(model, x, diffrax.StepTo(grid), count + 1)[0]
            row(f"pilot, {count} steps", EVALUATIONS * count, values)
        equal = jnp.linspace(0.0, end, count + 1)
        values = densities(model, x, diffrax.StepTo(equal), count + 1)[0]
        row(f"equal angles, {count} steps", EVALUATIONS * count, values)
    header = ["data", "steps", "evaluations", "rms error, nats", "largest"]
    table("Log densities by the probability flow", header, rows)
    header = ["data", f"seconds, {BATCHES[0]} together", *(f"batches of {n}" for n in BATCHES[1:])]
    table("\nProcessor time of adaptive steps, relative to all samples together", header, times)


if __name__ == "__main__":
    main()
