"""Couplings of spins from few configurations, with and without samples of a diffusion model.

A small Sherrington-Kirkpatrick magnet, all of whose states can be listed. Its couplings are
inferred by pseudo-likelihood from a few configurations, and from many that a diffusion model
trained on these few generates (Lim, Lee and Jo, arXiv 2503.10154); and, for comparison, from the
few with the prior N(0, 1/8) of the couplings.

    python examples/inverse_ising.py --out inverse_ising.png
"""

import argparse
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


SPINS = 8
STATES = jnp.array(list(itertools.product((-1.0, 1.0), repeat=SPINS)))
ROWS, COLUMNS = np.triu_indices(SPINS, 1)
STEPS = (100, 300, 1000, 3000)


def symmetric(couplings: jax.Array) -> jax.Array:
    zero = jnp.zeros((SPINS, SPINS))
    return zero.at[ROWS, COLUMNS].set(couplings).at[COLUMNS, ROWS].set(couplings)


def draw(couplings: jax.Array, n: int, key: jax.Array) -> jax.Array:
    """Exact samples: all states are listed with their energies."""
    energies = jnp.sum((STATES @ symmetric(couplings)) * STATES, axis=-1) / 2
    return STATES[jax.random.categorical(key, energies, shape=(n,))]


@jax.jit
def infer(spins: jax.Array, penalty: float = 1e-4) -> jax.Array:
    """Couplings of greatest pseudo-likelihood, less penalty |J|^2 / 2, by Newton's method."""

    def loss(couplings):
        fields = spins @ symmetric(couplings)
        likelihood = jnp.mean(jnp.sum(jax.nn.log_sigmoid(2 * spins * fields), axis=-1))
        return penalty * jnp.sum(couplings**2) / 2 - likelihood

    def newton(couplings, _):
        step = jnp.linalg.solve(jax.hessian(loss)(couplings), jax.grad(loss)(couplings))
        return couplings - step / jnp.maximum(1, jnp.max(jnp.abs(step))), None

    return jax.lax.scan(newton, jnp.zeros(len(ROWS)), length=40)[0]


def main(out: Path, few: int = 100, many: int = 4000, seeds: int = 6, steps=STEPS) -> dict:
    """Compare the ways over several magnets; returns rms errors, those of the model by steps."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    errors: dict = {}
    for seed in range(seeds):
        keys = jax.random.split(jax.random.key(seed), 6)
        couplings = jax.random.normal(keys[0], (len(ROWS),)) / SPINS**0.5
        spins = draw(couplings, few, keys[1])
        found = {
            f"{few} configurations": infer(spins),
            f"{few} configurations, prior": infer(spins, SPINS / few),
            f"{many} true configurations": infer(draw(couplings, many, keys[2])),
            "zero couplings": jnp.zeros(len(ROWS)),
        }
        network = ex.FourierMLP(SPINS, widths=(128, 128), key=keys[3])
        scaling = ex.GaussianScaling.from_data(spins, process)
        untrained = ex.EntropyMatching(network, process, scaling)
        for length in steps:
            model = ex.fit(untrained, spins, key=keys[4], steps=length).model
            more = ex.sample(model, key=keys[5], num_samples=many, num_steps=64)
            found[f"model, {length} steps"] = infer(jnp.sign(more))
        for name, value in found.items():
            errors.setdefault(name, []).append(jnp.sqrt(jnp.mean((value - couplings) ** 2)))
    result = {n: (np.mean(e), np.std(e, ddof=1) / np.sqrt(seeds)) for n, e in errors.items()}
    for name, (mean, error) in result.items():
        print(f"{name:<26} rms error of the couplings {mean:.3f} ± {error:.3f}")
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    means, stderrs = zip(*(result.pop(f"model, {n} steps") for n in steps), strict=True)
    axis.errorbar(steps, means, stderrs, fmt="o-", capsize=3, label=f"{many} of a diffusion model")
    for number, (name, (mean, error)) in enumerate(result.items(), start=1):
        axis.axhline(mean, color=f"C{number}", ls="--", label=name)
        axis.axhspan(mean - error, mean + error, color=f"C{number}", alpha=0.15, lw=0)
    axis.set(xscale="log", xlabel="training steps of the model", ylim=(0, None))
    axis.set_ylabel("rms error of the couplings (temperatures)")
    figure.legend(fontsize="small", loc="outside lower center", ncols=2)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result | {"model": means}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("inverse_ising.png"))
    main(parser.parse_args().out)
