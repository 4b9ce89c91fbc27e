"""A U-Net trained by diffusers on handwritten digits, and one trained by entropix beside it.

The first is trained in PyTorch with the noise of a scheduler of diffusers, and saved as a pipeline,
which is then measured. The second has about as many parameters, and is trained for as many steps
with the same batch size. Both are measured on unseen digits. Needs the extra `torch`.

    python examples/pretrained_unet.py --out pretrained_unet.png
"""

import argparse
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import entropix as ex


def train_with_diffusers(folder: str, images: np.ndarray, steps: int, widths: tuple[int, ...]):
    """Train a `UNet2DModel` to predict noise, save its pipeline; returns its number of weights."""
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
    return sum(p.numel() for p in network.parameters())


def main(out: Path, steps=1500, widths=(32, 64), evaluations=16_384, samples=24) -> dict:
    """Train, measure and plot; returns S_NN and the bits per dimension of both networks."""
    noise_key, model_key, fit_key, key = jax.random.split(jax.random.key(0), 4)
    digits = np.asarray(ex.datasets.load("digits").points).reshape(-1, 8, 8)
    digits = np.random.default_rng(0).permutation(digits)
    train, held_out = np.tile(digits[300:], (32, 1, 1)), digits[:300]  # 17 levels
    # Uniform noise of one level makes them continuous; the values are brought to [-1, 1].
    noisy = (ex.distributions.dequantise(part, key=noise_key) for part in (train, held_out))
    train, test = (np.asarray(part) / 8.5 - 1 for part in noisy)

    with tempfile.TemporaryDirectory() as folder:
        sizes = {"diffusers": train_with_diffusers(folder, train[:, None], steps, widths)}
        models = {"diffusers": ex.models.from_diffusers(folder)}
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 20.0))  # of DDPM, in continuous time
    network = ex.UNet((8, 8), widths=widths, key=model_key)
    model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(train, process))
    options = {"steps": steps, "batch_size": 64, "loss": ex.Denoising(num_draws=1)}
    models["entropix"] = ex.fit(model, train, key=fit_key, **options).model
    sizes["entropix"] = ex.networks.network_size(network).parameters

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
        print(f"{name}: {sizes[name]} parameters, {text}")
        result[name] = (float(curve.total), float(bits))
    left.set(xlabel="log-SNR (data to noise)", ylabel="entropy from the data on (nats)")
    left.set(xlim=(10, -10), ylim=0)
    left.legend(fontsize=8)
    for axes, (name, values) in zip(rest, images.items(), strict=True):
        rows = np.reshape(values, (-1, 8, 8, 8)).transpose(0, 2, 1, 3).reshape(-1, 64)
        axes.imshow(rows, cmap="gray_r", vmin=0, vmax=16)
        axes.set(title=name, xticks=[], yticks=[])
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("pretrained_unet.png"))
    main(parser.parse_args().out)
