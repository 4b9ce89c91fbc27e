"""Principal components of data of many dimensions."""

import dataclasses

import numpy as np

from entropix._core.checks import positive_integer


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    r"""The first K principal components of training data: $x \mapsto A\,(x - m)$.

    The rows of A are orthonormal, so distances within the components are those of the data.

    Attributes:
        mean: m, shape (D,).
        axes: A, shape (K, D), by decreasing variance.
        explained: share of the variance of the training data in the components.
    """

    mean: np.ndarray
    axes: np.ndarray
    explained: float

    @classmethod
    def fit(cls, points: np.ndarray, components: int) -> "Projection":
        """The principal components of some points, each axis with its largest entry positive.

        Args:
            points: shape (N, D).
            components: their number K.

        Raises:
            ValueError: if the points do not have so many components.
        """
        most = min(points.shape[1], len(points) - 1)
        if positive_integer(components, "components") > most:
            raise ValueError(
                f"`components` must be at most {most}, as the data have {points.shape[1]} columns "
                f"and {len(points)} training samples, got {components}."
            )
        mean = points.mean(axis=0, dtype=np.float64)
        _, singular, axes = np.linalg.svd(points - mean, full_matrices=False)
        kept = axes[:components]
        signs = np.sign(np.take_along_axis(kept, np.abs(kept).argmax(axis=1)[:, None], axis=1))
        variance = singular**2
        return cls(mean, kept * signs, float(variance[:components].sum() / variance.sum()))

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Components of points, in their precision."""
        return ((points - self.mean) @ self.axes.T).astype(points.dtype)

    def inverse(self, components: np.ndarray) -> np.ndarray:
        """The points with these components, and the mean in all other directions."""
        return components @ self.axes + self.mean
