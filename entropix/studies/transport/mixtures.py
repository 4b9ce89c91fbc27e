"""The Gaussian mixtures: those of the paper, from a file of parameters, or drawn at random.

References:
    Premkumar, *Neural Entropy*, arXiv 2409.03817: five components, D = 3, 6 and 9.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from entropix.datasets import paper_mixture
from entropix.distributions import GaussianMixture


_COMPONENTS = 5


def read_mixtures(path: str) -> dict[int, GaussianMixture]:
    """Mixtures by dimension, from a JSON file.

    Its layout is `{"3": {"weights": [...], "means": [[...], ...], "stds": [[...], ...]}, ...}`,
    with shapes (K,), (K, D) and (K, D), or (K,) for `stds` that are the same along every axis.
    Other entries are ignored.

    Raises:
        ValueError: in one line, for a file that is missing or not of this layout.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`mixtures` must be a JSON file, got {path!r}: {error}.") from error
    named = content if isinstance(content, dict) else {}
    found = {int(name): _mixture(v, int(name)) for name, v in named.items() if name.isdecimal()}
    if not found:
        raise ValueError(
            "`mixtures` must be a JSON file with the parameters of a mixture under the name of "
            f"each dimension, such as '3', got {path!r}."
        )
    return found


def _mixture(given: Any, dim: int) -> GaussianMixture:
    try:
        weights, means, stds = (
            np.asarray(given[name], float) for name in ("weights", "means", "stds")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`mixtures` must hold weights, means and stds of dimension {dim}: {error!r}."
        ) from error
    if stds.ndim == 1 and means.ndim == 2:
        stds = np.broadcast_to(stds[:, None], (len(stds), means.shape[1]))
    if means.ndim != 2 or means.shape[1] != dim:
        raise ValueError(f"`mixtures` must hold means of shape (K, {dim}), got {means.shape}.")
    return GaussianMixture(weights.tolist(), means.tolist(), stds.tolist())


def drawn_mixture(dim: int, seed: int) -> GaussianMixture:
    """Five components drawn at random, similar to those of the paper.

    With NumPy's default generator for the seed (`seed`, D), in this order: weights from the flat
    Dirichlet distribution, means uniform in [-2, 2], one standard deviation per component uniform
    in [0.4, 0.9].
    """
    rng = np.random.default_rng((seed, dim))
    weights = rng.dirichlet(np.ones(_COMPONENTS))
    means = rng.uniform(-2.0, 2.0, (_COMPONENTS, dim))
    stds = np.repeat(rng.uniform(0.4, 0.9, (_COMPONENTS, 1)), dim, axis=1)
    return GaussianMixture(weights.tolist(), means.tolist(), stds.tolist())


def choose_mixtures(
    dimensions: tuple[int, ...], path: str | None, seed: int, default: tuple[int, ...]
) -> tuple[dict[int, GaussianMixture], dict[int, str]]:
    """The mixture of each dimension, and its source.

    Args:
        dimensions: as requested; empty for all of the file, or the default.
        path: a file of parameters, or None.
        seed: of mixtures that are drawn.
        default: the dimensions without a file and a request.

    Raises:
        ValueError: as `read_mixtures`, if the file lacks a requested dimension, or if there is a
            seed and no mixture to draw.
    """
    given = {} if path is None else read_mixtures(path)
    wanted = dimensions or tuple(sorted(given)) or default
    if path is not None and (lacking := [dim for dim in wanted if dim not in given]):
        have = ", ".join(map(str, sorted(given)))
        raise ValueError(f"`dimensions` must be among those of {path!r}, {have}, got {lacking[0]}.")
    found, sources = {}, {}
    for dim in wanted:
        if dim in given:
            found[dim], sources[dim] = given[dim], "file"
        elif dim in (2, 3, 6):
            found[dim], sources[dim] = paper_mixture(dim), "paper"
        else:
            found[dim], sources[dim] = drawn_mixture(dim, seed), f"drawn with seed {seed}"
    if seed and not any(source.startswith("drawn") for source in sources.values()):
        raise ValueError(
            f"`mixture_seed` must be left out where no mixture is drawn, got {seed}: those of "
            f"dimensions {', '.join(map(str, found))} are known."
        )
    return found, sources
