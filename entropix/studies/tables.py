"""Tables of reports over a grid: cells of text, aligned for a terminal or as markdown."""

from typing import TYPE_CHECKING

import numpy as np

from entropix._core.formatting import format_with_error


if TYPE_CHECKING:
    import xarray


def over_seeds(values: np.ndarray) -> tuple[float, float]:
    """Mean over all values, and its standard error; NaN for one value."""
    values = np.asarray(values, float)
    if values.size < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(values.size))


def quantity(values: np.ndarray) -> str:
    """The mean over seeds and its standard error, in words."""
    mean, error = over_seeds(values)
    if not np.isfinite(mean):
        return "missing" if np.isnan(mean) else "infinite"
    return format_with_error(mean, error) if error > 0 else f"{mean:.5g}"


def coverage(record: "xarray.Dataset") -> str:
    """How many cells there are of how many."""
    done, count = int(record.attrs["cells_finished"]), int(record.attrs["cells"])
    text = f"{done} of {count} cells"
    return text if done == count else f"{text}; the others are missing, `--resume` computes them"


def aligned(rows: list[list[str]]) -> str:
    """Text for a terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(rows: list[list[str]]) -> list[str]:
    """Lines of a table, the first row its header."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in body),
    ]
