r"""The integrand of the path bound, from the data end or from a cut-off on.

With a cut-off the process starts at the time $s_c$ at which $\Sigma$ equals it, from $\mu_c x$.
What it reaches from there is

$$Y_s = \mu x + \Sigma k z, \qquad k^2 = 1 - e^{\lambda - \lambda_c},$$

and the identity of `entropix.density.path_bound` holds with $z/\Sigma k$ in place of $z/\Sigma$,
$r_c$ in place of r, and $D\log\mu_c$ for the change of units from $\mu_c x$ to $x$. Without a
cut-off $\lambda_c$ is infinite and $k = 1$.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import error_difference
from entropix.entropy.reference import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, AbstractModel


class BoundIntegrand(eqx.Module):
    """What the path bound integrates and what it adds at the ends, for one sample."""

    model: AbstractModel
    reference: GaussianReference
    axis: LogSNRAxis

    @property
    def process(self) -> AbstractGaussianProcess:
        """The process of the model."""
        return self.model.process

    def _kept(self, fraction: Any) -> Array:
        """$k$: what is left of the noise of the process where it starts at a cut-off."""
        if not self.axis.has_cutoff:
            return jnp.ones_like(self.axis.centre)
        passed = self.axis.log_snr(0.0) - self.axis.log_snr(fraction)
        # Closer to the cut-off than this, rounding would pull a pair of states apart or together.
        return jnp.sqrt(-jnp.expm1(-jnp.maximum(passed, 1e-5)))

    def pair(
        self, fraction: Array, x: Float[Array, "*shape"], condition: Any, z: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        """The integrand per unit of the axis, averaged over (z, -z)."""
        process, kept = self.process, self._kept(fraction)
        s = process.time_of_log_snr(self.axis.log_snr(fraction))

        def one(noise: Array) -> Array:
            y = process.perturb(s, x, kept * noise)
            field = self.model.entropy_field(s, y, condition)
            known = self.reference.entropy_field(process, s, y)
            return error_difference(process, s, y, noise / kept, field, known)

        return self.axis.jacobian(fraction) * jnp.mean(jax.vmap(one)(jnp.stack([z, -z])))

    def noise_end(
        self, prior: Any, x: Float[Array, "*shape"], z: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        r"""$\log prior(Y_T) - \log r_T(Y_T)$, averaged over (z, -z)."""
        process, end, kept = self.process, self.process.t1, self._kept(1.0)

        def one(noise: Array) -> Array:
            y = process.perturb(end, x, kept * noise)
            return prior.log_prob(y) - self.reference.log_prob(process, end, y)

        return (one(z) + one(-z)) / 2

    def data_end(self, x: Float[Array, "*shape"]) -> Float[Array, ""]:
        r"""$\log r(x)$, or with a cut-off $\log r_c(\mu_c x) + D\log\mu_c$."""
        if not self.axis.has_cutoff:
            return self.reference.log_prob_undiffused(x)
        process, start = self.process, self.axis.start_time(self.process)
        there = self.reference.log_prob(process, start, process.scale(start) * x)
        return there + x.size * process.log_scale(start)
