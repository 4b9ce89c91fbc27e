"""Figures of a study of transport."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.style import EXACT, MODEL, figure, legend_above


if TYPE_CHECKING:
    import xarray

_NAMES = {"vp": "VP", "vpx": "VPx", "sl": "SL"}


def _panels(made: Any, record: "xarray.Dataset", **shared: Any) -> list[tuple[Any, Any]]:
    """A panel for each dimension (rows) and process (columns), with its part of the record."""
    grid = made.subplots(
        record.sizes["dimension"], record.sizes["process"], squeeze=False, **shared
    )
    out = []
    for i, dim in enumerate(record["dimension"].values):
        for j, process in enumerate(record["process"].values):
            grid[i, j].set_title(f"D = {dim}, {_NAMES[str(process)]}")
            out.append((grid[i, j], record.isel(dimension=i, process=j)))
    return out


def _size(record: "xarray.Dataset") -> tuple[float, float]:
    return 0.8 + 2.7 * record.sizes["process"], 0.7 + 2.3 * record.sizes["dimension"]


def _length(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def plot_epochs(record: "xarray.Dataset", path: Path) -> None:
    """S_NN against epochs: mean and range over seeds, with S_tot on the same samples."""
    from matplotlib.ticker import NullLocator

    epochs = record["epochs"].values
    with figure(path, _size(record)) as made:
        panels = _panels(made, record, sharex=True)
        for number, (axes, part) in enumerate(panels):
            values = part["neural_entropy"].values
            axes.plot(epochs, values.mean(axis=1), color=MODEL, marker="o", ms=3.5, label="S_NN")
            axes.fill_between(
                epochs,
                values.min(axis=1),
                values.max(axis=1),
                color=MODEL,
                alpha=0.25,
                lw=0,
                label="range over seeds",
            )
            total = part["total_entropy"].values[:, 0]
            axes.plot(epochs, total, color=EXACT, ls="--", lw=1, label="S_tot, same samples")
            axes.set_xscale("log")
            axes.set_xticks(epochs, [str(n) for n in epochs])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.ticklabel_format(axis="y", useOffset=False)
            if number >= len(panels) - record.sizes["process"]:
                axes.set_xlabel("epochs of training")
            if number % record.sizes["process"] == 0:
                axes.set_ylabel("entropy [nats]")
        legend_above(made, panels[0][0])


def plot_matching(record: "xarray.Dataset", path: Path) -> None:
    """S_NN / S_tot against L for every seed, and where the triangle inequality lets it lie."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    epochs = record["epochs"].values
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(epochs)))
    with figure(path, _size(record)) as made:
        panels = _panels(made, record)
        for number, (axes, part) in enumerate(panels):
            kl, total = part["path_kl"].values, part["total_entropy"].values
            share = part["neural_entropy"].values / total
            if np.isfinite(kl).any():
                low, high = np.nanmin(kl) / 1.5, np.nanmax(kl) * 1.5
                span = np.geomspace(low, high, 200)
                root = np.sqrt(span / np.nanmean(total))
                axes.fill_between(
                    span,
                    (1 - np.minimum(root, 1)) ** 2,
                    (1 + root) ** 2,
                    color="0.9",
                    lw=0,
                    label="|√S_NN - √S_tot| ≤ √L",
                )
                axes.set_xlim(low, high)
            axes.axhline(1, color=EXACT, ls="--", lw=1)
            for i, count in enumerate(epochs):
                axes.plot(kl[i], share[i], "o", ms=4, color=colours[i], label=_length(count))
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis="x", labelsize=7)
            if number >= len(panels) - record.sizes["process"]:
                axes.set_xlabel("path KL L to the exact field [nats]")
            if number % record.sizes["process"] == 0:
                axes.set_ylabel("S_NN / S_tot")
        legend_above(made, panels[0][0])
