"""The style of all figures, and those of curves: rates over log-SNR, and the loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix._core.display import draw_band, draw_losses


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito): measured, training data, exact, held-out data.
MODEL, TRAINING, EXACT, DATA = "#0072B2", "#E69F00", "#000000", "#009E73"
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator["Figure"]:
    """A figure that is written to `path` at the end of the block.

    It does not use pyplot: there is no window and no global list of figures, and any thread may
    draw.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        fig = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(fig)
        yield fig
        fig.savefig(path, dpi=160)


def plain(name: str) -> str:
    """A name that comes with the data, as matplotlib shows it.

    What is between dollars would be a formula, and what starts with _ is left out of legends.
    """
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def legend_above(fig: "Figure", axes: "Axes", columns: int | None = None) -> None:
    """The legend of `axes` above the whole figure, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    most = max(1, int(fig.get_figwidth() / 1.5))  # that fit beside each other
    columns = columns or min(len(labels), most)
    fig.legend(handles, labels, loc="outside upper center", ncols=columns)


def sequential_colours(count: int) -> Any:
    """Colours for the values of an ordered axis."""
    import matplotlib

    return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, count))


def seed_range(
    axes: "Axes",
    x: np.ndarray,
    values: np.ndarray,
    colour: str | np.ndarray,
    label: str,
    band: str | None = None,
) -> None:
    """Mean and range over seeds, the last axis of `values`."""
    axes.plot(x, values.mean(axis=-1), color=colour, marker="o", ms=3.5, lw=1.2, label=label)
    low, high = values.min(axis=-1), values.max(axis=-1)
    axes.fill_between(x, low, high, color=colour, alpha=0.25, lw=0, label=band)


def logarithmic(axes: "Axes", ticks: np.ndarray, label: str = "") -> None:
    """A logarithmic x axis with the given ticks, and numbers where there is space for them."""
    from matplotlib.ticker import NullLocator

    place, last, labels = np.log(np.asarray(ticks, float)), -np.inf, []
    for tick, here in zip(ticks, place, strict=True):
        fits = here - last > 0.1 * np.ptp(place)
        labels.append(str(tick) if fits else "")
        last = here if fits else last
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    if label:
        axes.set_xlabel(label)


def plain_logarithmic(axis: "Axis") -> None:
    """An axis of logarithmic scale with ticks at 1, 2 and 5 times powers of ten, as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


# ------------------------------------------------------------------ curves over log-SNR


def plot_entropy(record: "xarray.Dataset", path: Path) -> None:
    """Entropy rate and cumulative entropy against log-SNR, with error bands."""
    inside = np.isfinite(record["log_snr"].values)
    x = record["log_snr"].values[inside]
    with figure(path, (9.0, 3.8)) as fig:
        left, right = fig.subplots(1, 2)
        _band(left, record, "entropy_rate_log_snr", inside, "held-out data")
        _band(right, record, "cumulative_entropy", inside, "held-out data")
        train = record["cumulative_entropy_train"].mean("seed").values[inside]
        right.plot(x, train, color=TRAINING, lw=1.2, ls="--", label="training data")
        _exact(left, record, "total_entropy_rate_log_snr", inside)
        _exact(right, record, "cumulative_total_entropy", inside)
        left.set_ylabel("entropy rate [nats per unit log-SNR]")
        right.set_ylabel("entropy from the data end [nats]")
        rate = record["entropy_rate_log_snr"].mean("seed").values[inside]
        for axes in (left, right):
            frame(axes, x, rate)
            axes.set_ylim(bottom=0)
            mark_times(axes, record)
        legend_above(fig, right)


def plot_divergence(record: "xarray.Dataset", path: Path) -> None:
    """The rate of KL against log-SNR in both directions, with error bands."""
    inside = np.isfinite(record["log_snr"].values)
    x, first, second = (
        record["log_snr"].values[inside],
        *(record.attrs[name] for name in ("first", "second")),
    )
    titles = {"kl": f"KL({first} || {second})", "kl_reverse": f"KL({second} || {first})"}
    with figure(path, (9.0, 3.8)) as fig:
        panels = fig.subplots(1, 2)
        for axes, (name, title) in zip(panels, titles.items(), strict=True):
            _band(axes, record, f"{name}_rate_log_snr", inside, "from denoising errors")
            score = record[f"{name}_score_rate_log_snr"].mean("seed").values[inside]
            axes.plot(x, score, color=TRAINING, lw=1.2, ls="--", label="from scores")
            _exact(axes, record, f"{name}_exact_rate_log_snr", inside)
            frame(axes, x, score)
            axes.axhline(0, color="0.8", lw=0.8, zorder=0)
            axes.set_title(title)
        panels[0].set_ylabel("rate [nats per unit log-SNR]")
        legend_above(fig, panels[1])


