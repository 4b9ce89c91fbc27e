"""Evaluations per second of a PyTorch module through JAX, against a loop in PyTorch alone.

Needs the extra `torch`. The loop takes batches of 256, JAX those that `TorchFunction` chooses; the
estimator is `neural_entropy`, whose evaluations are counted in the module.
"""

import argparse
import itertools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import entropix as ex
from benchmarks.reference import table


BATCH, DIM, SIDE = 256, 64, 8
CHUNK = 4096  # that of the estimators


class Counted(torch.nn.Module):
    """A module that counts the examples it is given."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module
        self.count = 0

    def forward(self, states: Any, levels: Any) -> Any:
        self.count += len(states)
        return self.module(states, levels)


class Perceptron(torch.nn.Module):
    """Three hidden layers."""

    def __init__(self, width: int):
        super().__init__()
        sizes = (DIM + 1, width, width, width, DIM)
        pairs = itertools.pairwise(sizes)
        layers = [part for pair in pairs for part in (torch.nn.Linear(*pair), torch.nn.SiLU())]
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, states: Any, levels: Any) -> Any:
        flat = torch.cat([states.flatten(1), levels[:, None] / 1000], dim=1)
        return self.layers(flat).reshape(states.shape)


def unet() -> torch.nn.Module:
    """The network of `examples/pretrained_unet.py`."""
    import diffusers

    return diffusers.UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8,
        add_attention=False,
    )


def rates(module: torch.nn.Module, batches: int, rounds: int) -> dict[str, float]:
    """Examples per second of the loop, of the same in JAX by chunks, and of an estimator."""
    counted = Counted(module).eval()
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    function = ex.models.TorchFunction(counted)
    model = ex.models.from_denoiser(
        function, shape=(1, SIDE, SIDE), parametrisation="noise", level=table
    )
    rng = np.random.default_rng(0)
    states = rng.normal(size=(batches, BATCH, 1, SIDE, SIDE)).astype(np.float32)
    levels = rng.uniform(0, 999, size=(batches, BATCH)).astype(np.float32)

    def loop() -> None:
        with torch.inference_mode():
            for state, level in zip(
                torch.from_numpy(states), torch.from_numpy(levels), strict=True
            ):
                counted(state, level)

    flat = states.reshape(-1, 1, SIDE, SIDE)
    options = {"key": jax.random.key(0), "num_evaluations": BATCH * batches}
    given = jnp.asarray(flat), jnp.asarray(levels.reshape(-1))

    @jax.jit
    def compiled(*args: jax.Array) -> jax.Array:
        return jax.lax.map(lambda both: function(*both), args, batch_size=CHUNK)

    def mapped() -> None:
        jax.block_until_ready(compiled(*given))

    def estimated() -> None:
        jax.block_until_ready(ex.neural_entropy(model, flat, **options))

    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for run in (loop, mapped, estimated):
            counted.count, start = 0, time.perf_counter()
            run()
            if number:  # the first round compiles
                rate = counted.count / (time.perf_counter() - start)
                found.setdefault(run.__name__, []).append(rate)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}\n")
    rows = []
    networks = {
        "perceptron, width 128": (Perceptron(128), 64),
        "perceptron, width 1024": (Perceptron(1024), 16),
        "UNet2DModel of 0.6 million": (unet(), 4),
    }
    for name, (module, batches) in networks.items():
        found = rates(module, batches, rounds)
        bare = found["loop"]
        shares = [f"{found[key] / bare:.0%}" for key in ("mapped", "estimated")]
        rows.append([name, f"{bare:.3g}", *shares])
    title = "Share of the rate of a bare loop"
    table(title, ["network", "loop, examples/s", "through JAX", "in neural_entropy"], rows)


if __name__ == "__main__":
    main()
