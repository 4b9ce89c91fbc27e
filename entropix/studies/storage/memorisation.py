r"""Memorisation: whether samples are copies of single training samples.

For a sample x and its nearest and second nearest training samples,

$$r(x) = \frac{\|x - x_{(1)}\|}{\|x - x_{(2)}\|} \in [0, 1],$$

and x counts as memorised if $r < 1/3$: it is much closer to one training sample than to any other
(Yoon et al., *Diffusion Probabilistic Models Generalize when They Fail to Memorize*, 2023; Gu et
al., *On Memorization in Diffusion Models*, 2310.02664). Without memorisation r depends on the
dimension d of the data: if x and many training samples have the same smooth density,
$P(r < t) = t^d$ and $E\,r = d/(d + 1)$. For the data at hand, held-out samples in place of x give
its value.

The distance of two sequences of tokens is the share of sites at which they differ.

Samples of dequantised images are first rounded down to their integer levels, so that the noise of
dequantisation does not limit the distance.
"""

from typing import TypeGuard

import numpy as np

from entropix.studies.data import PreparedData
from entropix.studies.tokens import TokenData


THRESHOLD = 1 / 3


def nearest_ratio(
    points: np.ndarray, training: np.ndarray, metric: str = "euclidean"
) -> np.ndarray:
    """Distance to the nearest training sample over that to the second nearest.

    Args:
        points: samples, shape (M, D).
        training: training samples, shape (N, D); equal ones count once.
        metric: a metric of scikit-learn: "euclidean", or "hamming" for tokens.

    Returns:
        Ratios, shape (M,); 1 if there are no two different training samples.
    """
    from sklearn.neighbors import NearestNeighbors

    training = np.unique(np.asarray(training), axis=0)
    if len(training) < 2:
        return np.ones(len(points))
    search = NearestNeighbors(n_neighbors=2, algorithm="brute", metric=metric).fit(training)
    nearest, second = search.kneighbors(np.asarray(points))[0].T
    return nearest / second


def generated_points(data: PreparedData | TokenData, points: np.ndarray) -> np.ndarray:
    """Samples of a model, shape (M, D), as they are compared (see above)."""
    if not _as_images(data):
        return np.asarray(points)
    levels = data.dataset.levels
    assert levels is not None
    images = np.floor(np.asarray(data.standardisation.inverse(points)))
    return np.clip(images, 0, levels - 1)


def training_points(data: PreparedData | TokenData, size: int) -> np.ndarray:
    """The first `size` training samples, as they are compared."""
    if not _as_images(data):
        return data.train[:size].reshape(size, -1)
    return data.dataset.points[data.order[1][:size]]


def held_out_points(data: PreparedData | TokenData) -> np.ndarray:
    """Held-out samples, as they are compared."""
    if _as_images(data):
        return data.dataset.points[data.order[0]]
    return data.held_out.reshape(len(data.held_out), -1)


def _as_images(data: PreparedData | TokenData) -> TypeGuard[PreparedData]:
    return isinstance(data, PreparedData) and data.dequantised and data.projection is None
