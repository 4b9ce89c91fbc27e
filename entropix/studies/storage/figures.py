"""Figures of a study of storage."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.style import EXACT, figure, legend_above


if TYPE_CHECKING:
    import xarray


def _colours(count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, count))


def _band(axes: Any, x: np.ndarray, values: np.ndarray, colour: Any, label: str) -> None:
    """Mean and range over seeds, the last axis."""
    axes.plot(x, values.mean(axis=-1), color=colour, marker="o", ms=3.5, lw=1.2, label=label)
    low, high = values.min(axis=-1), values.max(axis=-1)
    axes.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)


def _logarithmic(axes: Any, ticks: np.ndarray, label: str) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def plot_storage(record: "xarray.Dataset", path: Path) -> None:
    """S_NN against N, with the fitted logarithms, and against steps; bands are ranges of seeds."""
    unit = record.attrs["unit_of_length"]
    sizes, steps = record["size"].values, record[unit].values
    entropy = record["neural_entropy"].transpose("size", unit, "seed").values
    with figure(path, (9.0, 4.4)) as made:
        left, right = made.subplots(1, 2, sharey=True)
        for i, colour in enumerate(_colours(len(steps))):
            _band(left, sizes, entropy[:, i], colour, f"{steps[i]} {unit}")
            a, b = (float(record[f"log_fit_{n}"][i]) for n in ("intercept", "slope"))
            if np.isfinite(b):
                left.plot(sizes, a + b * np.log(sizes), color=colour, lw=1, ls=":")
        left.plot([], [], color="0.3", lw=1, ls=":", label="a + b log N")
        for i, colour in enumerate(_colours(len(sizes))):
            _band(right, steps, entropy[i], colour, f"N = {sizes[i]}")
        if "total_entropy" in record:
            total = float(np.nanmean(record["total_entropy"].values))
            for axes in (left, right):
                axes.axhline(total, color=EXACT, lw=1, ls="--", label="S_tot")
        _logarithmic(left, sizes, "training samples N")
        _logarithmic(right, steps, f"{unit} of training")
        left.set_ylabel("S_NN on held-out data [nats]")
        for axes in (left, right):  # above, where a legend can cover nothing
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def plot_memorisation(record: "xarray.Dataset", path: Path) -> None:
    """Share of memorised samples and mean ratio of distances against N, with held-out samples."""
    unit = record.attrs["unit_of_length"]
    sizes, steps = record["size"].values, record[unit].values
    panels = (
        ("memorised", "memorised_null", "share of samples with r < 1/3"),
        ("nearest_ratio", "nearest_ratio_null", "mean ratio r of distances"),
    )
    with figure(path, (9.0, 3.8)) as made:
        both = made.subplots(1, 2)
        for axes, (name, null, label) in zip(both, panels, strict=True):
            for i, colour in enumerate(_colours(len(steps))):
                values = record[name].transpose("size", unit, "seed").values[:, i]
                _band(axes, sizes, values, colour, f"generated, {steps[i]} {unit}")
            reference = np.nanmean(record[null].values, axis=(1, 2))
            axes.plot(sizes, reference, color=EXACT, lw=1, ls="--", label="held-out samples")
            axes.set_ylabel(label)
            _logarithmic(axes, sizes, "training samples N")
        top = max(0.05, 1.05 * both[0].get_ylim()[1])
        both[0].set_ylim(-0.03 * top, top)
        legend_above(made, both[0])
