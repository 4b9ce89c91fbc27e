r"""Where the information is: in which coordinates, at which scales, at which noise.

$$S_{NN} = \sum_i\int\frac{\Sigma^2}{2}E\,e_i^2\,(-d\lambda) =
\sum_j\int\frac{\Sigma^2}{2}E\,(We)_j^2\,(-d\lambda),$$

over pixels or columns i, and over the coefficients j of an orthogonal transform of images, in
octaves of their frequency. Both divisions share every evaluation. For the critical times see
`entropix.information.critical_times`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix._core.formatting import format_with_error
from entropix.entropy import EntropyProduction
from entropix.estimators import CosineTransform, Partition, integrate_parts
from entropix.information import CriticalTimes, critical_times
from entropix.studies.cutoff import Cutoff, default_cutoff, with_cutoff
from entropix.studies.data import PreparedData
from entropix.studies.estimates import Subject, errors_of
from entropix.studies.figures import (
    figure,
    frame,
    legend_above,
    mark_times,
    plain,
    sequential_colours,
)
from entropix.studies.pictures import column_names
from entropix.studies.record import Schema
from entropix.studies.report import Rows, Table
from entropix.studies.study import Found, on_host


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The evaluations of each integral, as a share of those of an entropy, and their least number.
_SHARE, _LEAST = 4, 2048
# The curves have a time for each 0.25 units of log-SNR, these intervals are four times as long.
_STEPS = 4
# Columns that are shown; a record has all of them.
_SHOWN = 8

CLOCKS = {"log_snr": "log-SNR", "time": "process time", "ou_time": "OU time"}
# Names, for tables and for figures, from noise to data.
CRITICAL = {
    "speciation": "speciation",
    "half_class": "half of H(label)",
    "collapse": "collapse",
}
_MEANING = {
    "speciation": "where the direction of largest variance emerges from the noise",
    "half_class": "where H(label | noisy state) is half of H(label)",
    "collapse": "where I(data; noisy state) is the logarithm of the number of training samples",
}
LOCATION: Schema = {
    "coordinate": (("coordinate",), "1", "columns; not of images"),
    "coordinate_entropy": (("seed", "coordinate"), "nats", "S_NN in each coordinate, held-out"),
    "coordinate_entropy_interval": (
        ("seed", "interval", "coordinate"),
        "nats",
        "the same between the log-SNRs of successive edges",
    ),
    "scale": (("scale",), "1", "frequencies of the cosine transform of images"),
    "scale_entropy": (("seed", "scale"), "nats", "S_NN at each scale of images, held-out"),
    "scale_entropy_interval": (
        ("seed", "interval", "scale"),
        "nats",
        "the same between the log-SNRs of successive edges",
    ),
    "edge_log_snr": (("edge",), "1", "log-SNR at the edges of the intervals"),
    "class_entropy": (("seed", "class_time"), "nats", "H(label | noisy state), held-out data"),
    "class_log_snr": (("seed", "class_time"), "1", "log-SNR of the class entropy"),
} | {
    f"{name}_{clock}": (("seed",), "1", f"{_MEANING[name]}: {text}")
    for name in CRITICAL
    for clock, text in CLOCKS.items()
}


# ------------------------------------------------------------------ what is measured


def _joined(partitions: Sequence[Partition], size: int) -> Partition:
    """Several partitions of examples of one axis with one weight; all parts sum to the whole."""
    identity, weight = np.eye(size), 1 / np.sqrt(len(partitions))
    matrices = [identity if p.matrix is None else np.asarray(p.matrix) for p in partitions]
    bands, count = [], 0
    for p in partitions:
        own = np.arange(size) if p.bands is None else np.asarray(p.bands)
        bands.append(count + own)
        count += math.prod(p.shape)
    matrix = jnp.asarray(weight * np.concatenate(matrices, axis=1), float)
    return Partition(matrix, jnp.asarray(np.concatenate(bands)), (count,))


def _edges(times: np.ndarray) -> np.ndarray:
    """Edges of intervals of log-SNR: some of the times of the curves, both ends included."""
    return np.unique(np.concatenate([times[:1], times[1:-1:_STEPS], times[-1:]]))


def _octaves(shape: tuple[int, ...]) -> list[str]:
    """The frequencies of each band of `CosineTransform` of the first two axes of images."""
    names, low = ["mean"], 1
    while low < max(shape[:2]):
        high = min(2 * low, max(shape[:2])) - 1
        names.append(str(low) if high == low else f"{low} to {high}")
        low *= 2
    return names


def location_labels(subject: Subject) -> Found:
    """The names of coordinates and scales, and the edges of the intervals."""
    data, process = subject.data, subject.model.process
    found: Found = {"edge_log_snr": eqx.filter_jit(process.log_snr)(_edges(subject.times))}
    if data.has_pictures:
        found["scale"] = _octaves(data.dataset.shape)
    else:
        found["coordinate"] = column_names(data)
    return on_host(found)


def measure_location(subject: Subject, key: Key, _: Found) -> Found:
    """S_NN by coordinate and, of images, by scale; each also by intervals of log-SNR.

    One integral with a quarter of the evaluations of an entropy, at least 2048.
    """
    data, shape = subject.data, subject.data.dataset.shape
    example, transform = jnp.asarray(data.held_out[0]), CosineTransform(axes=(0, 1), bands=True)
    names, partitions = ["coordinate"], [Partition.of(True, example)]
    if data.has_pictures:
        names.append("scale")
        partitions.append(Partition.of(lambda x: transform(x.reshape(shape)), example))
    partition = _joined(partitions, example.size)
    curve = integrate_parts(
        EntropyProduction(subject.model, partition),
        data.held_out,
        key=key,
        num_evaluations=_effort(subject),
        condition=subject.conditions[0],
        cutoff=subject.cutoff,
        times=_edges(subject.times),
        chunk_size=subject.chunk_size,
        divergence=subject.model.divergence,
        partition=partition,
    )
    parts = {
        "entropy": curve.value,
        "entropy_stderr": curve.stderr,
        "entropy_interval": curve.intervals,
        "entropy_interval_stderr": curve.intervals_stderr,
    }
    cuts = np.cumsum([np.prod(p.shape, dtype=int) for p in partitions])[:-1]
    return {
        f"{name}_{what}": part
        for what, values in parts.items()
        for name, part in zip(
            names, np.split(len(names) * np.asarray(values), cuts, axis=-1), strict=True
        )
    }


def _effort(subject: Subject) -> int:
    return max(_LEAST, subject.options.evaluations // _SHARE)


def measure_critical_times(subject: Subject, key: Key, found: Found) -> Found:
    """Speciation; collapse onto as many points as were trained on; the class entropy.

    Two integrals for the collapse and two of both fields for the class, each with a quarter of the
    evaluations of an entropy, at least 2048. A model that needs labels has speciation only.
    """
    data = subject.data
    needs_labels = subject.conditions[0] is not None
    labels = None
    if "mutual_information" in found and data.condition is not None and data.condition.entropy:
        held_out = np.asarray(data.condition_held_out)
        classes = np.unique(held_out.reshape(len(held_out), -1), axis=0)
        if 2 * len(classes) <= len(held_out):  # else too few of each to tell their entropy
            labels = data.condition_held_out

    def estimate(cutoff: Cutoff) -> CriticalTimes:
        return critical_times(
            subject.model,
            data.held_out,
            num_points=None if needs_labels else data.num_train,
            labels=labels,
            key=key,
            num_evaluations=_effort(subject),
            cutoff=cutoff.value,
            num_times=65,
            chunk_size=subject.chunk_size,
        )

    def fallback() -> Cutoff:
        return default_cutoff(data, "")

    times = with_cutoff(estimate, Cutoff(subject.cutoff, ""), fallback)[0]
    classes = times.class_entropy
    out: Found = {}
    if classes is not None:
        out["class_entropy"], out["class_entropy_stderr"] = classes.value, classes.stderr
        out["class_log_snr"] = classes.log_snr
    half = None if classes is None else classes.half
    each = {"speciation": times.speciation, "half_class": half, "collapse": times.collapse}
    for name, one in each.items():
        if one is not None:
            for clock in CLOCKS:
                out |= errors_of(f"{name}_{clock}", getattr(one, clock))
    return out


# ------------------------------------------------------------------ in words


def location_tables(record: "xarray.Dataset") -> list[Table]:
    """The critical times, and S_NN by scale or by column."""
    tables = []
    rows = [["from noise to data", *CLOCKS.values()]]
    for name, label in CRITICAL.items():
        if f"{name}_log_snr" in record:
            # Where it is not reached, other clocks show the data end.
            reached = np.isfinite(record[f"{name}_log_snr"].values).all()
            times = (_on_clock(record, f"{name}_{clock}") for clock in CLOCKS)
            rows.append([label, *(times if reached else ["not reached", "", ""])])
    if len(rows) > 1:
        tables.append(Table(rows, "Critical times"))
    if "scale_entropy" in record:
        heading = "S_NN by scale, from coarse to fine"
        tables.append(
            Table([["frequency", "S_NN, nats", "share"], *_parts(record, "scale")], heading)
        )
    elif "coordinate_entropy" in record and record.sizes["coordinate"] > 1:
        parts = _parts(record, "coordinate")
        most = np.argsort(-record["coordinate_entropy"].mean("seed").values)[:_SHOWN]
        left_out = f", the largest {_SHOWN} of {len(parts)}" if len(parts) > _SHOWN else ""
        rows = [["column", "S_NN, nats", "share"], *(parts[i] for i in most)]
        tables.append(Table(rows, f"S_NN by column{left_out}"))
    return tables


def _on_clock(record: "xarray.Dataset", name: str) -> str:
    values, errors = record[name].values, record[f"{name}_stderr"].values
    return format_with_error(float(values.mean()), float(np.sqrt(np.mean(errors**2))))


def _parts(record: "xarray.Dataset", name: str) -> Rows:
    values = record[f"{name}_entropy"].values.mean(axis=0)
    errors = np.sqrt(np.mean(record[f"{name}_entropy_stderr"].values ** 2, axis=0))
    labels = record[name].values.tolist()
    return [
        [str(label), format_with_error(float(v), float(e)), f"{v / values.sum():.1%}"]
        for label, v, e in zip(labels, values, errors, strict=True)
    ]


def location_notes(record: "xarray.Dataset") -> list[str]:
    """How to read the tables and the figure."""
    notes = []
    if "coordinate_entropy" in record:
        notes.append(
            "S_NN is a sum over coordinates, and over the coefficients of any orthogonal "
            "transform. The parts come from an integral of their own, and have its errors"
        )
    reached = [n for n in CRITICAL if f"{n}_log_snr" in record]
    if reached:
        meant = "; ".join(f"{CRITICAL[name]}, {_MEANING[name]}" for name in reached)
        notes.append(
            f"Critical times: {meant}. The process time is that of this process, the OU time that "
            "of the Ornstein-Uhlenbeck process with the same log-SNR, in the coordinates of the "
            "model. For a trained network the collapse is found at too large noise, depending on "
            "its path KL"
        )
    return notes


# ------------------------------------------------------------------ the figure


def plot_location(record: "xarray.Dataset", path: Path, *, data: PreparedData) -> None:
    """The map of pixels or a bar for each column; the noise at which it is; the class entropy."""
    image, classes = "scale_entropy" in record, "class_entropy" in record
    with figure(path, (12.6 if classes else 9.0, 3.8)) as fig:
        panels = fig.subplots(1, 3 if classes else 2)
        if image:
            _map(fig, panels[0], record, data.dataset.shape)
        else:
            _bars(panels[0], record)
        _along_noise(panels[1], record, "scale" if image else "coordinate")
        if classes:
            _classes(panels[2], record)
        legend_above(fig, panels[1])


def _map(fig: "Figure", axes: "Axes", record: "xarray.Dataset", shape: tuple[int, ...]) -> None:
    """Nats in each pixel, summed over channels."""
    values = record["coordinate_entropy"].values.mean(axis=0).reshape(*shape[:2], -1).sum(axis=-1)
    shown = axes.imshow(values, cmap="viridis", vmin=0)
    fig.colorbar(shown, ax=axes, label="S_NN [nats per pixel]", shrink=0.85)
    axes.set_xticks([])
    axes.set_yticks([])


def _most(record: "xarray.Dataset", name: str) -> np.ndarray:
    """The scales in their order, or the columns with the most entropy, the largest first."""
    values = record[f"{name}_entropy"].values.mean(axis=0)
    if name == "scale":
        return np.arange(len(values))
    return np.argsort(-values)[:_SHOWN]


def _bars(axes: "Axes", record: "xarray.Dataset") -> None:
    order = _most(record, "coordinate")[::-1]
    values = record["coordinate_entropy"].values[:, order]
    errors = np.sqrt(np.mean(record["coordinate_entropy_stderr"].values[:, order] ** 2, axis=0))
    colours = sequential_colours(len(order))[::-1]
    labels = [plain(name) for name in record["coordinate"].values[order].tolist()]
    axes.barh(range(len(order)), values.mean(axis=0), xerr=errors, color=colours)
    axes.set_yticks(range(len(order)), labels)
    axes.set_xlabel("S_NN [nats]")


def _along_noise(axes: "Axes", record: "xarray.Dataset", name: str) -> None:
    """The rate of each part against log-SNR, as the mean over each interval."""
    edges = record["edge_log_snr"].values
    inside = np.isfinite(edges[:-1]) & np.isfinite(edges[1:])
    width, middle = -np.diff(edges)[inside], (edges[:-1] + edges[1:])[inside] / 2
    rates = record[f"{name}_entropy_interval"].values.mean(axis=0)[inside] / width[:, None]
    order = _most(record, name)
    for i, colour in zip(order, sequential_colours(len(order)), strict=True):
        label = plain(str(record[name].values[i]))
        axes.plot(middle, rates[:, i], color=colour, lw=1.4, label=label)
    axes.set_ylabel("entropy rate [nats per unit log-SNR]")
    axes.set_ylim(bottom=0)
    frame(axes, middle, rates.max(axis=1))
    mark_times(axes, record)


def _classes(axes: "Axes", record: "xarray.Dataset") -> None:
    """H(label | noisy state) with a band of two standard errors, for each seed."""
    x = record["class_log_snr"].values[0]
    inside = np.isfinite(x)
    values, errors = (record[n].values for n in ("class_entropy", "class_entropy_stderr"))
    for i, colour in enumerate(sequential_colours(len(values))):
        x = record["class_log_snr"].values[i]
        axes.plot(x, values[i], color=colour, lw=1.4)
        low, high = values[i] - 2 * errors[i], values[i] + 2 * errors[i]
        axes.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)
    axes.axhline(float(record["label_entropy"]), color="0.6", lw=0.8, ls=":")
    axes.axhline(0, color="0.8", lw=0.8)
    axes.set_ylabel("H(label | noisy state) [nats]")
    frame(axes, x[inside], np.gradient(values[0, inside], -x[inside]))
    mark_times(axes, record)
