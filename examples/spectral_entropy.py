"""Diffusion spectral entropy of the hidden layers of a network, as a function of the noise level.

The states of a layer form a point cloud. The entropy of the spectrum of a random walk on it is a
smooth count of the states that the layer distinguishes (Liao et al., arXiv 2312.04823). It is
compared, before and after training, with the entropy that the network stores at each log-SNR.

    python examples/spectral_entropy.py --out spectral_entropy.png
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex
from entropix import datasets


def spectral_entropy(points: jax.Array) -> jax.Array:
    r"""$-\sum_i\alpha_i\log\alpha_i$, $\alpha$ the normalised spectrum of a random walk, in nats.

    Uses a density-normalised symmetric Gaussian kernel with the width of the median distance.
    """
    squared = jnp.sum((points[:, None] - points) ** 2, axis=-1)
    kernel = jnp.exp(-squared / jnp.median(squared))
    root = jnp.sqrt(jnp.sum(kernel, axis=1))
    kernel = kernel / (root[:, None] * root)
    root = jnp.sqrt(jnp.sum(kernel, axis=1))
    spectrum = jnp.abs(jnp.linalg.eigvalsh(kernel / (root[:, None] * root)))
    share = spectrum / jnp.sum(spectrum)
    return -jnp.sum(jax.scipy.special.xlogy(share, share))


def until(network: ex.FourierMLP, depth: int) -> ex.FourierMLP:
    """The network up to and including a hidden layer."""
    parts = (network.layers, network.embeddings, network.norms)
    cut = (*(part[:depth] for part in parts), eqx.nn.Identity())
    return eqx.tree_at(lambda n: (n.layers, n.embeddings, n.norms, n.head), network, cut)


def main(out: Path, steps: int = 3000, samples: int = 8192, points: int = 300, num: int = 17):
    """Train, measure layers against log-SNR, plot; returns where each and S_NN are largest."""
    data_key, model_key, fit_key, noise_key, key = jax.random.split(jax.random.key(0), 5)
    dataset = datasets.load("eight-gaussians", num_samples=samples, key=data_key)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    scaling = ex.GaussianScaling.from_data(dataset.points, process)
    network = ex.FourierMLP(dataset.dim, widths=(128, 128, 128), key=model_key)
    untrained = ex.EntropyMatching(network, process, scaling)
    trained = ex.fit(untrained, dataset.points, key=fit_key, steps=steps, batch_size=128).model
    x, log_snrs = jnp.asarray(dataset.points[:points]), jnp.linspace(-7.0, 9.0, num)
    z = jax.random.normal(noise_key, x.shape)

    @eqx.filter_jit
    def along(layer):
        def at(log_snr):
            s = process.time_of_log_snr(log_snr)
            y = (process.scale(s) * x + process.std(s) * z) / scaling.input_std(process, s)
            return spectral_entropy(jax.vmap(layer, in_axes=(None, 0))(log_snr, y))

        return jax.lax.map(at, log_snrs)

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    left.plot(log_snrs, along(lambda _, y: y), "k:", label="state $y_s$ itself")
    left.plot([], [], "k--", lw=0.8, label="untrained")
    result = {}
    for depth in (1, 2, 3):
        before, after = (along(until(m.network, depth)) for m in (untrained, trained))
        left.plot(log_snrs, before, f"C{depth}--", lw=0.8)
        left.plot(log_snrs, after, f"C{depth}", label=f"layer {depth}")
        towards_data = jnp.where(log_snrs > -1, after - before, -jnp.inf)
        result[f"layer {depth}"] = float(log_snrs[jnp.argmax(towards_data)])
        print(
            f"layer {depth}: {after[0]:.2f} nats in noise, {after[-1]:.2f} in data; training adds "
            f"at most {jnp.max(towards_data):.2f}, at log-SNR {result[f'layer {depth}']:+.1f}"
        )

    times = process.time_of_log_snr(jnp.linspace(10.0, -8.0, 37))
    curve = ex.entropy_curve(trained, dataset.points, key=key, times=times, num_evaluations=131_072)
    middle = (curve.log_snr[1:] + curve.log_snr[:-1]) / 2
    rate = -jnp.diff(curve.cumulative) / jnp.diff(curve.log_snr)
    right.plot(middle, rate)
    result["entropy"] = float(middle[jnp.argmax(rate)])
    print(f"the network stores most at log-SNR {result['entropy']:+.1f}: S_NN {curve.total} nats")
    left.legend(fontsize="small")
    left.set_ylabel("diffusion spectral entropy (nats)")
    right.set_ylabel(r"entropy stored, $dS_{NN}/d\lambda$ (nats)")
    figure.supxlabel(r"log-SNR $\lambda$ (noise left, data right)", fontsize="medium")
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("spectral_entropy.png"))
    main(parser.parse_args().out)
