"""What a comparison of transport and cost reports."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix.interfaces import Estimate


class SpeedLimit(eqx.Module):
    r"""What `speed_limit` found. Lengths in units of the data, entropies in nats.

    Attributes:
        w2: $W_2(p_0, p_T)$ between samples: biased upwards in more than one dimension.
        w2_lower: the bound on $W_2$ from the first two moments, exact for Gaussian data.
        length: $\int\sqrt{E\|v\|^2}\,ds$.
        action: $(t_1 - t_0)\int E\|v\|^2\,ds$.
        total_entropy: $\int\frac{2}{\sigma^2}E\|v\|^2\,ds$; infinite where that is known.
        budget: $\int\frac{\sigma^2}{2}\,ds$, exact; infinite where the process ends in pure noise.
        efficiency: $W_2^2/(S_{tot}\int\frac{\sigma^2}{2}ds)$, zero where either is infinite.
        times: times at which the speed was taken, increasing.
        speed: $\sqrt{E\|v\|^2}$ at those times.
        quadrature: error of the quadrature in time of `length` and `action`, a part of theirs.
        num_samples: sizes of the samples between which `w2` was computed.
        dim: numbers in one sample.
    """

    w2: Estimate
    w2_lower: Estimate
    length: Estimate
    action: Estimate
    total_entropy: Estimate
    budget: Float[Array, "*seeds"]
    efficiency: Estimate
    times: Float[Array, "*seeds k"]
    speed: Float[Array, "*seeds k"]
    quadrature: Float[Array, "*seeds 2"]
    num_samples: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    @property
    def efficiency_lower(self) -> Array:
        """The efficiency with `w2_lower` in place of `w2`: free of the bias of samples."""
        cost = self.total_entropy.value * self.budget
        return jnp.where(jnp.isfinite(cost), self.w2_lower.value**2 / cost, 0.0)

    @property
    def slack(self) -> dict[str, Array]:
        """By how many standard errors each inequality holds; negative where it does not.

        In more than one dimension they are judged by `w2_lower`, as `w2` is biased upwards.
        Infinite where the right side is, or where neither side has an error.
        """
        limit = self.total_entropy.value * self.budget
        width = limit * self.total_entropy.stderr / self.total_entropy.value
        w2 = self.w2 if self.dim == 1 else self.w2_lower
        length, action = self.length, self.action

        def slack(low: Array, low_error: Array, high: Array, high_error: Array) -> Array:
            finite = jnp.isfinite(high)
            safe = jnp.where(finite, high, 0.0)
            gap = safe * (1 + 1e-5) - low
            error = jnp.hypot(low_error, jnp.where(finite, high_error, 0.0))
            certain = jnp.where(gap >= 0, jnp.inf, -jnp.inf)
            ratio = jnp.where(error > 0, gap / jnp.where(error > 0, error, 1.0), certain)
            return jnp.where(finite, ratio, jnp.inf)

        squared = w2.value**2, 2 * w2.value * w2.stderr
        # Both sides come from the same speeds: the Jensen inequality has no sampling error.
        of_length, of_action = self.quadrature[..., 0], self.quadrature[..., 1]
        squared_length = length.value**2, 2 * length.value * of_length
        return {
            "W2 <= length": slack(w2.value, w2.stderr, length.value, length.stderr),
            "length^2 <= action": slack(*squared_length, action.value, of_action),
            "W2^2 <= S_tot * budget": slack(*squared, limit, width),
        }

    @property
    def inequalities(self) -> dict[str, Array]:
        """Whether each inequality holds, to within four standard errors.

        They are theorems for the exact velocity; a network's may violate them.
        """
        return {name: slack >= -4 for name, slack in self.slack.items()}

    def __str__(self) -> str:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return eqx.tree_pformat(self)
        rows = {
            f"W2 (n = {self.num_samples})": self.w2,
            "W2, lower bound": self.w2_lower,
            "length": self.length,
            "action": self.action,
            "total entropy (nats)": self.total_entropy,
            "budget": self.budget,
            "efficiency": self.efficiency,
        }
        lines = [f"{name:<22} {value}" for name, value in rows.items()]
        for name, slack in self.slack.items():
            lines.append(f"{name:<22} {self._verdict(name, float(jnp.min(slack)))}")
        return "\n".join(lines)

    def _verdict(self, name: str, slack: float) -> str:
        if "budget" in name and not bool(jnp.all(jnp.isfinite(self.budget))):
            return "holds, but says nothing: the budget is infinite"
        if "budget" in name and not bool(jnp.all(jnp.isfinite(self.total_entropy.value))):
            return "holds, but says nothing: the total entropy is infinite"
        verdict = "holds" if slack >= -4 else "VIOLATED"
        if not jnp.isfinite(slack):
            return verdict
        return f"{verdict}, by {abs(slack):.3g} standard errors"
