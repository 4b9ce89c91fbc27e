"""How the figures look: one size of type, few colours, no state shared with the caller's plots."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# Colour-blind safe (Okabe and Ito): what is measured, what it was trained on, what is exact.
MODEL, TRAINING, EXACT, DATA = "#0072B2", "#E69F00", "#000000", "#009E73"


@contextmanager
def figure(path: Path, size: tuple[float, float], **layout: Any) -> Iterator[Any]:
    """A figure that is written to `path` when the block ends.

    matplotlib.figure without pyplot: no window, no global list of figures, any thread.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    look: Any = {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with matplotlib.rc_context(look):
        made = Figure(figsize=size, layout="constrained", **layout)
        FigureCanvasAgg(made)
        yield made
        made.savefig(path, dpi=160)


def legend_above(made: Any, axes: Any, columns: int | None = None) -> None:
    """The legend of `axes` above the whole figure, where it can cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", ncols=columns or len(labels))
