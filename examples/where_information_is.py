"""Where the information about handwritten digits is: in which pixels, at which scales and noise.

One network learns the fields of digits with and without their label. Its neural entropy and its
information about the label are sums over pixels, or over the frequencies of the cosine transform,
and integrals over log-SNR. The critical times say at which noise what is decided.

    python examples/where_information_is.py --out where_information_is.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


HELD_OUT = 400


def main(out: Path, steps: int = 1500, evaluations: int = 65_536) -> np.ndarray:
    """Train, measure and plot; returns the class entropy from the data end to the noise end."""
    noise_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 4)
    digits = ex.datasets.load("digits")
    # Uniform noise of one grey level gives the integers a density.
    x = ex.distributions.dequantise(digits.points, key=noise_key)
    x = (x - jnp.mean(x)) / jnp.std(x)
    order = np.random.default_rng(0).permutation(len(x))
    x, label = x[order], jax.nn.one_hot(digits.labels[order], 10)
    train, held_out = x[HELD_OUT:], x[:HELD_OUT]

    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    inner = ex.FourierMLP(64, condition_dim=11, widths=(256, 256), key=model_key)
    network = ex.networks.ConditionDropout(inner, condition_dim=10, rate=0.4)
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(train, process))
    options = {"condition": label[HELD_OUT:], "steps": steps, "batch_size": 128}
    model = ex.fit(model, train, key=fit_key, **options).model

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
    told = ex.mutual_information(model, held_out, label[:HELD_OUT], per_coordinate=True, **options)
    times = ex.critical_times(
        model, held_out, num_points=len(train), labels=label[:HELD_OUT], **options
    )
    classes = times.class_entropy
    assert classes is not None
    names = ["mean", "1", "2 to 3", "4 to 7"]
    print(f"S_NN {pixels.total}, I(X; label) {told.total}")
    for name, value, error in zip(names, scales.value, scales.stderr, strict=True):
        print(f"frequency {name:7} {value:6.2f} ± {error:.2f} nats")
    print(times)
    print(f"H(label) {classes.prior}, given the data {classes.value[0]} ± {classes.stderr[0]}")

    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for panel, curve, title in (
        (axes[0, 0], pixels, "neural entropy"),
        (axes[0, 1], told, "information about the label"),
    ):
        image = panel.imshow(curve.value.reshape(8, 8))
        panel.set(title=title, xticks=[], yticks=[])
        figure.colorbar(image, ax=panel, label="nats per pixel")
    log_snr = scales.log_snr
    rates = scales.intervals / -jnp.diff(log_snr)[:, None]
    for name, rate in zip(names, rates.T, strict=True):
        axes[1, 0].plot((log_snr[1:] + log_snr[:-1]) / 2, rate, label=f"frequency {name}")
    axes[1, 0].set(ylabel="entropy rate (nats per unit log-SNR)")
    axes[1, 0].legend()
    axes[1, 1].plot(classes.log_snr, classes.value)
    low, high = (classes.value + sign * 2 * classes.stderr for sign in (-1, 1))
    axes[1, 1].fill_between(classes.log_snr, low, high, alpha=0.3)
    axes[1, 1].set(ylabel="H(label | noisy image) (nats)")
    for panel in axes[1]:
        panel.set(xlabel="log-SNR (data to noise)", xlim=(10, -8))
        for time, style in ((times.speciation, ":"), (classes.half, "-"), (times.collapse, "--")):
            panel.axvline(float(time.log_snr), color="0.5", lw=1, ls=style)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return np.asarray(classes.value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("where_information_is.png"))
    main(parser.parse_args().out)
