r"""Mutual information with labels: the label is diffused; a classifier gives its field.

A label c with probabilities $p_c$ is a point $e_c$ of a finite set. Diffused, its posterior is
$p(c|y_s, x) \propto p(c|x)\,p(y_s|e_c)$: the field of the label given x follows from $p(c|x)$ at
all noise levels, and that of the label alone from $p_c$. For a model q of the posterior the
denoising form is then exact,

$$\int\frac{\sigma^2}{2}\left[\left\|s_p + \tfrac z\Sigma\right\|^2
- \left\|s_q + \tfrac z\Sigma\right\|^2\right]ds = \log\frac{q(c|x)}{p_c}$$

in the mean over z (Guo, Shamai, Verdú, cs/0412108; Kong et al., 2302.03792). Its loss is the cross
entropy, with no noise to sample: the network that learns the field is a classifier. With labels
drawn from q itself both forms agree, and are $KL(q(\cdot|x)\|p)$, which takes the place of the
score form: never negative, and too large where q is too certain.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, as_float
from entropix._core.precision import full_precision
from entropix.information.crossfit import Measured, Recipe
from entropix.interfaces import AbstractLoss, AbstractModel
from entropix.models import EntropyMatching
from entropix.networks import ResidualMLP
from entropix.processes import CosinePath
from entropix.training import Holdout, fit


class CrossEntropy(AbstractLoss):
    r"""$-\log q(c|x)/p_c$ of a one-hot example, where the network gives the logits of $q/p$.

    Attributes:
        log_prior: $\log p_c$, shape (classes,).
    """

    log_prior: Float[Array, " classes"]

    num_draws = 1
    antithetic = False
    coupling = None
    num_steps = 0

    def __init__(self, log_prior: Float[Array, " classes"]):
        self.log_prior = log_prior

    def for_model(self, model: AbstractModel, data: Float[Array, "_ *shape"]) -> AbstractLoss:
        return self

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,)

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, " classes"],
        condition: PyTree,
        u: Float[Array, ""],
        z: Float[Array, "1"],
        key: Key | None,
    ) -> Float[Array, ""]:
        assert isinstance(model, EntropyMatching)
        ratio = log_ratio(model.network, self.log_prior, condition)
        return -jnp.sum(start * ratio)


def log_ratio(
    network: Callable, log_prior: Float[Array, " classes"], x: Float[Array, " d"]
) -> Float[Array, " classes"]:
    r"""$\log q(c|x)/p_c$ of all classes, for one example."""
    logits = log_prior + network(0.0, jnp.zeros_like(log_prior), x)
    return jax.nn.log_softmax(logits) - log_prior


def cross_fit_labels(
    x: np.ndarray,
    labels: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    recipe: Recipe,
    key: Key,
) -> Measured:
    """Train one network for each fold, and measure every sample once.

    Args:
        x: samples in standard units, shape (N, d).
        labels: one-hot vectors, shape (N, classes).
        rows: see `crossfit.split`.
        recipe: see `Recipe`.
        key: PRNG key.
    """
    count, classes = labels.shape
    points, targets = as_float(x), as_float(labels)
    log_prior = jnp.log(jnp.mean(targets, axis=0))
    denoising, score, fitted = (np.full(count, np.nan) for _ in range(3))
    index, falling, late = np.full(count, -1), [], []
    for i, (train, stop, test) in enumerate(rows):
        init_key, fit_key = jax.random.split(jax.random.fold_in(key, i))
        network = ResidualMLP(
            classes,
            condition_dim=points.shape[1],
            width=recipe.width,
            depth=recipe.depth,
            key=init_key,
        )
        trained = fit(
            EntropyMatching(network, CosinePath()),
            targets[train],
            condition=points[train],
            key=fit_key,
            steps=recipe.steps,
            batch_size=min(recipe.batch_size, len(train)),
            loss=CrossEntropy(log_prior),
            learning_rate=recipe.learning_rate,
            holdout=Holdout(targets[stop], points[stop], patience=recipe.patience or recipe.steps),
        )
        model: Any = trained.model
        gain = _measured(model.network, log_prior, points[stop], targets[stop])[:, 0]
        learnt = gain.mean() > 0
        best = model.network if learnt else network
        found = _measured(best, log_prior, points[test], targets[test])
        denoising[test], score[test] = found.T
        fitted[test] = _measured(best, log_prior, points[train], targets[train])[:, 0].mean()
        index[test] = i
        falling.append(learnt and int(trained.history.best_step) == recipe.steps)
        losses = np.asarray(trained.history.holdout_loss, float)
        before = losses[: max(1, len(losses) // 2)].min()
        late.append(before - losses.min() if learnt else 0.0)
    found = (denoising, score, np.zeros(count), fitted, index)
    return Measured(*found, np.array(falling), np.array(late))


@full_precision
def _measured(
    network: Callable,
    log_prior: Float[Array, " classes"],
    x: Float[Array, "n d"],
    labels: Float[Array, "n classes"],
) -> np.ndarray:
    """Of each sample, the log ratio of its label, and its mean over labels of the network."""
    ratio = _ratios(network, log_prior, x)
    own = jnp.sum(labels * ratio, axis=1)
    mean = jnp.sum(jnp.exp(ratio + log_prior) * ratio, axis=1)
    return np.asarray(jnp.stack([own, mean], axis=1), float)


@eqx.filter_jit
def _ratios(
    network: Callable, log_prior: Float[Array, " classes"], x: Float[Array, "n d"]
) -> Float[Array, "n classes"]:
    return jax.vmap(log_ratio, in_axes=(None, None, 0))(network, log_prior, x)
