"""Information between parts of a sequence, from one model of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped
from tests.tokens.systems import entropy, exact, random_joint


MASKING = ex.Masking(3, ex.LinearSchedule())


@pytest.mark.slow  # a program for each part
def test_fields_of_a_block_are_those_of_its_law(x64, getkey):
    """Marginal and conditional, in any order of the sites."""
    table = random_joint(3, 4)
    block = ex.models.TokenBlock(exact(table, MASKING), [3, 1])
    p = np.transpose(np.exp(table), (3, 1, 0, 2))
    for given in (None, jnp.array([2.0, 0.0]), jnp.array([3.0, 1.0])):
        law = p.sum((2, 3)) if given is None else p[..., 2, 0]
        law = p[..., 1].sum(2) if given is not None and given[0] == 3 else law
        truth = exact(np.log(law), MASKING)
        for y in map(jnp.array, ([3.0, 3.0], [1.0, 3.0], [3.0, 2.0])):
            fields = block.entropy_field(0.4, y, given), truth.entropy_field(0.4, y)
            assert np.allclose(*fields, rtol=1e-12)


@pytest.mark.slow(reason="three integrals, each with a program of its own")
def test_information_between_blocks():
    """I(X; Y), its value at each sample and site, and H(X) and H(X|Y), whose difference it is."""
    table = random_joint(3, 3)
    model = exact(table, MASKING)
    block = ex.models.TokenBlock(model, [0, 2])
    data = model.sample(512, key=jax.random.key(0))
    x, y = data[:, [0, 2]], data[:, [1]]
    p = np.exp(table)
    laws = np.log(p.sum(1)), np.log(p.sum((0, 2)))
    truth = entropy(laws[0]) + entropy(laws[1]) - entropy(table)
    key = jax.random.key(1)
    found = ex.mutual_information(block, x, y, key=key)
    assert abs(float(found.sigmas_from(truth))) < 4
    assert float(found.stderr) < 0.25 * truth
    options = {"num_evaluations": 64 * 512, "pointwise": True, "per_coordinate": True}
    parts = ex.mutual_information(block, x, y, key=key, **options)
    tokens = np.asarray(data, int)
    each = table[tuple(tokens.T)] - laws[0][tokens[:, 0], tokens[:, 2]] - laws[1][tokens[:, 1]]
    assert parts.value.shape == (512, 2)
    whole = np.sum(parts.value, axis=1)
    error = np.sqrt(np.sum(parts.mc_stderr**2, axis=1))
    standard = (whole - each) / error
    assert abs(np.mean(standard)) < 0.3
    assert abs(float(parts.total.value) - np.mean(whole)) < 1e-4
    score = ex.mutual_information(block, x, y, key=key, form="score")
    assert abs(float(score.sigmas_from(truth))) < 4
    assert float(score.stderr) < float(found.stderr)


@pytest.mark.slow(reason="trains a network")
def test_one_network_knows_all_information():
    """I(X; Y), H(X) and H(X|Y) of vectors, as in the benchmark of 2502.19183.

    Two independent pairs (X_i, Y_i) of four tokens with Y_i = X_i with probability 0.8.
    """
    joint = (0.8 * np.eye(4) + 0.2 / 4) / 4
    truth = 2 * float(np.sum(joint * np.log(joint * 16)))
    process = ex.Masking(4, ex.LinearSchedule())
    law = ex.models.ExactChain.markov(np.full(4, 0.25), 4 * joint, process, length=2)

    def draw(n, key):
        pairs = [law.sample(n, key=k) for k in jax.random.split(key)]
        return jnp.concatenate([jnp.stack([p[:, i] for p in pairs], 1) for i in (0, 1)], axis=1)

    data, held_out = draw(8192, jax.random.key(0)), draw(4096, jax.random.key(1))
    network = ex.FourierMLP(4 * 5, key=jax.random.key(2), widths=(64, 64))
    model = ex.MaskedDenoiser(network, process, shape=(4,))
    options = {"steps": 500, "batch_size": 256}
    model = ex.fit(model, data, key=jax.random.key(3), **options).model
    x, y = held_out[:, :2], held_out[:, 2:]
    block, key = ex.models.TokenBlock(model, range(2)), jax.random.key(4)
    found = ex.mutual_information(block, x, y, key=key)
    assert abs(float(found.sigmas_from(truth))) < 4
    assert float(found.stderr) < 0.03 * truth
    alone = ex.differential_entropy(block, x, key=key, method=ex.density.AnyOrder(2))
    given = ex.differential_entropy(block, x, condition=y, key=key, method=ex.density.AnyOrder(2))
    assert abs(float(alone.value) - 2 * np.log(4)) < 0.02
    assert abs(float(alone.value - given.value) - truth) < 0.05 * truth


def test_what_is_refused():
    uniform = ex.processes.UniformJumps(3, ex.LinearSchedule())
    model = exact(random_joint(), MASKING)
    with as_shipped():
        with pytest.raises(ValueError, match="`model` must be one of tokens under Masking"):
            ex.models.TokenBlock(model.with_process(uniform), [0])
        with pytest.raises(ValueError, match="`sites` must be different sites"):
            ex.models.TokenBlock(model, [0, 3])
        block = ex.models.TokenBlock(model, [0])
        with pytest.raises(ValueError, match="`condition` must hold the 2 tokens"):
            block.entropy_field(0.5, jnp.zeros(1), jnp.zeros(1))
