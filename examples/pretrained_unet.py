"""One U-Net, trained by diffusers and by entropix.

The first is trained in PyTorch with the noise of a scheduler of diffusers, and saved as a pipeline,
which is then measured. The second has the same layers, written in JAX, and the same initial
weights; it is trained by `ex.fit` for as many steps with the same batch size. Both are measured on
unseen digits. Needs the extra `torch`.

    python examples/pretrained_unet.py --out pretrained_unet.png
"""

import argparse
import tempfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


class UNet2D(eqx.Module):
    """The layers of a `UNet2DModel` without attention, with its weights under the same names."""

    weights: dict[str, jax.Array]
    groups: int = eqx.field(static=True)

    @staticmethod
    def from_torch(network) -> "UNet2D":
        weights = {name: jnp.array(w.numpy()) for name, w in network.state_dict().items()}
        return UNet2D(weights, network.config.norm_num_groups)

    def linear(self, name, x):
        return self.weights[f"{name}.weight"] @ x + self.weights[f"{name}.bias"]

    def conv(self, name, x, stride=1):
        kernel = self.weights[f"{name}.weight"]  # shifted images: XLA is slow at convolutions here
        reach, (_, height, width) = kernel.shape[-1] // 2, x.shape
        x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach)))
        shifts = list(np.ndindex(kernel.shape[2:]))
        parts = [x[:, i : i + height : stride, j : j + width : stride] for i, j in shifts]
        kernel = kernel.reshape(*kernel.shape[:2], -1)
        out = jnp.einsum("oik,kihw->ohw", kernel, jnp.stack(parts))
        return out + self.weights[f"{name}.bias"][:, None, None]

    def activated(self, name, x):
        groups = x.reshape(self.groups, -1)
        groups = groups - groups.mean(1, keepdims=True)
        groups = groups / jnp.sqrt(jnp.mean(groups**2, 1, keepdims=True) + 1e-5)
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return jax.nn.silu(groups.reshape(x.shape) * scale[:, None, None] + shift[:, None, None])

    def block(self, name, x, time):
        hidden = self.conv(f"{name}.conv1", self.activated(f"{name}.norm1", x))
        hidden = hidden + self.linear(f"{name}.time_emb_proj", time)[:, None, None]
        hidden = self.conv(f"{name}.conv2", self.activated(f"{name}.norm2", hidden))
        changes = f"{name}.conv_shortcut.weight" in self.weights
        return hidden + (self.conv(f"{name}.conv_shortcut", x) if changes else x)

    def at_step(self, step, x):
        """The output for an image (1, height, width) at a step of the scheduler."""
        half = self.weights["conv_in.weight"].shape[0] // 2
        angles = step * 10_000.0 ** (-jnp.arange(half) / half)
        time = self.linear("time_embedding.linear_1", jnp.r_[jnp.cos(angles), jnp.sin(angles)])
        time = jax.nn.silu(self.linear("time_embedding.linear_2", jax.nn.silu(time)))
        levels = 1 + max(int(n.split(".")[1]) for n in self.weights if n.startswith("down_blocks"))
        x = self.conv("conv_in", x)
        seen = [x]
        for i in range(levels):
            seen.append(x := self.block(f"down_blocks.{i}.resnets.0", x, time))
            if i + 1 < levels:
                x = self.conv(f"down_blocks.{i}.downsamplers.0.conv", x, stride=2)
                seen.append(x)
        for j in range(2):
            x = self.block(f"mid_block.resnets.{j}", x, time)
        for i in range(levels):
            for j in range(2):
                x = jnp.concatenate([x, seen.pop()])
                x = self.block(f"up_blocks.{i}.resnets.{j}", x, time)
            if i + 1 < levels:
                x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
                x = self.conv(f"up_blocks.{i}.upsamplers.0.conv", x)
        return self.conv("conv_out", self.activated("conv_norm_out", x))

    def __call__(self, log_snr, y, condition=None):
        # The step of the scheduler at this noise: beta rises from 0.1 to 20.
        integral = jax.nn.softplus(-log_snr)
        step = 1000 * (jnp.sqrt(0.01 + 39.8 * integral) - 0.1) / 19.9
        return self.at_step(step, y[None])[0]


