"""Estimates for single samples, and the interface of ways to compute log densities."""

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix._core.display import axes_or_new, label, lines_of
from entropix.interfaces.estimate import Estimate, common_cutoff
from entropix.interfaces.model import AbstractModel
from entropix.interfaces.result import AbstractResult


if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SampleEstimates(AbstractResult):
    """An estimate for each of N samples, such as its log density in nats.

    Attributes:
        value: shape (N,).
        stderr: standard error of each, shape (N,): Monte Carlo noise, and a bound on the error of a
            denoiser that is continued to noise beyond its range.
        num_evaluations: evaluations of the model's field per sample; 0 where adaptive steps decide.
        cutoff: the smallest noise standard deviation included, or None where there is no cut-off.
    """

    value: Float[Array, "*seeds n"] = eqx.field(metadata=label("sample"))
    stderr: Float[Array, "*seeds n"] = eqx.field(metadata=label("sample"))
    num_evaluations: int = eqx.field(static=True)
    cutoff: Float[Array, "*seeds"] | None = None

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw a histogram of the values."""
        ax = axes_or_new(ax)
        for values in lines_of(self.value):
            ax.hist(values, bins="auto", histtype="step")
            ax.axvline(np.mean(values), color=ax.patches[-1].get_edgecolor(), ls=":", lw=1)
        ax.set_xlabel("value [nats]")
        ax.set_ylabel("samples")
        return ax

    def minus(self, other: "SampleEstimates", *, independent: bool) -> "SampleEstimates":
        """The difference for each sample, of two models on the same samples.

        Its `.mean` is the paired difference, whose error follows from the spread of the
        differences: it is far smaller than that of the difference of two means.

        Args:
            other: values of the same samples, in their order.
            independent: whether the keys of the two differ. True: the Monte Carlo errors of a
                sample add in quadrature. False: they are added, an upper bound for any
                correlation.

        Raises:
            ValueError: if `other` has another shape, or both have cut-offs that differ.

        Example:
            >>> import jax.numpy as jnp
            >>> from entropix.interfaces import SampleEstimates
            >>> a = SampleEstimates(jnp.array([1.0, 5.0, 9.0]), jnp.full(3, 0.03), 16)
            >>> b = SampleEstimates(jnp.array([0.9, 4.8, 8.9]), jnp.full(3, 0.04), 16)
            >>> print(a.minus(b, independent=True).mean)
            0.133 ± 0.033
        """
        if self.value.shape != other.value.shape:
            raise ValueError(
                f"`other` must have values of the same samples, shape {self.value.shape}, "
                f"got {other.value.shape}."
            )
        add = jnp.hypot if independent else jnp.add
        return SampleEstimates(
            self.value - other.value,
            add(self.stderr, other.stderr),
            self.num_evaluations + other.num_evaluations,
            common_cutoff(self.cutoff, other.cutoff),
        )

    @property
    @eqx.filter_jit
    def mean(self) -> Estimate:
        """The mean over samples: `stderr` for the population, `mc_stderr` for these samples."""
        count = self.value.shape[-1]
        # The spread of the values holds the Monte Carlo noise of each already.
        spread = jnp.std(self.value, axis=-1, ddof=min(1, count - 1)) / jnp.sqrt(count)
        if count == 1:  # the spread of a population is not known from one sample
            spread = jnp.full_like(spread, jnp.inf)
        return Estimate(
            jnp.mean(self.value, axis=-1),
            spread,
            jnp.sqrt(jnp.sum(self.stderr**2, axis=-1)) / count,
            self.num_evaluations * count,
            self.cutoff,
        )


class AbstractDensityMethod(eqx.Module):
    """A way to compute log densities of samples under a model: `method` of `entropix.log_prob`."""

    @abc.abstractmethod
    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: PyTree,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        """Log densities in nats; the arguments are those of `log_prob`, checked and converted.

        Args:
            model: any model.
            x: samples.
            prior: what generation starts from, with `log_prob(y)`.
            condition: None, or a pytree of arrays with leading axis n.
            cutoff: the smallest noise standard deviation included, or None.
            key: a PRNG key, or None where the user gave none.
            chunk_size: evaluations held in memory at once.

        Raises:
            ValueError: if the method needs a key and got none.
            DivergenceError: if a density is infinite without a cut-off.
        """
