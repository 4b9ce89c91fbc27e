"""Results with several arrays: as a labelled data set, as a figure, and in a notebook."""

import abc
from typing import TYPE_CHECKING

import equinox as eqx

from entropix._core.checks import is_concrete
from entropix._core.display import as_dataset, html_table, rows_of
from entropix._core.formatting import short_repr


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


class AbstractResult(eqx.Module):
    """A result with several arrays, whose fields have names for their axes, and units."""

    @abc.abstractmethod
    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the result; bands are two standard errors wide to either side.

        Args:
            ax: axes of matplotlib to draw on; None for a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: if matplotlib is not installed.
        """

    def to_xarray(self) -> "xarray.Dataset":
        """The result as a labelled data set: named dimensions, units as attributes.

        An `Estimate` becomes `name`, `name_stderr` and `name_mc_stderr`. Axes of a batch, as
        `jax.vmap` adds them, come first and are called `batch`.

        Raises:
            ImportError: if xarray is not installed.
        """
        return as_dataset(self)

    def _repr_html_(self) -> str | None:
        if not is_concrete(self):
            return None
        return html_table(type(self).__name__, rows_of(self))

    def __repr__(self) -> str:
        return short_repr(self)
