r"""Log densities from denoising errors (I-MMSE)."""

from typing import Any

from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix.density.path_bound import PathBound
from entropix.interfaces import AbstractDensityMethod, AbstractModel, SampleEstimates


class DenoisingError(AbstractDensityMethod):
    r"""$-\log p(x) = -\log r(x) + \frac12\int[\mathrm{mmse}(x, g) - \mathrm{mmse}_r(x, g)]\,dg$.

    $g = e^\lambda$ is the signal-to-noise ratio, $\mathrm{mmse}(x, g) = E\|x - D(y)\|^2$ the error
    of the model's denoiser at $y = \mu x + \Sigma z$, and $r$ a Gaussian reference, whose errors
    take the place of $d/(1 + g)$. Pointwise exact for the optimal denoiser and neither a bound nor
    a density otherwise (Kong, Brekelmans, Ver Steeg, 2302.03792).

    In terms of scores the integrand is that of `PathBound`, $\frac12\Sigma^2(s - s_r)\cdot(s + s_r
    + 2z/\Sigma)\,d\lambda$, and so is the estimator: a pilot, importance sampling of the log-SNR,
    antithetic noise. What differs is the end: no prior enters, and below the lowest
    signal-to-noise ratio of the process the denoiser is taken to be the reference's.

    With a cut-off it is the error over signal-to-noise ratios up to that of the cut-off, which
    gives the density of the data with that noise.

    Args: as `PathBound`.
    """

    bound: PathBound

    def __init__(self, num_evaluations: int = 128, reference: Any = None):
        self.bound = PathBound(num_evaluations, reference)

    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: Any,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        del prior
        return self.bound.evaluate(
            model,
            x,
            prior=None,
            condition=condition,
            cutoff=cutoff,
            key=key,
            chunk_size=chunk_size,
        )
