"""Two groups on a line: a denoiser in closed form as networks of all kinds, fast to compile."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

import entropix as ex


class Groups(eqx.Module):
    """Half the data N(m + a, v), half N(m - a, v), in every coordinate."""

    m: float = eqx.field(static=True, default=0.4)
    a: float = eqx.field(static=True, default=0.7)
    v: float = eqx.field(static=True, default=0.3)

    @property
    def distribution(self):
        means = [[self.m + self.a], [self.m - self.a]]
        return ex.GaussianMixture([0.5, 0.5], means, [[self.v**0.5]] * 2)

    def fields(self, process, s, y):
        """Score, entropy field, velocity, in forms that are accurate at both ends."""
        scale, var = process.scale(s), process.var(s)
        total = scale**2 * self.v + var
        mean = self.m + self.a * jnp.tanh(scale * self.a * (y - scale * self.m) / total)
        score = (scale * mean - y) / total
        denoised = (scale * self.v * y + var * mean) / total
        gap = denoised - process.equilibrium_gain(s) * y
        near_data = scale**2 > var
        entropy = jnp.where(
            near_data,
            score + process.equilibrium_precision(s) * y,
            scale * gap / jnp.where(near_data, 1.0, var),
        )
        velocity = process.scale_rate(s) * denoised - process.var_rate(s) / 2 * score
        return score, entropy, velocity


class GroupsNetwork(eqx.Module):
    """The output of a perfect network of a kind, times the parameter `size` (one)."""

    process: Any
    kind: str = eqx.field(static=True)
    size: Any
    scaling: ex.GaussianScaling | None
    groups: Groups
    dim: int = eqx.field(static=True)

    def __init__(self, process, kind, scaling=None, dim=1):
        self.process, self.kind, self.scaling, self.dim = process, kind, scaling, dim
        self.size = jnp.asarray(1.0, float)
        self.groups = Groups()

    def __call__(self, log_snr, y, condition=None):
        process = self.process
        s = process.time_of_log_snr(log_snr)
        if self.scaling is not None:
            y = y * self.scaling.input_std(process, s)
        score, entropy, velocity = self.groups.fields(process, s, y)
        if self.scaling is not None:
            return self.size * entropy / self.scaling(process, s)
        out = {
            "score": score,
            "entropy": entropy,
            "velocity": velocity,
            "noise": -process.std(s) * score,
        }
        return self.size * out[self.kind]


KINDS = {
    "entropy": ex.EntropyMatching,
    "score": ex.ScoreMatching,
    "noise": ex.NoisePrediction,
    "velocity": ex.VelocityPrediction,
}


def perfect_models(process):
    """Every parametrisation of the same data under a process."""
    models = {k: make(GroupsNetwork(process, k), process) for k, make in KINDS.items()}
    scaling = ex.GaussianScaling.from_data(jnp.asarray([[-0.4], [0.3], [1.4]], float), process)
    network = GroupsNetwork(process, "entropy", scaling)
    return models | {"scaled": ex.EntropyMatching(network, process, scaling)}
