"""Display of results: labelled fields, as a data set, as HTML and as lines with errors."""

import dataclasses
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from entropix._core.extras import needed


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


# The errors of an `Estimate`.
ERRORS = ("stderr", "mc_stderr")


def label(dims: str = "", units: str = "nats") -> dict[str, Any]:
    """Names for the axes of a field, and its unit: `eqx.field(metadata=label("time"))`.

    Args:
        dims: names of its last axes, separated by spaces. Axes before them are those of a batch. A
            last name `"*part"` stands for any number of axes, `part_0`, `part_1`, ...
        units: of its values.
    """
    return {"entropix": {"dims": tuple(dims.split()), "units": units, "coordinate": False}}


def axis(dims: str, units: str) -> dict[str, Any]:
    """The same for a field that labels an axis."""
    about = label(dims, units)["entropix"]
    return {"entropix": about | {"coordinate": True}}


def _fields(result: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Name, label and value of each labelled field."""
    for field in dataclasses.fields(result):
        about = field.metadata.get("entropix")
        if about is not None:
            value = getattr(result, field.name)
            parts = value if isinstance(value, dict) else {"": value}
            for part, of_part in parts.items():
                yield "_".join(filter(None, (field.name, part))), dict(about), of_part


def with_errors(name: str, value: Any) -> dict[str, Any]:
    """An estimate as three arrays: `name`, `name_stderr` and `name_mc_stderr`; others as it is."""
    if not hasattr(value, "mc_stderr"):
        return {name: value}
    errors = {f"{name}_{error}": getattr(value, error) for error in ERRORS}
    return {name: value.value} | errors


def _batch_axes(about: dict[str, Any], value: Any) -> int:
    """The number of axes before those that have a name; 0 where any number have one."""
    value = getattr(value, "value", value)
    return 0 if about["dims"][-1:] == ("*part",) else np.ndim(value) - len(about["dims"])


def as_dataset(result: Any) -> "xarray.Dataset":
    """The labelled fields of a result as a data set.

    Raises:
        ImportError: if xarray is not installed.
    """
    xarray = needed("xarray", "`to_xarray`", "xarray", "studies")
    fields = list(_fields(result))
    batch = max((_batch_axes(about, value) for _, about, value in fields), default=0)
    variables, coordinates = {}, []
    for name, about, value in fields:
        for part, array in with_errors(name, value).items():
            if part in variables:
                raise ValueError(f"the names of a result must differ, got {part!r} twice.")
            array, dims = np.asarray(array), about["dims"]
            if dims[-1:] == ("*part",):
                axes = array.ndim - batch - len(dims) + 1
                dims = (*dims[:-1], *(f"part_{i}" for i in range(axes)))
            leading = array.ndim - len(dims)
            names = ["batch"] if leading == 1 else [f"batch_{i}" for i in range(leading)]
            variables[part] = ([*names, *dims], array, {"units": about["units"]})
        coordinates += [name] if about["coordinate"] else []
    static = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.metadata.get("static") and isinstance(getattr(result, field.name), int)
    }
    return xarray.Dataset(variables, attrs=static).set_coords(coordinates)


def rows_of(result: Any) -> dict[str, str]:
    """A line of text for each labelled field: an estimate, a number, or the range of an array."""

    def text(value: Any) -> str:
        if hasattr(value, "mc_stderr"):
            return str(value)
        array = np.asarray(value)
        if array.size == 0:
            return "none"
        if array.ndim == 0:
            return f"{array.item():.6g}"
        shape = " x ".join(map(str, array.shape))
        return f"{array.min():.4g} to {array.max():.4g} ({shape})"

    return {
        f"{name} [{about['units']}]" if about["units"] != "1" else name: text(value)
        for name, about, value in _fields(result)
    }


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """A small table for notebooks."""
    lines = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in rows.items()
    )
    return (
        f"<table><thead><tr><th colspan='2'>{html.escape(title)}</th></tr></thead>{lines}</table>"
    )


# ------------------------------------------------------------------ figures


def axes_or_new(ax: "Axes | None") -> "Axes":
    """The axes that were given, or those of a new figure.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    if ax is not None:
        return ax
    pyplot = needed("matplotlib.pyplot", "`plot`", "matplotlib", "studies")
    return pyplot.figure(layout="constrained").subplots()


def lines_of(values: ArrayLike) -> np.ndarray:
    """Curves of a batch, one after the other: shape (curves, points)."""
    array = np.asarray(values)
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def draw_band(
    ax: "Axes",
    x: np.ndarray,
    value: np.ndarray,
    stderr: np.ndarray,
    *,
    colour: Any = None,
    label: str | None = None,
    band: str | None = None,
) -> None:
    """A curve, and a band of two standard errors to either side."""
    (line,) = ax.plot(x, value, color=colour, lw=1.2, label=label)
    low, high = value - 2 * stderr, value + 2 * stderr
    ax.fill_between(x, low, high, color=line.get_color(), alpha=0.3, lw=0, label=band)


def draw_losses(
    ax: "Axes",
    step: np.ndarray,
    loss: np.ndarray,
    check: np.ndarray,
    held_out: np.ndarray,
    names: Sequence[str],
    units: str,
) -> None:
    """The loss of every step, its running mean, and the loss on held-out data.

    Args:
        ax: where.
        step: shape (n,).
        loss: of each run, shape (runs, n).
        check: the steps after which the held-out loss was taken, shape (k,).
        held_out: that loss, shape (runs, k).
        names: of the runs, or empty strings.
        units: of the loss.
    """
    window = max(1, len(step) // 20)
    weights = np.ones(window) / window
    centre = np.convolve(step, weights, mode="valid")
    for i, name in enumerate(names):
        colour, of_run = f"C{i % 10}", f", {name}" if name else ""
        ax.plot(step, loss[i], color=colour, lw=0.4, alpha=0.2)
        smooth = np.convolve(loss[i], weights, mode="valid")
        ax.plot(centre, smooth, color=colour, lw=1.3, label=f"mean of {window} steps{of_run}")
        if len(check):
            label = f"held-out data{of_run}"
            ax.plot(check, held_out[i], color=colour, lw=1.3, ls="--", label=label)
    # The loss of single steps may lie far out: the frame shows the bulk.
    low, high = np.quantile(loss, [0.01, 0.99])
    margin = 0.05 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    ax.set_xlabel("training step")
    ax.set_ylabel(f"training loss [{units}]")
