"""Figures of a study of schedules."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.figures import figure, legend_above, logarithmic, plain_logarithmic
from entropix.studies.report import over_seeds


if TYPE_CHECKING:
    import xarray

# Colour-blind safe (Okabe and Ito): bright for optimised schedules, muted for hand-designed ones.
_OPTIMISED = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#8C564B")
_HAND_DESIGNED = ("#000000", "#666666", "#999999", "#56B4E9", "#B8860B")
_MARKERS = "osD^vP"
_LEVELS = (-12.0, 14.0)


def _styles(record: "xarray.Dataset") -> list[tuple[str, str, dict[str, Any]]]:
    """Name, title and plotting style of every schedule."""
    titles = json.loads(record.attrs["titles"])
    by_hand = record["hand_designed"].values == 1
    out, counts = [], [0, 0]
    for name, title, hand in zip(record["schedule"].values, titles, by_hand, strict=True):
        i = counts[int(hand)]
        counts[int(hand)] += 1
        style = {
            "color": (_HAND_DESIGNED if hand else _OPTIMISED)[i],
            "ls": "--" if hand else "-",
            "lw": 1.0 if hand else 1.8,
            "marker": _MARKERS[i],
            "ms": 3.5 if hand else 5,
            "zorder": 2 if hand else 3,
        }
        out.append((str(name), title, style))
    return out


def plot_schedules(record: "xarray.Dataset", path: Path) -> None:
    """Log-SNR over the time of each schedule, for the first seed."""
    time = record["time"].values
    with figure(path, (5.6, 4.2)) as fig:
        axes = fig.subplots()
        for name, title, style in _styles(record):
            level = record["log_snr"].sel(schedule=name).values[:, 0]
            axes.plot(time, level, label=title, **{**style, "marker": None})
        axes.set_xlabel("time s / T  (data → noise)")
        axes.set_ylabel("log-SNR")
        axes.set_xlim(0, 1)
        axes.set_ylim(*_LEVELS)
        legend_above(fig, axes, columns=4)


def plot_costs(record: "xarray.Dataset", path: Path) -> None:
    """Bars of the action, and of the Monte Carlo errors, with standard errors over seeds."""
    styles = _styles(record)
    panels = (
        ("action", "kinetic action [model units squared]"),
        ("entropy_error", "error of S_NN [nats]"),
        ("path_kl_error", "error of path KL [nats]"),
    )
    with figure(path, (9.0, 0.34 * len(styles) + 1.2)) as fig:
        row = fig.subplots(1, len(panels), sharey=True)
        for axes, (variable, label) in zip(row, panels, strict=True):
            values = record[variable].values
            means, errors = np.array([over_seeds(row) for row in values]).T
            finite = np.isfinite(means)
            places = np.arange(len(styles))
            axes.barh(
                places[finite],
                means[finite],
                xerr=errors[finite],
                color=[styles[i][2]["color"] for i in places[finite]],
                height=0.7,
                error_kw={"lw": 1, "ecolor": "#444444"},
            )
            # A cost many times larger than all others would hide their differences.
            shown = means[finite]
            end = 1.25 * shown[shown <= 4 * np.median(shown)].max()
            axes.set_xlim(0, end)
            for place, mean in zip(places, means, strict=True):
                if mean > end:
                    text = f"{mean:.2g} →" if np.isfinite(mean) else "infinite →"
                    colour = "white" if np.isfinite(mean) else "black"
                    axes.text(
                        0.97 * end, place, text, ha="right", va="center", fontsize=8, color=colour
                    )
            axes.set_xlabel(label)
            axes.set_yticks(places, [title for _, title, _ in styles])
        row[0].invert_yaxis()


def plot_steps(record: "xarray.Dataset", path: Path) -> None:
    """W2 to data and distance to many steps, against the number of steps."""
    steps = record["steps"].values
    panels = (
        ("wasserstein2", "W2 between data and samples [model units]"),
        ("sampler_error", "rms distance to many steps [model units]"),
    )
    with figure(path, (9.0, 4.4)) as fig:
        both = fig.subplots(1, 2)
        for axes, (variable, label) in zip(both, panels, strict=True):
            for name, title, style in _styles(record):
                values = record[variable].sel(schedule=name).values
                means, errors = np.array([over_seeds(row) for row in values]).T
                axes.errorbar(steps, means, yerr=errors, capsize=2, label=title, **style)
            logarithmic(axes, steps, "steps of the sampler")
            axes.set_ylabel(label)
        for name, label, ls in (
            ("wasserstein2_limit", "many steps", ":"),
            ("wasserstein2_null", "two sets of data", "-."),
        ):
            level = float(record[name].mean())
            both[0].axhline(level, color="#888888", lw=1, ls=ls, label=label)
        for axes in both:
            axes.set_yscale("log")
            plain_logarithmic(axes.yaxis)
        legend_above(fig, both[0], columns=5)
