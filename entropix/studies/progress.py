"""Progress of the cells of a study, and messages beside it."""

import contextlib
import sys
from typing import Any

from entropix._core.progress import progress_bar


def message(text: str) -> None:
    """Write one line to stderr, above any progress bar."""
    from tqdm import tqdm

    tqdm.write(f"entropix: {text}", file=sys.stderr)


class CellsBar:
    """Progress of all cells of a study, in training steps, from which the time left follows.

    Args:
        sizes: the training steps of each cell, by name.
        show: whether to show the bar.
    """

    def __init__(self, sizes: dict[str, int], show: bool):
        self._sizes, self._finished, self._taken = sizes, 0, dict.fromkeys(sizes, 0)
        self._stack = contextlib.ExitStack()
        bar = progress_bar(sum(sizes.values()), self._title(), "step", show)
        self._bar = self._stack.enter_context(bar)

    def __enter__(self) -> "CellsBar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def _title(self) -> str:
        return f"{self._finished} of {len(self._sizes)} cells"

    def start(self, name: str) -> None:
        """Show the name of the cell that is being computed."""
        self._bar.update(text=name)

    def advance(self, name: str, steps: int) -> None:
        """Set the number of steps of a cell that are done."""
        ahead = min(steps, self._sizes[name]) - self._taken[name]
        self._taken[name] += ahead
        self._bar.update(ahead)

    def finish(self, name: str) -> None:
        """Count a cell as finished."""
        if self._taken[name] == 0:
            # Finished earlier or by another process: no measure of the speed of this one.
            self._bar.skip(self._sizes[name])
        else:
            self.advance(name, self._sizes[name])
        self._finished += 1
        self._bar.describe(self._title())
