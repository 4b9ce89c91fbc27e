"""The error of unmasking several tokens at once: its bound, and the best steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex


SPINS = 4


def ring():
    """The probabilities of a ring of spins."""
    spins = 2 * np.array(list(itertools.product((0, 1), repeat=SPINS))) - 1
    weights = np.exp(0.7 * (spins * np.roll(spins, 1, axis=1)).sum(1))
    return (weights / weights.sum()).reshape((2,) * SPINS)


def law(p, known, site):
    """p(x_site | known), where `known` maps sites to spins."""
    index = tuple(known.get(i, slice(None)) for i in range(SPINS))
    axes = [i for i in range(SPINS) if i not in known]
    part = p[index].sum(axis=tuple(n for n, i in enumerate(axes) if i != site))
    return part / part.sum()


def knowledge(p, m):
    """J(m), by enumeration."""
    total = 0.0
    for site in range(SPINS):
        rest = [i for i in range(SPINS) if i != site]
        for size in range(SPINS):
            for chosen in itertools.combinations(rest, size):
                weight = (1 - m) ** size * m ** (SPINS - 1 - size)
                for values in itertools.product((0, 1), repeat=size):
                    known = dict(zip(chosen, values, strict=True))
                    chance = p[tuple(known.get(i, slice(None)) for i in range(SPINS))].sum()
                    q = law(p, known, site)
                    total += weight * chance * np.sum(q * np.log(2 * q))
    return total


def leapt(p, shares):
    """The law of the samples of tau-leaping, by enumeration."""
    laws = {(2,) * SPINS: 1.0}
    for now, then in itertools.pairwise(shares):
        reached = {}
        for state, chance in laws.items():
            known = {i: v for i, v in enumerate(state) if v < 2}
            sites = []
            for i, v in enumerate(state):
                fill = (1 - then / now) * law(p, known, i) if v == 2 else np.eye(2)[v]
                sites.append([*fill, then / now if v == 2 else 0.0])
            for after in itertools.product((0, 1, 2), repeat=SPINS):
                share = np.prod([site[v] for site, v in zip(sites, after, strict=True)])
                if share:
                    reached[after] = reached.get(after, 0.0) + chance * share
        laws = reached
    found = np.zeros((2,) * SPINS)
    for state, chance in laws.items():
        found[state] = chance
    return found


@pytest.mark.slow  # measures at many shares, optimises and enumerates
def test_best_steps(x64):
    """The bound is its closed form, and encloses KL; the best steps lower both."""
    p = ring()
    process = ex.Masking(2, ex.MonotoneSchedule.constant(3.0, 8))
    model = ex.models.ExactDiscrete(np.log(p), process)
    data = model.sample(4096, key=jax.random.key(0))
    options = {"key": jax.random.key(1), "num_evaluations": 65_536}
    error = ex.optimise.UnmaskingError(model, 4, data, **options)
    middles = np.asarray(error.shares[1:-1])
    truth = np.array([knowledge(p, m) for m in middles])
    assert np.sqrt(np.mean((error.known[1:-1] - truth) ** 2)) < 0.03 * truth.max()

    best = ex.optimise_schedule(process, error, key=jax.random.key(2), steps=150)
    entropy = SPINS * np.log(2) + np.sum(p * np.log(p))
    bounds, distances = [], []
    for found in (process, best.process):
        shares = np.asarray(found.lost(jnp.linspace(1, 0, 5)))
        lower = sum(
            (m - n) * knowledge(p, m) for m, n in itertools.pairwise(shares)
        )  # of the integral of J
        bounds.append(entropy - lower)
        assert float(error(found)) == pytest.approx(bounds[-1], rel=0.05)
        distances.append(np.sum(p * np.log(p / leapt(p, shares))))
    assert np.all(np.less(distances, bounds))
    assert bounds[1] < 0.9 * bounds[0]
    assert distances[1] < 0.9 * distances[0]

    jumps = model.with_process(ex.processes.UniformJumps(2, ex.LinearSchedule()))
    with pytest.raises(ValueError, match=r"`model.process` must be Masking, got UniformJumps"):
        ex.optimise.UnmaskingError(jumps, 4, data, key=jax.random.key(1))
