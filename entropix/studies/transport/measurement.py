r"""One cell: networks trained for so many epochs, and how much of the entropy they store.

With the exact field $e^*$ of the mixture, on samples the networks have not seen,

$$S_{NN} = \int\frac{\sigma^2}{2}E\|e_\theta\|^2 ds, \quad
  S_{tot} = \int\frac{\sigma^2}{2}E\|e^*\|^2 ds, \quad
  L = \int\frac{\sigma^2}{2}E\|e_\theta - e^*\|^2 ds,$$

three squared norms of one space of fields, so that
$|\sqrt{S_{NN}} - \sqrt{S_{tot}}| \le \sqrt{L}$ (Neural Entropy, 2409.03817): on the given samples
exactly, and for estimates within their Monte Carlo errors.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import Key
from entropix.entropy import neural_entropy, path_kl
from entropix.interfaces import AbstractModel, Estimate
from entropix.models import EntropyMatching, ExactModel, GaussianScaling
from entropix.networks import FourierMLP
from entropix.studies.cells import Arrays, Task
from entropix.studies.transport.plan import TransportCell, TransportPlan
from entropix.training import EnsembleFit


# Of the key of the data: what is estimated of the exact field.
_TRUTH = 0x7A17


def measure_cell(plan: TransportPlan, cell: TransportCell, task: Task) -> Arrays:
    """Everything measured in a cell; the last axis is the seed.

    Args:
        plan: what runs.
        cell: its place in the grid.
        task: the claim to it.
    """
    train, held_out = plan.samples(cell.dim)
    process, widths = plan.processes[cell.process], plan.options.training.widths
    scaling = GaussianScaling.from_data(train, process)

    def make(key: Key) -> EntropyMatching:
        return EntropyMatching(FourierMLP(cell.dim, widths=widths, key=key), process, scaling)

    steps = plan.steps(cell.epochs)
    fits, loss = plan.training.train(task, make, train, steps, process)
    # Without the history, whose length would have each number of steps compiled for itself.
    fits = eqx.tree_at(lambda f: f.history, fits, None)
    exact = ExactModel(plan.mixtures[cell.dim], process)
    count = plan.options.estimation.evaluations
    stored, distance = _of_networks(fits, exact, held_out, plan.training.keys(), count)
    key = jax.random.fold_in(jax.random.key(plan.options.mixtures.data_seed), _TRUTH)
    total = neural_entropy(exact, held_out, key=key, num_evaluations=count)
    found: dict[str, Any] = {"loss": loss}
    for name, estimate in (("neural_entropy", stored), ("path_kl", distance)):
        found |= _parts(name, estimate)
    # The same for all seeds, but each of them is an entry of the grid.
    found |= {k: np.full(len(loss), v) for k, v in _parts("total_entropy", total).items()}
    found["gap"], found["gap_stderr"] = gap(stored, total, distance)
    return {name: np.asarray(value) for name, value in found.items()}


def gap(stored: Estimate, total: Estimate, distance: Estimate) -> tuple[np.ndarray, np.ndarray]:
    r"""$\sqrt{L} - |\sqrt{S_{NN}} - \sqrt{S_{tot}}|$, which is not negative, and its error.

    The error is that of the Monte Carlo noise alone, to first order: all three are estimates for
    the same samples, for which the inequality holds as well as for the population.
    """
    roots, variance = [], 0.0
    for estimate in (stored, total, distance):
        value = np.maximum(np.asarray(estimate.value, float), np.finfo(float).tiny)
        root = np.sqrt(value)
        roots.append(root)
        variance = variance + (np.asarray(estimate.mc_stderr, float) / (2 * root)) ** 2
    return roots[2] - np.abs(roots[0] - roots[1]), np.sqrt(variance)


@eqx.filter_jit
def _of_networks(
    fits: EnsembleFit, exact: ExactModel, data: Array | np.ndarray, keys: Key, count: int
) -> tuple[Estimate, Estimate]:
    """S_NN and L of all seeds at once."""

    def one(model: AbstractModel, key: Key) -> tuple[Estimate, Estimate]:
        entropy_key, kl_key = jax.random.split(key)
        return (
            neural_entropy(model, data, key=entropy_key, num_evaluations=count),
            path_kl(model, exact, data, key=kl_key, num_evaluations=count),
        )

    return eqx.filter_vmap(one)(fits.model, keys)


def _parts(name: str, estimate: Estimate) -> dict[str, Array]:
    return {
        name: estimate.value,
        f"{name}_stderr": estimate.stderr,
        f"{name}_mc_stderr": estimate.mc_stderr,
    }
