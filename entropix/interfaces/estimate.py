r"""`Estimate`: a value with its standard errors, and the arithmetic of estimates.

Numbers shift and scale an estimate. The error of $A \pm B$ of two estimates depends on their
covariance, which neither of them holds: they may share samples, keys or both, and this cannot be
detected from them. The caller must state it, `a.minus(b, independent=...)`; `a - b` is refused.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from entropix._core.checks import equal, is_concrete
from entropix._core.display import html_table
from entropix._core.formatting import format_with_error


class Estimate(eqx.Module):
    r"""A Monte Carlo estimate with its standard errors, in nats unless stated otherwise.

    Attributes:
        value: the estimate.
        stderr: standard error with respect to the population the data were drawn from: Monte
            Carlo noise and the sampling of the data.
        mc_stderr: standard error with the given points taken as the whole population: Monte
            Carlo noise alone.
        num_evaluations: how many network (or field) evaluations were spent.
        cutoff: the smallest noise standard deviation included, or None where there is no cut-off.
        slope: with a cut-off, d value / d(-ln cutoff) at the cut-off: the codimension D - d of the
            data for an entropy (None without a cut-off).
        bias: a known part of value minus truth that is not corrected, such as an end term that was
            left out; None where none is known.
        num_effective: the effective number of differences between evaluations in `mc_stderr`,
            $(\sum d^2)^2 / \sum d^4$. If it is small, the error itself is uncertain. None where it
            was not counted.
        largest_noise: the largest noise standard deviation for which the models are defined, if the
            process exceeds it; otherwise infinite. For larger noise their denoisers are continued
            linearly, and a bound on the error of that is part of `stderr`. None for models on
            their own process.

    Prints as `259.88 ± 0.12`, followed by a bias that exceeds the error; `f"{estimate:.3f}"` sets
    the format.
    `float(estimate)` is its value. Numbers can be added and multiplied, `(estimate - 1) / 2`; two
    estimates are combined by `plus` and `minus`.

    Example:
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> a = ex.Estimate(jnp.asarray(5.0), jnp.asarray(0.3), jnp.asarray(0.1))
        >>> b = ex.Estimate(jnp.asarray(3.0), jnp.asarray(0.4), jnp.asarray(0.2))
        >>> print(2 * a - 1, f"{a:.1f}", a.minus(b, independent=True), sep=", ")
        9.00 ± 0.60, 5.0 ± 0.3, 2.00 ± 0.50
        >>> print(b.sigmas_from(2.0))
        2.5
    """

    value: Array
    stderr: Array
    mc_stderr: Array
    num_evaluations: int = eqx.field(static=True, default=0)
    cutoff: Array | None = None
    slope: Array | None = None
    bias: Array | None = None
    num_effective: Array | None = None
    largest_noise: Array | None = None

    # NumPy's numbers and arrays leave the arithmetic to this class.
    __array_ufunc__ = None

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        if isinstance(self.value, jax.core.Tracer) or np.ndim(self.value) > 0:
            return f"{self.value} ± {self.stderr}"
        text = format_with_error(float(self.value), float(self.stderr))
        notes = []
        if self.cutoff is not None:
            notes.append(f"noise std >= {float(self.cutoff):.3g}")
            if self.slope is not None:
                notes.append(f"slope {float(self.slope):.3g} per -ln(noise std)")
        if self.largest_noise is not None and np.isfinite(self.largest_noise):
            notes.append(f"model known for noise std <= {float(self.largest_noise):.3g}")
        if self.bias is not None and not abs(float(self.bias)) <= float(self.stderr):
            notes.append(f"bias {float(self.bias):.2g}")
        return f"{text} ({', '.join(notes)})" if notes else text

    def __repr__(self) -> str:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return eqx.tree_pformat(self)
        return f"Estimate({self})"

    def __format__(self, spec: str) -> str:
        if not spec or not is_concrete(self):
            return str(self)

        def text(part: Array) -> str:
            if np.ndim(part) == 0:
                return format(float(part), spec)
            style: Any = {"float_kind": lambda number: format(number, spec)}
            return np.array2string(np.asarray(part), formatter=style)

        return f"{text(self.value)} ± {text(self.stderr)}"

    def _repr_html_(self) -> str:
        if not is_concrete(self) or np.ndim(self.value) > 0:
            return html_table("Estimate", {"value": str(self.value), "error": str(self.stderr)})
        rows = {"value": str(self), "Monte Carlo error alone": f"{float(self.mc_stderr):.2g}"}
        if self.num_evaluations:
            rows["evaluations"] = f"{self.num_evaluations:,}"
        return html_table("Estimate", rows)

    # ------------------------------------------------------------------ arithmetic

    def __add__(self, number: ArrayLike) -> "Estimate":
        if not _is_number(number, "+"):
            return NotImplemented
        value = self.value + number
        return _broadcast(eqx.tree_at(lambda e: e.value, self, value))

    __radd__ = __add__

    def __sub__(self, number: ArrayLike) -> "Estimate":
        # Not `self + (-number)`: a negative unsigned integer wraps around.
        return -(-self + number) if _is_number(number, "-") else NotImplemented

    def __rsub__(self, number: ArrayLike) -> "Estimate":
        return -self + number if _is_number(number, "-") else NotImplemented

    def __mul__(self, number: ArrayLike) -> "Estimate":
        return (
            self._scaled(lambda part: part * number) if _is_number(number, "*") else NotImplemented
        )

    __rmul__ = __mul__

    def __truediv__(self, number: ArrayLike) -> "Estimate":
        return (
            self._scaled(lambda part: part / number) if _is_number(number, "/") else NotImplemented
        )

    def __neg__(self) -> "Estimate":
        return self._scaled(jnp.negative)

    def _scaled(self, scale: Callable[[Array], Array]) -> "Estimate":
        """With a linear function of the value."""
        return _broadcast(
            Estimate(
                scale(self.value),
                jnp.abs(scale(self.stderr)),
                jnp.abs(scale(self.mc_stderr)),
                self.num_evaluations,
                self.cutoff,
                None if self.slope is None else scale(self.slope),
                None if self.bias is None else scale(self.bias),
                self.num_effective,
                self.largest_noise,
            )
        )

    def plus(self, other: "Estimate", *, independent: bool) -> "Estimate":
        r"""The sum of two estimates, $A + B$.

        Args:
            other: B.
            independent: True if A and B share neither samples nor keys: errors add in quadrature,
                $\sqrt{\sigma_A^2 + \sigma_B^2}$. False if they may share them: errors are added,
                $\sigma_A + \sigma_B$, an upper bound for any correlation.

        Raises:
            ValueError: if `other` is not an estimate, or both have cut-offs that differ.
        """
        if not isinstance(other, Estimate):
            raise ValueError(f"`other` must be an Estimate, got {type(other).__name__}.")
        add = jnp.hypot if independent else jnp.add

        def total(
            one: Array | None, two: Array | None, combine: Callable[..., Array] = jnp.add
        ) -> Array | None:
            if one is None or two is None:
                return two if one is None else one
            return combine(one, two)

        return _broadcast(
            Estimate(
                self.value + other.value,
                add(self.stderr, other.stderr),
                add(self.mc_stderr, other.mc_stderr),
                self.num_evaluations + other.num_evaluations,
                common_cutoff(self.cutoff, other.cutoff),
                total(self.slope, other.slope),
                total(self.bias, other.bias),
                largest_noise=total(self.largest_noise, other.largest_noise, jnp.minimum),
            )
        )

    def minus(self, other: "Estimate", *, independent: bool) -> "Estimate":
        """The difference of two estimates, see `plus`.

        To compare two models on the same samples, subtract the values of each sample, which has a
        far smaller error:
        `log_prob(a, x, ...).minus(log_prob(b, x, ...), independent=...).mean`.

        Args:
            other: what is subtracted.
            independent: see `plus`.

        Raises:
            ValueError: as `plus`.
        """
        if not isinstance(other, Estimate):
            raise ValueError(f"`other` must be an Estimate, got {type(other).__name__}.")
        return self.plus(-other, independent=independent)

    def sigmas_from(self, truth: ArrayLike) -> Array:
        """How many standard errors the value lies above a number: (value - truth) / stderr.

        A bias is not subtracted. Without an error, it is infinite unless value and truth are equal.

        Args:
            truth: what the value is compared with.

        Raises:
            ValueError: if `truth` is an estimate, which has an error of its own.
        """
        if isinstance(truth, Estimate):
            raise ValueError(
                "`truth` must be a number, got an Estimate: use "
                "`a.minus(b, independent=...).sigmas_from(0)`."
            )
        gap = self.value - truth
        known = self.stderr > 0
        certain = jnp.where(gap == 0, 0.0, jnp.copysign(jnp.inf, gap))
        return jnp.where(known, gap / jnp.where(known, self.stderr, 1.0), certain)


def _is_number(other: Any, sign: str) -> bool:
    """Whether the operand is a real number or an array of them.

    Raises:
        ValueError: for two estimates.
    """
    if isinstance(other, Estimate):
        if sign in "+-":
            way = "plus" if sign == "+" else "minus"
            raise ValueError(
                f"`a {sign} b` of two estimates must say whether they share samples or keys: use "
                f"`a.{way}(b, independent=True)` if they share none, independent=False if they do."
            )
        raise ValueError(f"`a {sign} b` must have a number as `b`, got two estimates.")
    if isinstance(other, np.ndarray | jax.Array):
        return any(jnp.issubdtype(other.dtype, kind) for kind in (np.integer, np.floating))
    return isinstance(other, int | float | np.integer | np.floating) and not isinstance(other, bool)


def _broadcast(estimate: Estimate) -> Estimate:
    """Every array of the shape of all of them together."""
    shape = jnp.broadcast_shapes(*(jnp.shape(leaf) for leaf in jax.tree.leaves(estimate)))
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, shape), estimate)


def common_cutoff(one: Array | None, other: Array | None) -> Array | None:
    """The cut-off of two estimates that are combined.

    Raises:
        ValueError: if both have one, and they differ.
    """
    if one is None or other is None:
        return other if one is None else one
    if not equal(one, other, traced=True):
        raise ValueError(f"`cutoff` must be the same in both estimates, got {one} and {other}.")
    return one
