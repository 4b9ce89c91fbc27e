"""What a masked diffusion model stores of English text.

The text is Python's help on its own language. A transformer is trained for about a minute to fill
in masked characters. Its likelihood stands beside those of Markov models of the same text.

    python examples/masked_text.py --out masked_text.png
"""

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import entropix as ex


LENGTH, ORDERS = 64, 5


def codes(x, order: int, count: int) -> np.ndarray:
    """Every character together with the `order` before it, as one number."""
    windows = np.lib.stride_tricks.sliding_window_view(x, order + 1, axis=1)
    return windows @ count ** np.arange(order, -1, -1)


def occurrences(values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How often each of the numbers that are asked for occurs."""
    found, number = np.unique(values, return_counts=True)
    place = np.minimum(np.searchsorted(found, asked), len(found) - 1)
    return np.where(found[place] == asked, number[place], 0)


def markov_bits(train: np.ndarray, text: np.ndarray, count: int) -> list[float]:
    """Bits per character of Markov models of orders 0, 1, ..., smoothed by those before."""
    p, bits = np.full(text.shape, 1 / count), []
    for order in range(ORDERS):
        known, asked = (codes(x, order, count) for x in (train, text))
        pairs, contexts = occurrences(known, asked), occurrences(known // count, asked // count)
        p[:, order:] = (pairs + 5 * p[:, order:]) / (contexts + 5)
        bits.append(float(-np.mean(np.log2(p))))
    return bits


def main(out: Path, steps: int = 2400, evaluations: int = 8192, held_out: int = 256) -> dict:
    """Train, measure and plot; returns the numbers by name."""
    # Paragraphs that appear under several topics are taken once.
    paragraphs = dict.fromkeys(part for text in topics.values() for part in text.split("\n\n"))
    characters, text = np.unique(list("\n\n".join(paragraphs)), return_inverse=True)
    count, text = len(characters), text[: len(text) // LENGTH * LENGTH].reshape(-1, LENGTH)
    train, rest = np.split(np.random.default_rng(0).permutation(text), [-held_out])
    model_key, fit_key, key = jax.random.split(jax.random.key(0), 3)

    process = ex.Masking(count, ex.LinearSchedule())
    network = ex.TokenTransformer.sized(
        "small", (LENGTH,), process.num_states, len(train), time_dependent=False, key=model_key
    )
    fit = ex.fit(
        ex.MaskedDenoiser(network, process, shape=(LENGTH,)),
        train,
        key=fit_key,
        steps=steps,
        batch_size=32,
        learning_rate=optax.cosine_decay_schedule(4e-3, steps),
        loss=ex.training.TokenDenoising(num_draws=1),
    )
    model, unit = fit.model, LENGTH * np.log(2)
    bound = -ex.log_prob(model, rest, key=key, method=ex.PathBound(64)).mean
    stored = ex.entropy_curve(model, rest, key=key, num_evaluations=evaluations, num_times=40)
    markov = markov_bits(train, rest, count)
    print(f"masked diffusion   {float(bound.value) / unit:.2f} bits per character, a bound")
    for order, bits in enumerate(markov):
        print(f"Markov, order {order}    {bits:.2f}")
    print(f"stored by the network, of {np.log2(count):.2f}: {float(stored.total.value) / unit:.2f}")
    drawn = ex.sample(model, key=key, num_samples=4, solver=ex.dynamics.FirstHitting())
    print(*("".join(characters[row]) for row in np.asarray(drawn, int)), sep="\n")

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.0), layout="constrained")
    course = np.asarray(fit.history.loss)[: steps // 20 * 20].reshape(-1, steps // 20) / unit
    left.plot(np.arange(0.5, 20.5) * (steps / 20), course.mean(axis=1), "C0", label="loss")
    for order, bits in enumerate(markov):
        left.axhline(bits, color="0.7", lw=0.8)
        left.text(steps, bits, f"Markov, order {order}", ha="right", va="bottom", fontsize=7)
    left.set(xlabel="training step", ylabel="bits per character")
    right.plot(process.lost(stored.times), stored.cumulative / unit, "C1", label="stored")
    right.legend()
    right.set(xlabel="share of masked characters", ylabel="bits per character")
    figure.savefig(out, dpi=200)
    plt.close(figure)
    return {"bound": bound, "stored": stored.total, "markov": markov, "history": fit.history}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("masked_text.png"))
    main(parser.parse_args().out)
