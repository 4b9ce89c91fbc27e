r"""Traces of the Jacobians of multilayer networks, without a Jacobian.

With normalised layers, the Jacobian of a perceptron is a product of matrices $W_l$ that do not
depend on the example, and of a diagonal matrix with a correction of rank one for each layer,

$$J = W_{out}\,T_L W_L \cdots T_2 W_2\,T_1 W_1, \qquad
  T_l = \mathrm{diag}(g_l)\left(I - \frac{\hat x_l\hat x_l^T}{H_l}\right),$$

with $\hat x_l$ the normalised input of the activation and $g_l$ its slope; the mean that LayerNorm
subtracts is subtracted from the columns of $W_l$. For one hidden layer the trace costs as much as
an evaluation. For two it is bilinear in $g_1$ and $g_2$: with $P = W_1 W_{out}$ it takes five
products with matrices that are the same for every example,

$$\mathrm{tr}\,J = g_2^T (W_2\odot P^T)\,g_1
  - \frac{(\hat x_2^T W_2)\,\mathrm{diag}(g_1)\,P (g_2\hat x_2)}{H_2}
  - \frac{(\hat x_1^T P)\,\mathrm{diag}(g_2)\,W_2 (g_1\hat x_1)}{H_1}
  + \frac{(\hat x_2^T W_2\,g_1\hat x_1)(\hat x_1^T P\,g_2\hat x_2)}{H_1 H_2}.$$

For more layers, columns are carried through them: the D columns of $W_1$, or the $H_L$ columns of
$P$, which leave out a layer more, whichever needs fewer operations.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import inner
from entropix._core.offered import COLUMNS


class Normalised(eqx.Module):
    r"""$T$, the derivative of a normalisation and of what follows it elementwise.

    Attributes:
        slope: $g$.
        unit: $\hat x$, normalised, of mean square one (less what keeps it finite at zero).
    """

    slope: Float[Array, " width"]
    unit: Float[Array, " width"]

    def __call__(self, v: Float[Array, " width"]) -> Float[Array, " width"]:
        """$T v$."""
        return self.slope * (v - self.unit * inner(self.unit, v) / v.shape[0])


def normalised(norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm, z: Float[Array, " width"]) -> Normalised:
    """The derivative of a normalisation at z, for inputs without a mean if it subtracts it."""
    centred = z - jnp.mean(z) if isinstance(norm, eqx.nn.LayerNorm) else z
    factor = jax.lax.rsqrt(jnp.mean(centred**2) + norm.eps)
    assert norm.weight is not None
    return Normalised(norm.weight * factor, centred * factor)


def trace_of_columns(
    carry: Callable[[Float[Array, " first"]], Float[Array, " last"]],
    columns: Float[Array, "count first"],
    rows: Float[Array, "count last"],
) -> Float[Array, ""]:
    """The sum of the products of each row with its column, carried through a network."""

    @jax.checkpoint  # the columns are not kept for the gradient
    def one(pair: tuple[Array, Array]) -> Array:
        column, row = pair
        return inner(row, carry(column))

    if columns.shape[0] <= COLUMNS:
        return jnp.sum(jax.vmap(one)((columns, rows)))
    return jnp.sum(jax.lax.map(one, (columns, rows), batch_size=COLUMNS))


def trace_of_layers(
    weights: Sequence[Float[Array, "_out _in"]],
    slopes: Sequence[Normalised],
    head: Float[Array, "dim last"],
) -> Float[Array, ""]:
    r"""The trace of $W_{out} T_L W_L \cdots T_1 W_1$.

    Args:
        weights: $W_l$, the first of shape (H, D), without the means of their columns.
        slopes: $T_l$.
        head: $W_{out}$.
    """
    first, second, last = weights[0], weights[1:], slopes[-1]
    dim, width = head.shape
    if not second:
        direct = inner(jnp.sum(first * head.T, axis=1), last.slope)
        return direct - inner(last.unit @ first, head @ (last.slope * last.unit)) / width
    if len(second) == 1:
        return _bilinear(first, second[0], head, slopes[0], last)
    products = [weight.size for weight in second]  # multiplications for each column
    if dim * sum(products) <= width * sum(products[:-1]):

        def through(v: Array) -> Array:
            for weight, slope in zip(second, slopes, strict=False):
                v = weight @ slope(v)
            return last(v)

        return trace_of_columns(through, first.T, head)

    def through_all_but_one(v: Array) -> Array:
        for weight, slope in zip(second[:-1], slopes, strict=False):
            v = weight @ slope(v)
        return slopes[-2](v)

    rows = second[-1] - last.unit[:, None] * (last.unit @ second[-1]) / width
    return trace_of_columns(through_all_but_one, (first @ head).T, last.slope[:, None] * rows)


def _bilinear(first: Array, second: Array, head: Array, low: Normalised, high: Normalised) -> Array:
    """The trace for two hidden layers."""
    around = first @ head
    a, b = low.slope * low.unit, high.slope * high.unit
    if head.shape[0] * sum(second.shape) < second.size:
        right, left = first @ (head @ b), (low.unit @ first) @ head
    else:
        right, left = around @ b, low.unit @ around
    down, up = high.unit @ second, second @ a
    direct = inner(high.slope, (second * around.T) @ low.slope)
    by_high = inner(down * low.slope, right) / b.size
    by_low = inner(left * high.slope, up) / a.size
    return direct - by_high - by_low + inner(down, a) * inner(left, b) / (a.size * b.size)


def derivative(function: Callable[[Array], Array], x: Array) -> Array:
    """The derivative of an elementwise function, or of one of a scalar."""
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def without_mean(weight: Float[Array, "out in"]) -> Float[Array, "out in"]:
    """Columns less their means: what LayerNorm leaves of a linear map."""
    return weight - jnp.mean(weight, axis=0)
