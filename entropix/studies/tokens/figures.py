"""Figures of a measurement of tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from entropix._core.display import draw_band
from entropix.studies.figures import DATA, MODEL, TRAINING, figure, legend_above
from entropix.studies.pictures import draw_images


if TYPE_CHECKING:
    import xarray


def plot_information(record: "xarray.Dataset", path: Path) -> None:
    """What is known of a lost token, and S_NN, against the share of lost tokens."""
    x = record["lost"].values
    with figure(path, (9.0, 3.8)) as fig:
        left, right = fig.subplots(1, 2)
        panels = ((left, "token_information"), (right, "cumulative_entropy"))
        for axes, name in panels:
            values = record[name].mean("seed").values
            error = np.sqrt((record[f"{name}_stderr"] ** 2).mean("seed").values)
            label, band = "held-out data", "± 2 std. errors"
            draw_band(axes, x, values, error, colour=MODEL, label=label, band=band)
            train = record[f"{name}_train"].mean("seed").values
            axes.plot(x, train, color=TRAINING, lw=1.2, ls="--", label="training data")
            axes.set_xlabel("share of lost tokens  (data → noise)")
            axes.set_xlim(0, 1)
            axes.set_ylim(bottom=0)
        left.set_ylabel("S_NN of a lost token [bits]")
        right.set_ylabel("entropy from the data end [nats]")
        legend_above(fig, left)


def plot_positions(record: "xarray.Dataset", path: Path, *, shape: tuple[int, ...]) -> None:
    """S_NN at each position: as an image, or with errors."""
    bits = record["position_entropy"].mean("seed").values / np.log(2)
    error = np.sqrt((record["position_entropy_stderr"] ** 2).mean("seed").values) / np.log(2)
    with figure(path, (5.6, 3.6)) as fig:
        axes = fig.subplots()
        if len(shape) > 1:
            shown = axes.imshow(bits.reshape(shape), cmap="viridis")
            fig.colorbar(shown, ax=axes, label="S_NN [bits]")
            return
        draw_band(axes, np.arange(len(bits)), bits, error, colour=MODEL, label="S_NN", band="")
        axes.set_xlabel("position")
        axes.set_ylabel("S_NN [bits]")
        axes.set_ylim(bottom=0)


def plot_baselines(record: "xarray.Dataset", path: Path) -> None:
    """Bits per token of the model and of all baselines, on held-out data."""
    names = ["the model", *record["baseline"].values, *record["compressor"].values]
    bits = [record["bits_per_token"].mean(), *record["baseline_bits"], *record["compressed_bits"]]
    colours = [MODEL, *[DATA] * record.sizes["baseline"], *["0.6"] * record.sizes["compressor"]]
    with figure(path, (5.6, 3.6)) as fig:
        axes = fig.subplots()
        axes.barh(names, [float(value) for value in bits], color=colours)
        axes.invert_yaxis()
        axes.set_xlabel("bits per token, held-out data")


def plot_samples(
    record: "xarray.Dataset",
    path: Path,
    *,
    real: np.ndarray,
    shape: tuple[int, ...],
    num_tokens: int,
) -> None:
    """Held-out images and samples of the first seed."""
    draw_images(real, record["samples"].values[0], shape, num_tokens, path)
