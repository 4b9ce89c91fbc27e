"""Figures of a study of transport."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from entropix.studies.figures import (
    EXACT,
    MODEL,
    figure,
    legend_above,
    logarithmic,
    plain_logarithmic,
    seed_range,
    sequential_colours,
)
from entropix.studies.theorems import TRIANGLE


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {"vp": "VP", "vpx": "VPx", "sl": "SL"}


def _panels(
    fig: "Figure", record: "xarray.Dataset", xlabel: str, ylabel: str
) -> list[tuple["Axes", "xarray.Dataset"]]:
    """A panel for each dimension (rows) and process (columns), with its part of the record."""
    rows, columns = record.sizes["dimension"], record.sizes["process"]
    grid = fig.subplots(rows, columns, squeeze=False)
    out = []
    for i, dim in enumerate(record["dimension"].values):
        for j, process in enumerate(record["process"].values):
            grid[i, j].set_title(f"D = {dim}, {_NAMES[str(process)]}")
            out.append((grid[i, j], record.isel(dimension=i, process=j)))
    for axes in grid[-1]:
        axes.set_xlabel(xlabel)
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    return out


def _size(record: "xarray.Dataset") -> tuple[float, float]:
    width = max(0.8 + 2.7 * record.sizes["process"], 4.6)  # that of the legend
    return width, 0.7 + 2.3 * record.sizes["dimension"]


def plot_epochs(record: "xarray.Dataset", path: Path) -> None:
    """S_NN against epochs: mean and range over seeds, with S_tot on the same samples."""
    epochs = record["epochs"].values
    with figure(path, _size(record)) as fig:
        panels = _panels(fig, record, "epochs of training", "entropy [nats]")
        for axes, part in panels:
            stored = part["neural_entropy"].values
            seed_range(axes, epochs, stored, MODEL, "S_NN", band="range over seeds")
            total = part["total_entropy"].values[:, 0]
            axes.plot(epochs, total, color=EXACT, ls="--", lw=1, label="S_tot, same samples")
            logarithmic(axes, epochs)
            axes.ticklabel_format(axis="y", useOffset=False)
        legend_above(fig, panels[0][0])


def plot_matching(record: "xarray.Dataset", path: Path) -> None:
    """S_NN / S_tot against L for every seed, and the region the triangle inequality allows."""
    epochs = record["epochs"].values
    colours = sequential_colours(len(epochs))
    with figure(path, _size(record)) as fig:
        panels = _panels(fig, record, "path KL L to the exact field [nats]", "S_NN / S_tot")
        for axes, part in panels:
            kl, total = part["path_kl"].values, part["total_entropy"].values
            share = part["neural_entropy"].values / total
            if np.isfinite(kl).any():
                low, high = np.nanmin(kl) / 1.5, np.nanmax(kl) * 1.5
                span = np.geomspace(low, high, 200)
                root = np.sqrt(span / np.nanmean(total))
                lower, upper = (1 - np.minimum(root, 1)) ** 2, (1 + root) ** 2
                axes.fill_between(span, lower, upper, color="0.9", lw=0, label=TRIANGLE)
                axes.set_xlim(low, high)
            axes.axhline(1, color=EXACT, ls="--", lw=1)
            for i, count in enumerate(epochs):
                label = "1 epoch" if count == 1 else f"{count} epochs"
                axes.plot(kl[i], share[i], "o", ms=4, color=colours[i], label=label)
            axes.set_xscale("log")
            plain_logarithmic(axes.xaxis)
            axes.tick_params(axis="x", labelsize=7)
        legend_above(fig, panels[0][0])
