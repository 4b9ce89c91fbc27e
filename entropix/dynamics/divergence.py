r"""The divergence of a velocity: its trace along the axes, or along random directions.

For directions $\epsilon$ of unit covariance, $\nabla\cdot v = E[\epsilon\cdot(\partial v)\epsilon]$
(Hutchinson, 1990; Grathwohl et al., 1810.01367). With the coordinate axes as directions, the sum
over all of them is exact. Where the network of a model knows its own divergence, that of the
model's fields follows from it (`entropix.models.isotropic`), without a sum over axes.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entropix._core.arrays import Key, inner
from entropix._core.checks import choice, positive_integer
from entropix._core.offered import COLUMNS
from entropix._core.precision import matmul
from entropix.interfaces import AbstractModel
from entropix.models import isotropic


PROBES = ("orthogonal", "rademacher", "gaussian")


class Divergence(eqx.Module):
    r"""How the divergence of a flow is computed.

    Args:
        method: "exact", from the network where it offers its divergence (`FourierMLP` does; with
            one or two hidden layers it costs one to four evaluations), else by forward-mode
            derivatives along all D axes, at the cost of D evaluations; or "hutchinson", with random
            probes, for large D: unbiased, with a standard error.
        num_probes: probes of each sample, at least 2 (Hutchinson). D of them or more are the axes,
            and the divergence is exact.
        probe: "orthogonal", directions of a random rotation: they see different parts of a Jacobian
            and cannot agree by chance, and m of them in D dimensions have a variance smaller by
            $1 - m/D$; or independent "gaussian" or "rademacher" ones (Hutchinson). Signs have no
            variance where the Jacobian is diagonal, but a few may agree: "rademacher" is refused
            for less than 16 samples.

    Raises:
        ValueError: if an argument is not allowed.
    """

    method: str = eqx.field(static=True)
    num_probes: int = eqx.field(static=True)
    probe: str = eqx.field(static=True)

    def __init__(self, method: str = "exact", *, num_probes: int = 8, probe: str = "orthogonal"):
        self.method = choice(method, "divergence", ("exact", "hutchinson"))
        self.num_probes = positive_integer(num_probes, "num_probes", 2)
        self.probe = choice(probe, "probe", PROBES)

    def num_directions(self, dim: int) -> int:
        """Directions along which a Jacobian in `dim` dimensions is taken: `dim` if it is exact."""
        return dim if self.method == "exact" else min(self.num_probes, dim)

    def num_values(self, dim: int) -> int:
        """How many numbers `along` returns: one if it is exact."""
        count = self.num_directions(dim)
        return 1 if count == dim else count

    def num_held(self, model: AbstractModel, dim: int) -> int:
        """Evaluations and products with the Jacobian that are held at once for each sample."""
        directions = self.num_directions(dim)
        closed = directions == dim and isotropic(model) is not None
        return min(directions, COLUMNS) if closed else directions

    def check(self, count: int, dim: int) -> None:
        """Refuse probes that cannot be trusted for `count` samples."""
        if self.probe == "rademacher" and self.num_directions(dim) < dim and count < 16:
            raise ValueError(
                "`probe` must be 'orthogonal' or 'gaussian' for less than 16 samples, of which a "
                f"few signs may all agree, got 'rademacher' for {count}."
            )

    def probes(
        self, sample: Float[Array, "*shape"], key: Key | None, index: Int[Array, ""]
    ) -> Float[Array, "probes *shape"] | None:
        """Random directions of unit covariance for sample number `index`; None for the axes."""
        if self.num_directions(sample.size) == sample.size:
            return None
        assert key is not None
        key, shape = jax.random.fold_in(key, index), (self.num_probes, *sample.shape)
        if self.probe == "rademacher":
            return jax.random.rademacher(key, shape, sample.dtype)
        probes = jax.random.normal(key, shape, sample.dtype)
        return probes if self.probe == "gaussian" else _orthogonalised(probes)

    @staticmethod
    def along(
        field: Callable[[Any, Array], Array],
        model: AbstractModel,
        state: Float[Array, "*shape"],
        probes: Float[Array, "probes *shape"] | None = None,
    ) -> tuple[Float[Array, "*shape"], Float[Array, " values"]]:
        r"""A field of a model, and its divergence.

        Args:
            field: a function of the model and the state, in which a field of the model is only
                added to multiples of the state, multiplied by numbers, and evaluated at multiples
                of it.
            model: any model.
            state: where to evaluate it.
            probes: directions, with one value for each; None for the exact divergence, which is
                that of the network where it offers one, else the sum over the axes.
        """
        known = isotropic(model) if probes is None else None
        if known is not None:
            ones = jnp.ones_like(state)
            stretch = jax.jvp(lambda y: field(known, y), (state,), (ones,))[1]
            return field(model, state), jnp.sum(stretch)[None]
        moved, jvp = jax.linearize(lambda y: field(model, y), state)
        exact = probes is None
        if exact:
            probes = jnp.eye(state.size, dtype=state.dtype).reshape(-1, *state.shape)
        stretch = jax.vmap(lambda v: inner(jvp(v), v))(probes)
        return moved, jnp.sum(stretch, keepdims=True) if exact else stretch

    def estimate(
        self, gains: Float[Array, "n values"], dim: int
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """The mean over the probes of each sample, and its standard error."""
        value = jnp.mean(gains, axis=1)
        if self.num_directions(dim) == dim:
            return value, jnp.zeros_like(value)
        left_out = 1 - gains.shape[1] / dim  # the share of the space that no probe has seen
        return value, stderr_of_probes(gains, left_out if self.probe == "orthogonal" else 1.0)


def stderr_of_probes(gains: Float[Array, "n probes"], share: float) -> Float[Array, " n"]:
    """Standard errors of means over probes, of which a `share` of the variance is left."""
    from scipy.special import ndtri, stdtrit  # slow to import

    gains = jax.lax.stop_gradient(gains)
    samples, probes = gains.shape
    own = jnp.var(gains, axis=1, ddof=1)
    variance = jnp.maximum(own, jnp.mean(own)) * share / probes
    # As many errors lie beyond 2.58 of them as if the variance were known.
    level = 0.995
    widening = float(stdtrit(samples * (probes - 1), level) / ndtri(level))
    return widening * jnp.sqrt(variance)


def _orthogonalised(directions: Float[Array, "k *shape"]) -> Float[Array, "k *shape"]:
    r"""Orthogonal directions of length $\sqrt D$ in place of fewer than D Gaussian ones.

    By the method of Gram and Schmidt: a call of LAPACK inside of a mapped loop stalls on the CPU.
    """
    flat = directions.reshape(directions.shape[0], -1)

    def step(k: Array | int, rows: Array) -> Array:
        row = rows[k]
        earlier = jnp.where((jnp.arange(rows.shape[0]) < k)[:, None], rows, 0.0)
        for _ in range(2):  # the second time, what rounding left
            row = row - matmul(matmul(earlier, row), earlier)
        return rows.at[k].set(row / jnp.linalg.norm(row))

    rows = jax.lax.fori_loop(0, flat.shape[0], step, flat)
    return jnp.sqrt(flat.shape[1]).astype(flat.dtype) * rows.reshape(directions.shape)
