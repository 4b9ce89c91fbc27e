"""What a masked diffusion model stores of a ring of spins.

All states of a ring of eight Ising spins can be listed, and with them the entropy that masking
produces. A network is trained to fill in masked spins from samples, and measured by the same
functions as a model of continuous data.

    python examples/ising_discrete.py --out ising_discrete.png
"""

import argparse
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


SPINS, COUPLING = 8, 0.5


def energy(tokens) -> np.ndarray:
    """The energy of rings of tokens 0 and 1, in units of the coupling."""
    spins = 2 * np.asarray(tokens) - 1
    return -np.sum(spins * np.roll(spins, 1, axis=-1), axis=-1).astype(int)


def main(out: Path, steps: int = 2000, samples: int = 20_000, evaluations: int = 16_384) -> dict:
    """Train, measure and plot; returns the estimates by name."""
    data_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 4)
    states = np.array(list(itertools.product((0, 1), repeat=SPINS)))
    table = jnp.asarray(-COUPLING * energy(states).reshape((2,) * SPINS), float)

    # The exact model, and a network that is given the masked ring as one-hot rows.
    process = ex.Masking(2, ex.LinearSchedule(0.1, 16.0))
    exact = ex.models.ExactDiscrete(table, process)
    data = exact.sample(2 * samples, key=data_key)
    data, held_out = data[:samples], data[samples:]
    network = ex.FourierMLP(SPINS * process.num_states, widths=(64, 64), key=model_key)
    model = ex.MaskedDenoiser(network, process, shape=(SPINS,))
    loss = ex.training.TokenDenoising(num_draws=4)
    model = ex.fit(model, data, key=fit_key, steps=steps, batch_size=128, loss=loss).model

    # The functions are those for continuous data.
    options = {"key": key, "num_evaluations": evaluations}
    produced = ex.entropy_curve(exact, held_out, **options)
    stored = ex.entropy_curve(model, held_out, **options)
    spin = ex.models.ExactDiscrete(jnp.zeros(2), process)
    few = held_out[:256]
    bound = ex.log_prob(model, few, key=key, method=ex.PathBound(128))
    found = {
        "total entropy production": produced.total,
        "neural entropy": stored.total,
        "path KL": ex.path_kl(model, exact, held_out, **options),
        "total correlation": ex.total_correlation(exact, [spin] * SPINS, held_out, **options),
        "bound on -log p": -bound.mean,
    }
    truth = SPINS * np.log(2) + float(jnp.sum(jnp.exp(exact.log_weights) * exact.log_weights))
    print(f"{'D ln 2 - H, by enumeration':26} {truth:.4f} nats")
    for name, estimate in found.items():
        print(f"{name:26} {estimate} nats")
    print(f"{'exact -log p':26} {-float(jnp.mean(exact.log_prob(few))):.2f} nats")

    # Samples of the network: exact steps, one spin at a time; and all spins of a step at once.
    levels = np.arange(-SPINS, SPINS + 1, 4)
    chances = np.exp(np.asarray(exact.log_weights)).reshape(-1)
    shares = {"exact": [chances[energy(states) == level].sum() for level in levels]}
    for name, solver, number in (
        ("network, one by one", ex.dynamics.FirstHitting(), SPINS),
        ("network, 3 steps", ex.dynamics.TauLeaping(), 3),
    ):
        drawn = ex.sample(model, key=key, num_samples=4000, num_steps=number, solver=solver)
        shares[name] = [np.mean(energy(drawn) == level) for level in levels]

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.0), layout="constrained")
    for curve, style, words in ((produced, "C0-", "produced"), (stored, "C1--", "stored")):
        label = f"{words}: {curve.total} nats"
        kept = process.kept(curve.times)
        left.plot(1 - kept, curve.cumulative, style, lw=2.5, label=label)
    left.set(xlabel="share of masked spins", ylabel="entropy (nats)", ylim=(0, None))
    left.legend(loc="lower right")
    for i, (name, share) in enumerate(shares.items()):
        right.bar(levels + i - 1, share, width=0.9, label=name)
    right.set(xlabel="energy / J", ylabel="probability", xticks=levels)
    right.legend()
    figure.savefig(out, dpi=200)
    plt.close(figure)
    return found | {"truth": truth, "shares": shares}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("ising_discrete.png"))
    main(parser.parse_args().out)
