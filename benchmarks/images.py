"""Training throughput of image networks, as examples a second and as a share of the device's rate.

The rate is that of one large product of square matrices in the same precision, measured in the same
run. `--quick` takes tiny networks, to try the script.
"""

import sys
import time

import jax
import jax.numpy as jnp

import entropix as ex
from benchmarks.reference import table


ROUNDS = 3


def matrix_rate(dtype: str, size: int) -> float:
    """Operations a second of a product of square matrices."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def throughput(quick: bool = False) -> list[dict[str, str | float]]:
    """Images and operations a second for each network and precision."""
    steps, batch, size = (2, 4, 256) if quick else (50, 128, 8192)
    widths, width, depth = ((8, 8), 16, 1) if quick else ((32, 64, 128), 256, 6)
    rows = []
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    for precision in ("float32",) if quick else ("float32", "bfloat16"):
        key = jax.random.key(0)
        networks = {
            "UNet, 28 x 28": ex.UNet((28, 28), key=key, precision=precision, widths=widths),
            "DiT, 28 x 28": ex.DiT(
                (28, 28), key=key, precision=precision, width=width, depth=depth
            ),
        }
        if not quick:
            networks["UNet.large, 32 x 32 x 3"] = ex.UNet.large(
                (32, 32, 3), key=key, precision=precision
            )
        rate = matrix_rate(precision, size)
        for name, network in networks.items():
            data = jax.random.normal(key, (4 * batch, *network.shape))
            scaling = ex.GaussianScaling.from_data(data, process)
            model = ex.EntropyMatching(network, process, scaling)
            # Gradients cost two evaluations more.
            work = 3 * ex.networks.network_size(network).flops * batch
            once = ex.training.Callback(lambda *_: None, every=steps)  # all steps as one chunk
            loss = ex.Denoising(num_draws=1)
            best = float("inf")
            for number in range(ROUNDS):
                start = time.perf_counter()
                fit = ex.fit(
                    model, data, key=key, steps=steps, batch_size=batch, loss=loss, callback=once
                )
                jax.block_until_ready(fit.history.loss)
                if number:  # the first round compiles
                    best = min(best, time.perf_counter() - start)
            rate_of_work = steps * work / best
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "images_per_second": steps * batch / best,
                    "operations_per_second": rate_of_work,
                    "matrix_rate": rate,
                    "share": rate_of_work / rate,
                }
            )
    return rows


def main(quick: bool = False) -> None:
    """Print the table."""
    table(
        f"Image networks ({jax.devices()[0].device_kind})",
        ["network", "precision", "examples/s", "10^12 operations/s", "share of the matrix rate"],
        [
            [
                str(row["network"]),
                str(row["precision"]),
                f"{row['images_per_second']:.0f}",
                f"{row['operations_per_second'] / 1e12:.3f}",
                f"{100 * row['share']:.0f}%",
            ]
            for row in throughput(quick)
        ],
    )


if __name__ == "__main__":
    main("--quick" in sys.argv)
