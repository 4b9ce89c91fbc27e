"""Mutual information of a family of transformed Gaussian pairs, from one training run.

Invertible maps of x and of y do not change I(X; Y): for a Gaussian pair with correlation rho it is
-log(1 - rho^2)/2 after any such maps. The network is conditioned on y and rho, or on one of them.
One run learns the fields of x given (y, rho) and given rho; their difference gives the information.

    python examples/mutual_information.py --out mutual_information.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


def draw(rho: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Transformed pairs, one for each rho: the tails of x are compressed, y is skewed."""
    a, b = jax.random.normal(key, (2, len(rho), 1))
    rho = rho[:, None]
    x, y = a, rho * a + jnp.sqrt(1 - rho**2) * b
    return jnp.arcsinh(2 * x), jnp.exp(y / 2) - 1


def main(out: Path, steps: int = 4000, samples: int = 20_000, evaluations: int = 32_768) -> float:
    """Train, measure and plot; returns the largest error in nats."""
    rho_key, data_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 5)
    rho = jax.random.uniform(rho_key, (samples,), minval=-0.95, maxval=0.95)
    x, y = draw(rho, data_key)

    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    inner = ex.FourierMLP(1, condition_dim=4, widths=(128, 128), key=model_key)
    network = ex.networks.ConditionDropout(inner, condition_dim=(1, 1), rate=(0.4, 0.02))
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(x, process))
    condition = (y, rho[:, None])
    model = ex.fit(model, x, condition=condition, key=fit_key, steps=steps, batch_size=128).model

    # New pairs: on its training samples an overfitted network overestimates the information.
    grid = np.array([0.0, 0.3, 0.5, 0.7, 0.8, 0.9])
    truth = np.abs(np.log(1 - grid**2)) / 2
    estimates = {"denoising": [], "score": []}
    for value in grid:
        same = jnp.full(samples, value)
        fresh_x, fresh_y = draw(same, jax.random.fold_in(data_key, int(100 * value) + 1))
        for form, found in estimates.items():
            found.append(
                ex.information.conditional_mutual_information(
                    model,
                    fresh_x,
                    fresh_y,
                    same[:, None],
                    key=key,
                    form=form,
                    num_evaluations=evaluations,
                )
            )
    print("rho   truth   denoising form    score form")
    for i, value in enumerate(grid):
        shown = "    ".join(f"{found[i]!s:14}" for found in estimates.values())
        print(f"{value:.1f}   {truth[i]:.3f}   {shown}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.scatter(*(v[:, 0] for v in draw(jnp.full(3000, 0.9), data_key)), s=2)
    left.set(xlabel="$x$", ylabel="$y$", title=r"bent Gaussian pair, $\rho$ = 0.9")
    line = np.linspace(0, 0.95, 200)
    right.plot(line, -np.log(1 - line**2) / 2, "k", lw=1, label=r"$-\frac{1}{2}\log(1-\rho^2)$")
    for (form, found), marker in zip(estimates.items(), "os", strict=True):
        values = [float(e) for e in found]
        errors = [2 * float(e.stderr) for e in found]
        right.errorbar(grid, values, errors, fmt=marker, ms=4, capsize=3, label=f"{form} form")
    right.set(xlabel=r"correlation $\rho$", ylabel="$I(X; Y)$ (nats)")
    right.legend()
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return max(abs(float(e) - t) for e, t in zip(estimates["denoising"], truth, strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("mutual_information.png"))
    main(parser.parse_args().out)
