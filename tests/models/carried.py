"""One small network in several frameworks: diffusers' `UNet2DModel` of one resolution.

It is written once, as a function of its layers; each framework supplies these. The weights are
those of the Equinox network, which is trained here.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import entropix as ex


WIDTH, GROUPS, SIDE, STEPS = 8, 4, 8, 1000
# diffusers' scheduler of Ho et al., whose rates and their complements are rounded to float32: this
# moves the log-SNR of the first step by 2e-4.
TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS, dtype=np.float32), dtype=np.float64)
CONVS = {  # channels in, channels out, kernel
    "conv_in": (1, WIDTH, 3),
    "conv1": (2 * WIDTH, WIDTH, 3),
    "conv2": (WIDTH, WIDTH, 3),
    "shortcut": (2 * WIDTH, WIDTH, 1),
    "conv_out": (WIDTH, 1, 3),
}
LINEARS = {
    "time1": (WIDTH, 4 * WIDTH),
    "time2": (4 * WIDTH, 4 * WIDTH),
    "projection": (4 * WIDTH, WIDTH),
}
NORMS = {"norm1": 2 * WIDTH, "norm2": WIDTH, "norm_out": WIDTH}
NAMES = {  # in diffusers
    "conv_in": "conv_in",
    "time1": "time_embedding.linear_1",
    "time2": "time_embedding.linear_2",
    "norm1": "up_blocks.0.resnets.0.norm1",
    "conv1": "up_blocks.0.resnets.0.conv1",
    "projection": "up_blocks.0.resnets.0.time_emb_proj",
    "norm2": "up_blocks.0.resnets.0.norm2",
    "conv2": "up_blocks.0.resnets.0.conv2",
    "shortcut": "up_blocks.0.resnets.0.conv_shortcut",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}


def forward(layers, x, step, axis):
    """The noise of x at a step; `axis` is that of the channels, and x may have a batch axis."""
    frequencies = jnp.exp(-math.log(1e4) * jnp.arange(WIDTH // 2) / (WIDTH // 2))
    angles = jnp.asarray(step)[..., None] * frequencies
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    silu = jax.nn.silu
    time = silu(layers["time2"](silu(layers["time1"](features))))
    place = [-3, -2, -1]
    place.remove(axis)
    skipped = layers["conv_in"](x)
    both = jnp.concatenate([skipped, skipped], axis=axis)
    hidden = layers["conv1"](silu(layers["norm1"](both)))
    hidden = hidden + jnp.expand_dims(layers["projection"](time), place)
    hidden = layers["conv2"](silu(layers["norm2"](hidden)))
    hidden = layers["shortcut"](both) + hidden
    return layers["conv_out"](silu(layers["norm_out"](hidden)))


class Network(eqx.Module):
    """In Equinox."""

    layers: dict[str, eqx.Module]

    def __init__(self, key):
        keys = iter(jax.random.split(key, len(CONVS) + len(LINEARS)))
        self.layers = {
            name: eqx.nn.Conv2d(n_in, n_out, size, padding=size // 2, key=next(keys))
            for name, (n_in, n_out, size) in CONVS.items()
        }
        for name, (n_in, n_out) in LINEARS.items():
            self.layers[name] = eqx.nn.Linear(n_in, n_out, key=next(keys))
        for name, width in NORMS.items():
            self.layers[name] = eqx.nn.GroupNorm(GROUPS, width)

    def __call__(self, state, step, condition=None):
        return forward(self.layers, state, step, -3)


def model_of(function, **options):
    """The model of a network that predicts the noise at the steps of the scheduler."""
    options = {"shape": (1, SIDE, SIDE), "parametrisation": "noise", "level": TABLE} | options
    return ex.models.from_denoiser(function, **options)


def digits():
    """The digits of scikit-learn with values in [-1, 1], shape (1797, 1, 8, 8)."""
    images = load_digits().images.astype(np.float32)
    return images[:, None] / 8 - 1


def trained(steps=40):
    """The Equinox network after a short training, as a model."""
    model = model_of(Network(jax.random.key(0)))
    adam = optax.adam(5e-3)
    key = jax.random.key(1)
    return ex.fit(model, digits(), key=key, steps=steps, batch_size=16, optimiser=adam).model


def with_linen(network):
    """A linen module and its parameters."""
    import flax.linen as nn

    class Module(nn.Module):
        def setup(self):
            self.parts = (
                {
                    name: nn.Conv(n_out, (size, size), padding=size // 2)
                    for name, (_, n_out, size) in CONVS.items()
                }
                | {name: nn.Dense(n_out) for name, (_, n_out) in LINEARS.items()}
                | {name: nn.GroupNorm(GROUPS, epsilon=1e-5) for name in NORMS}
            )

        def __call__(self, state, step):  # channels last
            x = jnp.moveaxis(state, 1, -1)
            return jnp.moveaxis(forward(self.parts, x, step, -1), -1, 1)

    weights = {f"parts_{name}": of_flax(layer) for name, layer in network.layers.items()}
    return Module(), {"params": weights}


def with_nnx(network):
    """An NNX module."""
    from flax import nnx

    class Module(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.parts = nnx.Dict(
                {
                    name: nnx.Conv(n_in, n_out, (size, size), padding=size // 2, rngs=rngs)
                    for name, (n_in, n_out, size) in CONVS.items()
                }
                | {name: nnx.Linear(*sizes, rngs=rngs) for name, sizes in LINEARS.items()}
                | {
                    name: nnx.GroupNorm(width, GROUPS, epsilon=1e-5, rngs=rngs)
                    for name, width in NORMS.items()
                }
            )

        def __call__(self, state, step):
            x = jnp.moveaxis(state, 1, -1)
            return jnp.moveaxis(forward(self.parts, x, step, -1), -1, 1)

    module = Module()
    for name, layer in network.layers.items():
        for entry, value in of_flax(layer).items():
            setattr(module.parts[name], entry, nnx.Param(value))
    return module


def of_flax(layer):
    """The parameters of an Equinox layer in the order of Flax."""
    if isinstance(layer, eqx.nn.GroupNorm):
        return {"scale": layer.weight, "bias": layer.bias}
    order = (2, 3, 1, 0) if layer.weight.ndim == 4 else (1, 0)
    return {"kernel": layer.weight.transpose(order), "bias": layer.bias.reshape(-1)}


def with_diffusers(network):
    """The `UNet2DModel`."""
    import diffusers
    import torch

    module = diffusers.UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=0,
        block_out_channels=(WIDTH,),
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        norm_num_groups=GROUPS,
    )
    weights = {}
    for name, layer in network.layers.items():
        weights[f"{NAMES[name]}.weight"] = torch.from_numpy(np.array(layer.weight))
        weights[f"{NAMES[name]}.bias"] = torch.from_numpy(np.array(layer.bias).reshape(-1))
    module.load_state_dict(weights)
    return module
