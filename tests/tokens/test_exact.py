"""Exact models of long sequences: chains, rings, independent tokens and sets of sequences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick
from tests.tokens.systems import entropy


K, D = 3, 4


def law(kind, process, rng):
    """A model whose law is drawn, and the table of the same law."""
    fields, couplings = rng.normal(size=(D, K)), rng.normal(size=(K, K))
    couplings[rng.integers(K), rng.integers(K)] = -np.inf
    states = np.stack(np.meshgrid(*[range(K)] * D, indexing="ij"), axis=-1)
    if kind == "samples":
        points = rng.integers(K, size=(9, D))
        points[0] = points[1]
        counts = np.zeros((K,) * D)
        np.add.at(counts, tuple(points.T), 1)
        with np.errstate(divide="ignore"):
            return ex.models.ExactEmpirical(points, process), np.log(counts)
    table = fields[np.arange(D), states].sum(-1)
    if kind == "independent":
        return ex.models.ExactChain(fields, None, process), table
    if kind == "ring":
        for i in range(D):
            table = table + couplings[states[..., i], states[..., (i + 1) % D]]
        return ex.models.ExactChain(fields, couplings, process, periodic=True), table
    initial, rows = np.exp(fields[0]), np.exp(couplings)
    initial, rows = initial / initial.sum(), rows / rows.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        table = np.log(initial)[states[..., 0]] + sum(
            np.log(rows)[states[..., i], states[..., i + 1]] for i in range(D - 1)
        )
    return ex.models.ExactChain.markov(initial, rows, process, length=D), table


@pytest.mark.parametrize("kind", quick(["markov"], ["markov", "ring", "independent", "samples"]))
def test_like_a_table(kind, x64, getkey):
    """Fields, laws at the end, probabilities and entropies are those of the enumerated law."""
    rng = np.random.default_rng(int(jax.random.randint(getkey(), (), 0, 1 << 30)))
    jumps = ex.processes.UniformJumps(K, ex.LinearSchedule(2.0, 2.0))
    model, table = law(kind, jumps, rng)
    truth = ex.models.ExactDiscrete(table, jumps)
    states = jnp.asarray(np.argwhere(np.exp(table) >= 0).astype(float))
    x, z = truth.sample(5, key=getkey()), jax.random.normal(getkey(), (5, 3, D))

    @eqx.filter_jit
    def of(model):
        fields = []
        for process in (jumps, ex.Masking(K, ex.LinearSchedule())):
            y = jax.vmap(process.perturb, (None, 0, 0))(0.4, x, z)
            field = jax.vmap(model.with_process(process).entropy_field, (None, 0))
            fields += [field(s, y) for s in (1e-6, 0.4)]
        return (
            model.entropy(),
            jnp.exp(model.log_prob(states)),
            model.prior.log_prob(states),
            fields,
        )

    found = of(model), of(truth)
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.allclose(one, other, rtol=1e-11, atol=1e-11)
    assert abs(found[0][0] - entropy(table)) < 1e-12
    counts = np.zeros(table.shape)
    np.add.at(counts, tuple(np.asarray(model.sample(4000, key=getkey()), int).T), 1)
    expected = 4000 * np.exp(np.asarray(truth.log_weights))
    often = expected > 5
    assert np.all(counts[expected == 0] == 0)
    # At most 81 degrees of freedom: mean 81, standard deviation 13.
    assert np.sum((counts - expected)[often] ** 2 / expected[often]) < 170
