"""Figures of a study of storage."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from entropix.studies.figures import (
    EXACT,
    figure,
    legend_above,
    logarithmic,
    seed_range,
    sequential_colours,
)


if TYPE_CHECKING:
    import xarray


def plot_storage(record: "xarray.Dataset", path: Path) -> None:
    """S_NN against N, with the fitted logarithms, and against steps; bands are ranges of seeds."""
    unit = record.attrs["unit_of_length"]
    sizes, steps = record["size"].values, record[unit].values
    entropy = record["neural_entropy"].transpose("size", unit, "seed").values
    with figure(path, (9.0, 4.4)) as fig:
        left, right = fig.subplots(1, 2, sharey=True)
        for i, colour in enumerate(sequential_colours(len(steps))):
            seed_range(left, sizes, entropy[:, i], colour, f"{steps[i]} {unit}")
            a, b = (float(record[f"log_fit_{n}"][i]) for n in ("intercept", "slope"))
            if np.isfinite(b):
                left.plot(sizes, a + b * np.log(sizes), color=colour, lw=1, ls=":")
        left.plot([], [], color="0.3", lw=1, ls=":", label="a + b log N")
        for i, colour in enumerate(sequential_colours(len(sizes))):
            seed_range(right, steps, entropy[i], colour, f"N = {sizes[i]}")
        if "total_entropy" in record:
            total = float(np.nanmean(record["total_entropy"].values))
            for axes in (left, right):
                axes.axhline(total, color=EXACT, lw=1, ls="--", label="S_tot")
        logarithmic(left, sizes, "training samples N")
        logarithmic(right, steps, f"{unit} of training")
        left.set_ylabel("S_NN on held-out data [nats]")
        for axes in (left, right):  # legends above the panels, where they cover nothing
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def plot_memorisation(record: "xarray.Dataset", path: Path) -> None:
    """Share of memorised samples and mean ratio of distances against N, with held-out samples."""
    unit = record.attrs["unit_of_length"]
    sizes, steps = record["size"].values, record[unit].values
    panels = (
        ("memorised", "memorised_null", "share of samples with r < 1/3"),
        ("nearest_ratio", "nearest_ratio_null", "mean ratio r of distances"),
    )
    with figure(path, (9.0, 3.8)) as fig:
        both = fig.subplots(1, 2)
        for axes, (name, null, label) in zip(both, panels, strict=True):
            for i, colour in enumerate(sequential_colours(len(steps))):
                values = record[name].transpose("size", unit, "seed").values[:, i]
                seed_range(axes, sizes, values, colour, f"generated, {steps[i]} {unit}")
            reference = np.nanmean(record[null].values, axis=(1, 2))
            axes.plot(sizes, reference, color=EXACT, lw=1, ls="--", label="held-out samples")
            axes.set_ylabel(label)
            logarithmic(axes, sizes, "training samples N")
        top = max(0.05, 1.05 * both[0].get_ylim()[1])
        both[0].set_ylim(-0.03 * top, top)
        legend_above(fig, both[0])
