"""Where the information about handwritten digits is: in which pixels, at which scales and noise.

One network learns the fields of digits with and without their label. Its neural entropy and its
information about the label are sums over pixels, or over the frequencies of the cosine transform,
and integrals over log-SNR. The critical times are those of speciation, half of the class
entropy, and collapse.

    python examples/where_information_is.py --out where_information_is.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


def main(out: Path, steps: int = 6000, width: int = 512, evaluations: int = 65_536) -> np.ndarray:
    """Train, measure and plot; returns the class entropy from the data end to the noise end."""
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

    cosines = ex.estimators.CosineTransform(bands=True)
    options = {"key": key, "num_evaluations": evaluations}
    pixels = ex.entropy_curve(model, held_out, per_coordinate=True, num_times=2, **options)
    scales = ex.entropy_curve(
        model,
        held_out,
        per_coordinate=lambda image: cosines(image.reshape(8, 8)),
        times=process.time_of_log_snr(jnp.linspace(10, -8, 37)),
        **options,
    )
    of_label = ex.mutual_information(model, held_out, told, per_coordinate=True, **options)
    options |= {"num_points": len(levels) - 400, "labels": told}
    times = ex.critical_times(model, held_out, **options)
    classes = times.class_entropy
    assert classes is not None
    names = "mean", "1", "2 to 3", "4 to 7"
    print(f"S_NN {pixels.total}, I(X; label) {of_label.total}")
    for name, value, error in zip(names, scales.value, scales.stderr, strict=True):
        print(f"frequency {name:7} {value:6.2f} ± {error:.2f} nats")
    print(times)
    value, error = classes.value[0], classes.stderr[0]
    print(f"H(label) {classes.prior}, given the data {value:.2f} ± {error:.2f} nats")

    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    maps = {"neural entropy": pixels, "information about the label": of_label}
    for panel, (title, curve) in zip(axes[0], maps.items(), strict=True):
        image = panel.imshow(curve.value.reshape(8, 8))
        panel.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=panel, label="nats per pixel")
    left, right = axes[1]
    log_snr = scales.log_snr
    rates = scales.intervals / -jnp.diff(log_snr)[:, None]
    for name, rate in zip(names, rates.T, strict=True):
        left.plot((log_snr[1:] + log_snr[:-1]) / 2, rate, label=f"frequency {name}")
    left.set(ylabel="entropy rate (nats per unit log-SNR)")
    right.plot(classes.log_snr, classes.value, "k")
    low, high = (classes.value + sign * 2 * classes.stderr for sign in (-1, 1))
    right.fill_between(classes.log_snr, low, high, color="k", alpha=0.2)
    right.set(ylabel="H(label | noisy image) (nats)", ylim=(0, 2.5))
    marks = {"speciation": times.speciation, "class": classes.half, "collapse": times.collapse}
    for (name, time), colour in zip(marks.items(), ("C0", "C1", "C2"), strict=True):
        right.axvline(float(time.log_snr), color=colour, label=name)
    for panel, place in ((left, "upper right"), (right, "upper left")):
        panel.set(xlabel="log-SNR (data to noise)", xlim=(10, -8))
        panel.legend(fontsize=8, loc=place)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return np.asarray(classes.value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("where_information_is.png"))
    main(parser.parse_args().out)
