"""The five-component Gaussian mixtures of the Neural Entropy paper's transport experiments.

References:
    Premkumar, *Neural Entropy*, arXiv 2409.03817.
"""

import numpy as np

from entropix.distributions import GaussianMixture


WEIGHTS = (
    0.3160133957862854,
    0.002303382847458124,
    0.23624537885189056,
    0.2093912959098816,
    0.23604655265808105,
)
MEANS = {
    2: (
        (-1.9302864074707031, -1.8173956871032715),
        (1.1268291473388672, -1.3317480087280273),
        (-1.7373900413513184, 1.512451171875),
        (0.38619327545166016, 0.6902027130126953),
        (-0.8182764053344727, 0.2642350196838379),
    ),
    3: (
        (-0.6040592193603516, -0.9950146675109863, -0.06402444839477539),
        (-0.7076220512390137, -0.8271579742431641, -1.1844234466552734),
        (0.37436628341674805, -0.23070287704467773, 0.8506259918212891),
        (-1.7861018180847168, 0.18054914474487305, 1.8154053688049316),
        (-1.9645686149597168, -0.9717817306518555, 1.0429296493530273),
    ),
}
# One standard deviation per component, the same along every axis.
STDS = {
    2: (
        0.7037508487701416,
        0.40221402049064636,
        0.6270781755447388,
        0.601266086101532,
        0.6268870234489441,
    ),
    3: (
        0.879688560962677,
        0.5027675032615662,
        0.7838476896286011,
        0.7515826225280762,
        0.7836087942123413,
    ),
}


def paper_mixture(dim: int) -> GaussianMixture:
    """The mixture in `dim` = 2 or 3 dimensions."""
    means = np.array(MEANS[dim])
    stds = np.broadcast_to(np.array(STDS[dim])[:, None], means.shape)
    return GaussianMixture(list(WEIGHTS), means.tolist(), stds.tolist())