def train_with_diffusers(folder: str, images: np.ndarray, steps: int, widths: tuple[int, ...]):
    """Train a `UNet2DModel` to predict noise, save its pipeline; returns it before training."""
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise ImportError("missing: python -m pip install 'entropix-jax[torch]'") from error
    torch.manual_seed(0)
    shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": widths}
    shape |= {"layers_per_block": 1, "norm_num_groups": 8, "add_attention": False}
    for way in ("down", "up"):
        shape[f"{way}_block_types"] = (f"{way.title()}Block2D",) * len(widths)
    network = diffusers.UNet2DModel(**shape)
    before = UNet2D.from_torch(network)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rate = diffusers.optimization.get_cosine_schedule_with_warmup(optimiser, steps // 20, steps)
    data = torch.from_numpy(images)
    for _ in range(steps):
        clean = data[torch.randint(len(data), (64,))]
        noise, times = torch.randn_like(clean), torch.randint(1000, (64,))
        predicted = network(scheduler.add_noise(clean, noise, times), times).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        optimiser.step()
        rate.step()
        optimiser.zero_grad()
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(folder)
    # The layers in JAX are those in PyTorch.
    same, noise = UNet2D.from_torch(network), torch.randn(1, 1, 8, 8)
    expected = network(noise, torch.tensor(300)).sample.detach().numpy()
    np.testing.assert_allclose(same.at_step(300, noise.numpy()[0])[None], expected, atol=1e-4)
    return before


def main(out: Path, steps=1500, widths=(32, 64), evaluations=16_384, samples=24) -> dict:
    """Train, measure and plot; returns S_NN and the bits per dimension of both networks."""
    noise_key, fit_key, key = jax.random.split(jax.random.key(0), 3)
    digits = np.asarray(ex.datasets.load("digits").points).reshape(-1, 8, 8)
    digits = np.random.default_rng(0).permutation(digits)
    train, held_out = np.tile(digits[300:], (32, 1, 1)), digits[:300]  # 17 levels
    # Uniform noise of one level makes them continuous; the values are brought to [-1, 1].
    noisy = (ex.distributions.dequantise(part, key=noise_key) for part in (train, held_out))
    train, test = (np.asarray(part) / 8.5 - 1 for part in noisy)

    with tempfile.TemporaryDirectory() as folder:
        network = train_with_diffusers(folder, train[:, None], steps, widths)
        models = {"diffusers": ex.models.from_diffusers(folder)}
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 20.0))  # of DDPM, in continuous time
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(train, process))
    options = {"steps": steps, "batch_size": 64, "loss": ex.Denoising(num_draws=1)}
    models["entropix"] = ex.fit(model, train, key=fit_key, **options).model
    print(f"one network of {ex.networks.network_size(network, shape=(8, 8)).parameters} parameters")

    figure = plt.figure(figsize=(9, 4.2), layout="constrained")
    left, *rest = figure.subplot_mosaic("aab;aac;aad").values()
    result, images = {}, {"held-out digits": held_out[:samples]}
    for name, model in models.items():
        options = {"key": key, "cutoff": 0.01}  # the noise of the first step of DDPM
        x, levels = (part.reshape(-1, *model.shape) for part in (test, held_out))
        curve = ex.entropy_curve(model, x, num_evaluations=evaluations, **options)
        options |= {"transform": (8.5, 8.5), "method": ex.PathBound(max(16, evaluations // 256))}
        bits = ex.density.bits_per_dimension(model, levels, num_draws=2, **options).mean
        images[name] = 8.5 * (ex.sample(model, key=key, num_samples=samples) + 1) - 0.5
        text = f"S_NN {curve.total:.1f} nats, {bits:.3f} bits per pixel"
        left.plot(curve.log_snr, curve.cumulative, label=f"{name}: S_NN {curve.total:.1f} nats")
        print(f"{name}: {text}")
        result[name] = (float(curve.total), float(bits))
    left.set(xlabel="log-SNR (data to noise)", ylabel="entropy from the data on (nats)")
    left.set(xlim=(10, -10), ylim=0)
    left.legend(fontsize=8)
    for axes, (name, values) in zip(rest, images.items(), strict=True):
        tiles = np.pad(np.reshape(values, (-1, 8, 8, 8)), [(0, 0), (0, 0), (1, 1), (1, 1)])
        rows = tiles.transpose(0, 2, 1, 3).reshape(-1, 80)
        axes.imshow(rows, cmap="gray_r", vmin=0, vmax=16)
        axes.set(title=name, xticks=[], yticks=[])
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("pretrained_unet.png"))
    main(parser.parse_args().out)
