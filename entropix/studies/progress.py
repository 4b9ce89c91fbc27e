"""Progress bars: the only module of the studies that uses tqdm."""

import sys
from typing import Any


def progress_bar(total: int, description: str, unit: str, *, show: bool) -> Any:
    """A bar of tqdm, which is also a context manager."""
    from tqdm import tqdm

    return tqdm(total=total, desc=description, unit=unit, disable=not show)


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
        self._bar = progress_bar(sum(sizes.values()), self._title(), "step", show=show)

    def __enter__(self) -> "CellsBar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def _title(self) -> str:
        return f"{self._finished} of {len(self._sizes)} cells"

    def start(self, name: str) -> None:
        """Show the name of the cell that is being computed."""
        self._bar.set_postfix_str(name)

    def advance(self, name: str, steps: int) -> None:
        """Set the number of steps of a cell that are done."""
        ahead = min(steps, self._sizes[name]) - self._taken[name]
        self._taken[name] += ahead
        self._bar.update(ahead)

    def finish(self, name: str) -> None:
        """Count a cell as finished."""
        if self._taken[name] == 0 and not self._bar.disable:
            # Finished earlier or by another process: no measure of the speed of this one.
            self._bar.initial += self._sizes[name]
            self._bar.n += self._sizes[name]
        else:
            self.advance(name, self._sizes[name])
        self._finished += 1
        self._bar.set_description(self._title())
