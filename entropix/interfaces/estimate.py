"""`Estimate`: a value with its standard errors."""

import equinox as eqx
import jax
import jax.core
import numpy as np
from jaxtyping import Array

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
        largest_noise: the largest noise standard deviation that the models know, where the process
            goes beyond it, else infinite. Beyond, their denoisers are continued as linear, and the
            possible error is part of `stderr`. None for models on a process of their own.

    Prints as `259.88 ± 0.12`, with a bias that exceeds the error. `float(estimate)` is its value.
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
