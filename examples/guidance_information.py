"""What the label knows about a handwritten digit, at which scales, and what guidance does with it.

One network learns the fields of digits with and without their label. Its neural entropy and its
information about the label are divided by the frequencies of the cosine transform. Guided sampling
with weight w moves with w times the difference of the two fields. The divergence of its paths from
those without a label is measured along the guided paths themselves.

    python examples/guidance_information.py --out guidance_information.png
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


BANDS = "mean", "frequency 1", "2 to 3", "4 to 7"
cosines = ex.estimators.CosineTransform(bands=True)


def bands(image):
    """The coefficients of the cosine transform, from coarse to fine."""
    return cosines(image.reshape(8, 8))


@eqx.filter_jit
def path_rates(model, labels, log_snr, key, weight):
    """How fast guided paths diverge from others, per unit of log-SNR, by sample and band."""
    process, first, second = model.process, *jax.random.split(key)
    noise = model.prior.sample(len(labels), key=first)
    times = process.time_of_log_snr(log_snr).at[0].set(process.t1)
    options = {"times": times, "save": "steps", "condition": labels}
    paths = ex.solve_reverse(ex.models.Guided(model, weight), noise, key=second, **options)

    def one(path, label):
        def at(s, y):
            gap = weight * (model.entropy_field(s, y, label) - model.entropy_field(s, y))
            return process.var(s) / 2 * jnp.stack([jnp.sum(b**2) for b in bands(gap)])

        return jax.vmap(at)(paths.times, path)

    return jax.vmap(one, in_axes=(1, 0))(paths.states, labels)


def main(
    out: Path, steps: int = 6000, width: int = 512, evaluations: int = 65_536, samples: int = 1000
) -> dict:
    """Train, measure and plot; returns the information of the label and, by weight, of paths."""
    model_key, guess_key, noise_key, fit_key, key = jax.random.split(jax.random.key(0), 5)
    digits = ex.datasets.load("digits")
    order = np.random.default_rng(0).permutation(len(digits.points))
    levels, label = digits.points[order], jax.nn.one_hot(np.asarray(digits.labels)[order], 10)
    # Uniform noise of one grey level gives the integers a density: 32 draws of each.
    keys = jax.random.split(noise_key, 32)
    x = jnp.stack([ex.distributions.dequantise(levels, key=k) for k in keys])
    x = (x - jnp.mean(x)) / jnp.std(x)
    train, held_out, told = x[:, 400:].reshape(-1, 64), x[0, :400], label[:400]

    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    # Labels are evidence for latent classes, which the network otherwise guesses.
    network = ex.networks.LatentCondition(
        ex.FourierMLP(64, widths=(width, width), condition_dim=16, key=model_key),
        ex.FourierMLP(64, widths=(width // 2,), out_dim=16, key=guess_key),
        condition_dim=10,
        num_classes=16,
    )
    network = ex.networks.ConditionDropout(network, condition_dim=10, rate=0.5)
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(train, process))
    options = {"condition": jnp.tile(label[400:], (32, 1)), "loss": ex.Denoising(num_draws=2)}
    model = ex.fit(model, train, key=fit_key, steps=steps, batch_size=128, **options).model

    options = {"key": key, "num_evaluations": evaluations, "per_coordinate": bands, "num_times": 2}
    stored = ex.entropy_curve(model, held_out, **options)
    known = ex.mutual_information(model, held_out, told, **options)
    for name, curve in {"S_NN": stored, "I(X; label)": known}.items():
        shares = " ".join(f"{100 * v:.1f}" for v in curve.value / curve.total.value)
        print(f"{name} {curve.total}: % by frequency {shares}")

    log_snr = jnp.linspace(process.log_snr(process.t1), 10, 201)  # from noise to data
    found, rates = {"label": float(known.total)}, {}
    for weight in (1.0, 2.0, 4.0):
        rate = path_rates(model, told[:samples], log_snr, key, weight)
        total = jnp.trapezoid(rate.sum(-1), log_snr, axis=1)
        error = jnp.std(total) / jnp.sqrt(len(total))
        share = jnp.trapezoid(rate.mean(0), log_snr, axis=0) / jnp.mean(total)
        shares = " ".join(f"{100 * v:.1f}" for v in share)
        print(f"w = {weight:.0f}: {jnp.mean(total):.2f} ± {error:.2f} nats, % {shares}")
        found[weight], rates[weight] = float(jnp.mean(total)), rate.mean(0).sum(-1)

    # The entropy of the conditional model on as many images of each class.
    curves = []
    for digit in range(10):
        chosen = jnp.flatnonzero(told[:, digit])[:25]
        options = {"condition": told[chosen], "num_evaluations": evaluations // 8}
        curves.append(ex.entropy_curve(model, held_out[chosen], key=key, **options))
    print("S_NN by class:", *(f"{float(curve.total.value):.1f}" for curve in curves))

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    place = np.arange(len(BANDS))
    for i, (name, curve) in enumerate({"S_NN": stored, "I(X; label)": known}.items()):
        share, error = (np.asarray(v) / float(curve.total) for v in (curve.value, curve.stderr))
        left.bar(place + 0.4 * i - 0.2, share, 0.4, yerr=error, label=f"{name}, {curve.total} nats")
    left.set(xticks=place, xticklabels=BANDS, ylabel="share", ylim=0)
    left.legend(fontsize=8)
    for digit, curve in enumerate(curves):
        rate = jnp.diff(curve.cumulative) / -jnp.diff(curve.log_snr)
        where = (curve.log_snr[1:] + curve.log_snr[:-1]) / 2
        middle.plot(where, rate, label=str(digit))
    middle.set(xlabel="log-SNR (data to noise)", ylabel="entropy rate, given the label (nats)")
    middle.set(xlim=(10, -8), ylim=0)
    middle.legend(fontsize=8, ncols=2)
    for weight, rate in rates.items():
        text = f"w = {weight:.0f}: {found[weight]:.1f} nats"
        right.plot(log_snr, rate, label=text)
    right.set(xlabel="log-SNR (noise to data)", ylabel="KL rate of guided paths (nats)", ylim=0)
    right.legend(fontsize=8)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("guidance_information.png"))
    main(parser.parse_args().out)
