"""Joint laws of tokens whose entropies are known by enumeration."""

import numpy as np

import entropix as ex


def ring(length=8, coupling=0.5):
    """The Ising ring: log-weights of all 2^D states."""
    spins = np.stack(np.meshgrid(*[[-1, 1]] * length, indexing="ij"), axis=-1)
    return coupling * (spins * np.roll(spins, 1, axis=-1)).sum(-1)


def random_joint(num_tokens=3, length=3):
    """A law without any symmetry."""
    rng = np.random.default_rng(0)
    return np.log(rng.dirichlet(np.ones(num_tokens**length)).reshape((num_tokens,) * length))


def single():
    """One site of four tokens."""
    return np.log([0.7, 0.2, 0.06, 0.04])


def entropy(table):
    """H in nats."""
    weights = np.exp(table - np.max(table))
    p = weights[weights > 0] / weights.sum()
    return float(-np.sum(p * np.log(p)))


def negentropy(table):
    """D ln K - H."""
    return table.ndim * np.log(table.shape[0]) - entropy(table)


def left_over(table, kept):
    """KL(p_T | U) of one site whose token is kept with this probability."""
    p = kept * np.exp(table) / np.exp(table).sum() + (1 - kept) / table.shape[0]
    return float(np.sum(p * np.log(p * table.shape[0])))


def exact(table, process):
    """The exact model."""
    return ex.models.ExactDiscrete(table, process)
