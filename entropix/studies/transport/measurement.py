r"""One cell of `transport`: how much of the entropy networks store after some epochs of training.

With the exact field $e^*$ of the mixture, on samples the networks have not seen,

$$S_{NN} = \int\frac{\sigma^2}{2}E\|e_\theta\|^2 ds, \quad
  S_{tot} = \int\frac{\sigma^2}{2}E\|e^*\|^2 ds, \quad
  L = \int\frac{\sigma^2}{2}E\|e_\theta - e^*\|^2 ds,$$

three squared norms in one space of fields, so that by the triangle inequality
$|\sqrt{S_{NN}} - \sqrt{S_{tot}}| \le \sqrt{L}$ (Neural Entropy, 2409.03817): exactly for the given
samples, and for estimates within their Monte Carlo errors.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import Key
from entropix.entropy import neural_entropy, path_kl
from entropix.interfaces import AbstractModel, Estimate
from entropix.models import ExactModel
from entropix.studies import paper
from entropix.studies.cells import Arrays, Task
from entropix.studies.estimates import errors_of
from entropix.studies.study import Found, on_host
from entropix.studies.training import last_loss


if TYPE_CHECKING:
    from entropix.studies.transport.study import TransportCell, TransportStudy

# Folded into keys: of seeds for what follows training, of the data for the exact entropy.
_ESTIMATES, _TRUTH = 0xCE11, 0x7A17


def measure_cell(study: "TransportStudy", cell: "TransportCell", task: Task) -> Arrays:
    """Train the networks of a cell and measure them; the last axis of all results is the seed."""
    train, held_out = study.samples(cell.dim)
    process, count = study.processes[cell.process], study.options.estimation.evaluations
    make_model = study.make_model(cell, train)
    fits = study.training.fit(task, make_model, data=train, steps=cell.steps, process=process)
    loss = last_loss(fits)
    model, exact = fits.model, ExactModel(study.mixtures[cell.dim], process)
    if study.training.plain:
        model, exact = paper.measured(model), paper.measured(exact)
    keys = study.training.keys(_ESTIMATES)
    stored, distance = _measure_networks(model, exact, held_out, keys, count)
    key = jax.random.fold_in(jax.random.key(study.options.mixtures.data_seed), _TRUTH)
    total = neural_entropy(exact, held_out, key=key, num_evaluations=count)
    # The same for all seeds, but each seed is an entry of the grid.
    of_data = errors_of("total_entropy", total, "stderr", "mc_stderr")
    found: Found = {name: np.full(len(loss), value) for name, value in of_data.items()}
    found |= errors_of("neural_entropy", stored, "stderr", "mc_stderr")
    found |= errors_of("path_kl", distance, "stderr", "mc_stderr")
    found["gap"], found["gap_stderr"] = gap(stored, total, distance)
    return on_host(found | {"loss": loss})


def gap(stored: Estimate, total: Estimate, distance: Estimate) -> tuple[np.ndarray, np.ndarray]:
    r"""$\sqrt{L} - |\sqrt{S_{NN}} - \sqrt{S_{tot}}|$, which is not negative, and its error.

    The error is that of the Monte Carlo noise only, to first order: all three are estimates for the
    same samples, for which the inequality holds exactly.
    """
    roots, variance = [], 0.0
    for estimate in (stored, total, distance):
        value = np.maximum(np.asarray(estimate.value, float), np.finfo(float).tiny)
        root = np.sqrt(value)
        roots.append(root)
        variance = variance + (np.asarray(estimate.mc_stderr, float) / (2 * root)) ** 2
    return roots[2] - np.abs(roots[0] - roots[1]), np.sqrt(variance)


@eqx.filter_jit
def _measure_networks(
    model: Any, exact: ExactModel, data: Array | np.ndarray, keys: Key, count: int
) -> tuple[Estimate, Estimate]:
    """S_NN and L of all seeds at once."""

    def one(model: AbstractModel, key: Key) -> tuple[Estimate, Estimate]:
        entropy_key, kl_key = jax.random.split(key)
        return (
            neural_entropy(model, data, key=entropy_key, num_evaluations=count),
            path_kl(model, exact, data, key=kl_key, num_evaluations=count),
        )

    return eqx.filter_vmap(one)(model, keys)
