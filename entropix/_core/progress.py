"""The one progress bar of the package, on the terminal."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from entropix._core.extras import needed


class ProgressBar:
    """A bar that may not be shown; see `progress_bar`."""

    def __init__(self, bar: Any):
        self._bar = bar

    def update(self, count: int = 0, text: str | None = None) -> None:
        """Add `count` units, and show `text` behind the bar; None leaves the text as it is."""
        if self._bar is not None:
            if text is not None:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(count)

    def skip(self, count: int) -> None:
        """Count units that were done before, or elsewhere: they say nothing about the pace."""
        if self._bar is not None:
            self._bar.initial += count
            self._bar.n += count
            self._bar.refresh()

    def describe(self, description: str) -> None:
        """Another text in front of the bar."""
        if self._bar is not None:
            self._bar.set_description(description)


@contextlib.contextmanager
def progress_bar(
    total: int, description: str, unit: str, show: bool = True, *, initial: int = 0
) -> Iterator[ProgressBar]:
    """A bar with rate and time left for the length of a block.

    Args:
        total: how many units there are.
        description: what stands in front of the bar.
        unit: the name of one.
        show: whether it is shown; only the first process shows one.
        initial: how many are done already.

    Raises:
        ImportError: if it is to be shown and tqdm is not installed.
    """
    if not show or jax.process_index() > 0:
        yield ProgressBar(None)
        return
    tqdm = needed("tqdm", "a progress bar (`progress=True`)", "tqdm", "studies")
    with tqdm.tqdm(total=total, initial=initial, unit=unit, desc=description) as bar:
        yield ProgressBar(bar)
