"""Your own network: any function of parameters, log-SNR and state can be used in a model.

A network is an Equinox module called as `network(log_snr, y, condition=None)`. The one below wraps
a plain function and its parameters, from any library. It is trained and measured like the
networks of `entropix`.

    python examples/own_network.py --out own_network.png
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import entropix as ex
from entropix import datasets


class Wrapped(eqx.Module):
    """`function(params, features, y)` as a network; with Flax, `function` is `module.apply`.

    With Flax: `params = module.init(key, features, y)`, then `Wrapped(module.apply, params, dim)`.
    """

    function: Callable = eqx.field(static=True)  # compared by identity: not a new lambda
    params: Any  # every floating-point array in here is trained
    dim: int = eqx.field(static=True)

    def __call__(self, log_snr, y, condition=None):
        # The log-SNR is infinite at exact ends: embed it through a bounded function.
        level = jnp.tanh(log_snr / 8)
        return self.function(self.params, jnp.sin(jnp.array([1, 2, 4, 8]) * level), y)


def initialise(dim: int, width: int, key: jax.Array) -> list[dict[str, jax.Array]]:
    sizes = (dim + 4, width, width, dim)
    layers = []
    for k, n_in, n_out in zip(jax.random.split(key, 3), sizes[:-1], sizes[1:], strict=True):
        weight = jax.random.normal(k, (n_out, n_in)) / n_in**0.5
        layers.append({"weight": weight, "bias": jnp.zeros(n_out)})
    layers[-1]["weight"] *= 0  # an untrained network has stored nothing
    return layers


def perceptron(params: list[dict[str, jax.Array]], features: jax.Array, y: jax.Array) -> jax.Array:
    hidden = jnp.concatenate([y, features])
    for layer in params[:-1]:
        hidden = jax.nn.silu(layer["weight"] @ hidden + layer["bias"])
    return params[-1]["weight"] @ hidden + params[-1]["bias"]


def main(out: Path, steps=3000, samples=8192, evaluations=16_384, beside: bool = True) -> dict:
    """Train it, and a `FourierMLP` if `beside`; returns (S_NN, path KL) of each network."""
    data_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 4)
    dataset = datasets.load("mixture2", num_samples=samples, key=data_key)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    scaling = ex.GaussianScaling.from_data(dataset.points, process)
    exact = ex.ExactModel(dataset.distribution, process)
    wrapped = Wrapped(perceptron, initialise(dataset.dim, 256, model_key), dataset.dim)
    networks = {"plain function": wrapped}
    if beside:
        networks["FourierMLP"] = ex.FourierMLP(dataset.dim, widths=(256, 256), key=model_key)

    options = {"key": key, "num_evaluations": evaluations}
    truth = ex.entropy_curve(exact, dataset.points, **options)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    right.plot(truth.times, truth.cumulative, "k", lw=1, label="exact, $S_{tot}$")
    print(f"{'exact':<16} S_tot {truth.total} nats")
    result = {}
    for name, network in networks.items():
        model = ex.EntropyMatching(network, process, scaling)
        fit = ex.fit(model, dataset.points, key=fit_key, steps=steps, batch_size=128)
        curve = ex.entropy_curve(fit.model, dataset.points, **options)
        distance = ex.path_kl(fit.model, exact, dataset.points, **options)
        print(f"{name:<16} S_NN {curve.total} nats, path KL {distance} nats")
        result[name] = (float(curve.total), float(distance))
        window = max(1, steps // 30)
        smooth = jnp.convolve(fit.history.loss, jnp.ones(window) / window, mode="valid")
        left.plot(fit.history.step[window - 1 :], smooth, lw=1, label=name)
        right.plot(curve.times, curve.cumulative, "--", label=f"{name}, $S_{{NN}}$")
    left.axhline(-truth.total.value, color="k", lw=0.8, ls=":", label="a perfect network")
    left.set(xlabel="step", ylabel="loss (nats), running mean")
    right.set(xlabel="time $s$", ylabel="entropy up to $s$ (nats)")
    left.legend()
    right.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("own_network.png"))
    main(parser.parse_args().out)