def frame(axes: "Axes", x: np.ndarray, rate: np.ndarray) -> None:
    """From data to noise, left to right, as far as the rate exceeds a thousandth of its peak."""
    seen = x[rate > 1e-3 * rate.max()]
    axes.set_xlim(seen.max() + 1, seen.min() - 1)
    axes.set_xlabel("log-SNR  (data → noise)")


# Names of critical times in a record, and on a figure.
_MARKS = {"speciation": "speciation", "half_class": "class", "collapse": "collapse"}


def mark_times(axes: "Axes", record: "xarray.Dataset") -> None:
    """Vertical lines at the critical times that are within the frame."""
    for i, (name, text) in enumerate(_MARKS.items()):
        if f"{name}_log_snr" not in record:
            continue
        x = float(record[f"{name}_log_snr"].mean())
        if np.isfinite(x) and min(axes.get_xlim()) < x < max(axes.get_xlim()):
            axes.axvline(x, color="0.45", lw=0.9, ls="-.", zorder=0)
            place = axes.get_xaxis_transform()
            # At heights of their own: the lines may lie close together.
            height = 0.98 - 0.2 * i
            axes.text(x, height, text, transform=place, rotation=90, va="top", ha="right", size=7)


def _exact(axes: "Axes", record: "xarray.Dataset", name: str, inside: np.ndarray) -> None:
    if name in record:
        x, values = record["log_snr"].values[inside], record[name].values[inside]
        axes.plot(x, values, color=EXACT, lw=1, ls=":", label="exact")


def _band(
    axes: "Axes", record: "xarray.Dataset", name: str, inside: np.ndarray, label: str
) -> None:
    """The mean over seeds, a band of two standard errors, and the range over seeds."""
    x, values = record["log_snr"].values[inside], record[name].values[:, inside]
    mean, seeds = values.mean(axis=0), len(values)
    # The error of one estimate: all seeds share the held-out samples, so it does not average out.
    error = np.sqrt(np.mean(record[f"{name}_stderr"].values[:, inside] ** 2, axis=0))
    if seeds > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        text = f"range of {seeds} seeds"
        axes.fill_between(x, low, high, color=MODEL, alpha=0.15, lw=0, label=text)
        label = f"{label}, mean of {seeds} seeds"
    draw_band(axes, x, mean, error, colour=MODEL, label=label, band="± 2 std. errors")


def plot_loss(record: "xarray.Dataset", path: Path) -> None:
    """The loss of every step, its running mean, and the loss on held-out data."""
    loss = record["loss"].values
    names = [f"seed {seed}" for seed in record["seed"].values] if len(loss) > 1 else [""]
    with figure(path, (5.0, 3.4)) as fig:
        axes = fig.subplots()
        draw_losses(
            axes,
            record["step"].values,
            loss,
            record["check"].values,
            record["loss_held_out"].values,
            names,
            record["loss"].attrs["units"],
        )
        if len(loss) <= 4:
            legend_above(fig, axes, columns=2)


def plot_pointwise(record: "xarray.Dataset", path: Path) -> None:
    """The pointwise information of each sample, as colour over x and y, and its distribution."""
    values = record["pointwise"].values
    with figure(path, (7.0, 3.0)) as fig:
        left, right = fig.subplots(1, 2)
        limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
        points = left.scatter(
            record["x"], record["y"], c=values, s=3, cmap="coolwarm", vmin=-limit, vmax=limit
        )
        fig.colorbar(points, ax=left, label="log p(x|y)/p(x) (nats)")
        left.set(xlabel="first column of X", ylabel="first column of Y")
        right.hist(values, bins=60, color=MODEL)
        mean = float(record["mutual_information"])
        right.axvline(mean, color=EXACT, lw=1, label=f"I(X; Y) = {mean:.3g}")
        right.set(xlabel="pointwise information (nats)", ylabel="samples")
        right.legend()
