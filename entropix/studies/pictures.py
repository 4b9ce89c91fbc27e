"""Figures of generated samples and data, and of their log densities."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from entropix.studies.figures import DATA, EXACT, MODEL, TRAINING, figure, legend_above, plain


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

    from entropix.studies.data import PreparedData

_SIDE = 10  # images along one side of a grid
_PAIRS = 4  # columns shown against each other


def plot_samples(record: "xarray.Dataset", path: Path, *, data: "PreparedData") -> None:
    """Held-out data and samples of the first seed: images, a plane, or pairs of columns."""
    real = np.asarray(data.standardisation.inverse(data.held_out))
    made = record["samples"].values[0]
    if data.has_pictures:
        draw_images(real, made, data.dataset.shape, data.dataset.levels, path)
    elif data.dim == 1:
        _histogram(real[:, 0], made[:, 0], path)
    elif data.dim == 2:
        _plane(real, made, [*map(plain, column_names(data))], path)
    else:
        _pairs(real, made, [*map(plain, column_names(data))], path)


def column_names(data: "PreparedData") -> list[str]:
    """The columns of a table, or x1, x2, ..."""
    if data.dataset.columns is not None:
        return list(data.dataset.columns)
    return [f"x{i + 1}" for i in range(data.dim)]


def draw_images(
    real: np.ndarray, made: np.ndarray, shape: tuple[int, ...], levels: int | None, path: Path
) -> None:
    """Grids of images: data, and samples of a model."""
    side = min(_SIDE, int(np.sqrt(min(len(real), len(made)))))
    # The same scale on both sides, so that errors of brightness are visible.
    low, high = (0, levels) if levels is not None else (real.min(), real.max())
    with figure(path, (8.0, 4.3)) as fig:
        for axes, points, title in zip(
            fig.subplots(1, 2), (real, made), ("held-out data", "samples of the model"), strict=True
        ):
            grid = np.clip((points[: side * side] - low) / (high - low), 0, 1)
            axes.imshow(_tiled(grid, shape, side), cmap="gray", vmin=0, vmax=1)
            axes.set_title(title)
            axes.set_axis_off()


def _tiled(flat: np.ndarray, shape: tuple[int, ...], side: int) -> np.ndarray:
    """A square of images with a gap of one pixel, as one image."""
    height, width, *channels = shape
    if channels not in ([], [1], [3], [4]):  # not colours: show the first channel
        flat = flat.reshape(len(flat), *shape)[..., :1].reshape(len(flat), -1)
        channels = [1]
    images = flat.reshape(side, side, height, width, *channels)
    frame = [(0, 0), (0, 0), (0, 1), (0, 1)] + [(0, 0)] * len(channels)
    padded = np.pad(images, frame, constant_values=1.0)
    rows = padded.swapaxes(1, 2).reshape(side * (height + 1), side * (width + 1), *channels)
    rows = rows[:-1, :-1]
    return rows[..., 0] if channels == [1] else rows


def _dot_size(count: int) -> float:
    return float(np.clip(3000 / count, 1.5, 12))


def _plane(real: np.ndarray, made: np.ndarray, names: list[str], path: Path) -> None:
    count = min(len(real), len(made))
    # The range of the data, so that a few outliers among the samples do not shrink the rest.
    low, high = real.min(axis=0), real.max(axis=0)
    margin = 0.15 * (high - low)
    with figure(path, (8.0, 4.2)) as fig:
        panels = fig.subplots(1, 2, sharex=True, sharey=True)
        for axes, points, title, colour in zip(
            panels,
            (real, made),
            ("held-out data", "samples of the model"),
            (DATA, MODEL),
            strict=True,
        ):
            axes.scatter(*points[:count].T, s=_dot_size(count), color=colour, alpha=0.6, lw=0)
            axes.set_title(title)
            axes.set_xlabel(f"{names[0]} [data units]")
            axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
            axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
        panels[0].set_ylabel(f"{names[1]} [data units]")


def _bins(low: float, high: float, count: int) -> list[float]:
    """Edges of a histogram with about ten samples per bin in the bulk."""
    return np.linspace(low, high, int(np.clip(1.5 * np.sqrt(count), 10, 60))).tolist()


def _frame(real: np.ndarray) -> tuple[float, float]:
    """The range of the data with a margin."""
    low, high = float(np.min(real)), float(np.max(real))
    margin = 0.1 * (high - low)
    return low - margin, high + margin


def _histogram(real: np.ndarray, made: np.ndarray, path: Path) -> None:
    with figure(path, (5.0, 3.4)) as fig:
        axes = fig.subplots()
        _overlay(axes, real, made)
        axes.set_xlabel("x [data units]")
        axes.set_ylabel("density")
        legend_above(fig, axes)


def _overlay(axes: "Axes", real: np.ndarray, made: np.ndarray) -> None:
    bins = _bins(*_frame(real), real.size)
    axes.hist(real, bins, density=True, color=DATA, alpha=0.4, label="held-out data")
    axes.hist(
        made, bins, density=True, color=MODEL, histtype="step", lw=1.2, label="samples of the model"
    )


def _pairs(real: np.ndarray, made: np.ndarray, names: list[str], path: Path) -> None:
    """Histograms of the first columns and, below them, every pair."""
    count, size = min(len(real), len(made)), min(_PAIRS, real.shape[1])
    with figure(path, (2.0 * size + 0.6, 2.0 * size + 0.4)) as fig:
        panels = fig.subplots(size, size, squeeze=False)
        for i in range(size):
            for j in range(size):
                axes = panels[i, j]
                if j > i:
                    axes.set_axis_off()
                    continue
                if i == j:
                    _overlay(axes, real[:, i], made[:, i])
                    axes.set_yticks([])
                else:
                    for points, colour in ((real, DATA), (made, MODEL)):
                        axes.scatter(
                            points[:count, j],
                            points[:count, i],
                            s=_dot_size(count) / 2,
                            color=colour,
                            alpha=0.4,
                            lw=0,
                        )
                    axes.set_ylim(*_frame(real[:, i]))
                axes.set_xlim(*_frame(real[:, j]))
                if i == size - 1:
                    axes.set_xlabel(names[j])
                if j == 0 and i > 0:
                    axes.set_ylabel(names[i])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        shown = f"\n{size} of {real.shape[1]} columns" if size < real.shape[1] else ""
        fig.legend(
            handles,
            labels,
            loc="upper right",
            bbox_to_anchor=(0.98, 0.98),
            title="data units" + shown,
        )


def plot_log_density(record: "xarray.Dataset", path: Path) -> None:
    """Histograms of the bound on log p, for data and generated samples."""
    series = [
        ("log_prob", "held-out data", DATA),
        ("log_prob_train", "training data", TRAINING),
        ("log_prob_generated", "samples of the model", MODEL),
        ("log_prob_exact", "held-out data, exact", EXACT),
    ]
    values = {name: np.ravel(record[name].values) for name, *_ in series if name in record}
    pooled = np.concatenate(list(values.values()))
    # The frame excludes half a per cent of the values on each side.
    low, high = np.quantile(pooled, [0.005, 0.995])
    means = [
        ("log_prob", "mean of held-out data", "-"),
        ("log_prob_gaussian", "the same of a Gaussian", "--"),
    ]
    means = [entry for entry in means if entry[0] in record]
    of_means = [float(record[name].mean()) for name, *_ in means]
    low, high = min(low, *of_means), max(high, *of_means)
    bins = _bins(low, high, record.sizes["rated_sample"])
    with figure(path, (5.6, 3.6)) as fig:
        axes = fig.subplots()
        for name, label, colour in series:
            if name in values:
                axes.hist(
                    values[name],
                    bins,
                    density=True,
                    color=colour,
                    histtype="stepfilled" if name == "log_prob" else "step",
                    alpha=0.4 if name == "log_prob" else 1,
                    lw=1.3,
                    ls=":" if name == "log_prob_exact" else "-",
                    label=label,
                )
        for name, label, style in means:
            axes.axvline(float(record[name].mean()), color=DATA, lw=1.2, ls=style, label=label)
        axes.set_xlabel("log p(x), lower bound [nats, data units]")
        axes.set_ylabel("density")
        legend_above(fig, axes, columns=2)
