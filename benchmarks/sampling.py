"""Sampling by Diffrax against a hand-written Euler-Maruyama scan, interleaved."""

import statistics
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.reference import mixture, processes, table


SAMPLES, STEPS, ROUNDS = 512, 200, 9


@eqx.filter_jit
def hand_written(model: ex.EntropyMatching, times: jax.Array, key: jax.Array) -> jax.Array:
    """Euler-Maruyama for the reverse SDE on given times, a scan over steps of a vmapped field."""
    process = model.process
    start_key, noise_key = jax.random.split(key)
    y = model.prior.sample(SAMPLES, key=start_key)

    def step(y: jax.Array, args: tuple) -> tuple[jax.Array, None]:
        s, ds, i = args
        z = jax.random.normal(jax.random.fold_in(noise_key, i), y.shape)
        score = jax.vmap(lambda y: model.score(s, y))(y)
        variance = process.sigma_squared(s)
        drift = jax.vmap(lambda y: process.drift(s, y))(y) - variance * score
        return y - drift * ds + jnp.sqrt(variance * ds) * z, None

    steps = (times[:-1], times[:-1] - times[1:], jnp.arange(STEPS))
    return jax.lax.scan(step, y, steps)[0]


def main() -> None:
    """Print the table."""
    process = processes()["VP"]
    data = mixture(3).sample(1000, key=jax.random.key(0))
    model = ex.EntropyMatching(
        ex.FourierMLP(3, key=jax.random.key(1)),
        process,
        ex.GaussianScaling.from_data(data, process),
    )
    times = jnp.linspace(process.t1, process.t0, STEPS + 1)
    runs = {
        "hand-written scan": lambda k: hand_written(model, times, k),
        "ex.sample": lambda k: ex.sample(
            model, key=k, num_samples=SAMPLES, num_steps=STEPS, solver=diffrax.Euler()
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(jax.random.key(number)))
            if number:
                seconds[name].append(time.perf_counter() - start)
    base = seconds["hand-written scan"]
    table(
        f"Sampling: {SAMPLES} samples x {STEPS} steps, reverse SDE, Euler",
        ["run", "seconds (median)", "ratio"],
        [
            [
                name,
                f"{statistics.median(t):.3f}",
                f"{statistics.median(a / b for a, b in zip(t, base, strict=True)):.3f}",
            ]
            for name, t in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
