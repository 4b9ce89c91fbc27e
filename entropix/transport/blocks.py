"""OTT's point cloud with costs that are recomputed in blocks of rows, never held.

OTT's own `batch_size` needs a name that JAX 0.10 dropped. This module imports OTT: import it late.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ott.geometry import pointcloud


@jax.tree_util.register_pytree_node_class
class Blocks(pointcloud.PointCloud):
    """A `PointCloud` with a `batch_size`: that many rows or columns of costs at once."""

    def _over(self, one: Callable[..., Any], axis: int, *own: Float[Array, " k"]) -> Any:
        """`one(costs, *own)` for each column (axis 0) or row of the matrix of costs."""
        points, others = (self.y, self.x) if axis == 0 else (self.x, self.y)

        @jax.checkpoint
        def of_point(args: tuple[Array, ...]) -> Any:
            point, *values = args
            return one(self.cost_fn.all_pairs(point[None], others)[0], *values)

        return jax.lax.map(of_point, (points, *own), batch_size=self.batch_size)

    def apply_lse_kernel(
        self, f: Array, g: Array, eps: Any, vec: Array | None = None, axis: int = 0
    ) -> tuple[Array, Array]:
        own, other = (g, f) if axis == 0 else (f, g)
        factor = self.inv_scale_cost

        def one(costs: Array, own: Array) -> Any:
            scores = (own + other - factor * costs) / eps
            return jax.nn.logsumexp(scores, b=vec, return_sign=True)

        values, signs = self._over(one, axis, own)
        return eps * values - jnp.where(jnp.isfinite(own), own, 0), signs

    def apply_kernel(self, vec: Array, eps: Any = None, axis: int = 0) -> Array:
        eps = self.epsilon if eps is None else eps
        factor = self.inv_scale_cost
        return self._over(lambda costs: jnp.exp(-factor * costs / eps) @ vec, axis)

    def _apply_cost_to_vec(
        self,
        vec: Array,
        axis: int = 0,
        fn: Callable[[Array], Array] | None = None,
        is_linear: bool = False,
        scale_cost: Any = None,
    ) -> Array:
        factor = self.inv_scale_cost if scale_cost is None else scale_cost

        def one(costs: Array) -> Array:
            return (factor * costs if fn is None else fn(factor * costs)) @ vec

        return self._over(one, axis)

    def _compute_summary_online(self, summary: str) -> Array:
        if summary == "max_cost":
            return jnp.max(self._over(lambda costs: jnp.max(jnp.abs(costs)), 0))
        return jnp.mean(self._over(jnp.mean, 0))
