"""Lower the main programs for a TPU, and print what is in them: `python portability.py`."""

import json
import re

import equinox as eqx
import jax
import jax.numpy as jnp

import entropix as ex
from entropix.training import loop, run
from tests.training.common import gaussian_data
from tests.training.test_ensemble import maker


def lowered(fn, *args):
    """The program of `fn(*args)` for a TPU, as text. Its arguments are plain arrays."""
    arrays, static = eqx.partition(args, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def is_key(leaf):
        return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)

    def plain(raw):
        pairs = zip(leaves, raw, strict=True)
        given = [jax.random.wrap_key_data(r) if is_key(leaf) else r for leaf, r in pairs]
        result = fn(*eqx.combine(jax.tree.unflatten(structure, given), static))
        return jax.tree.leaves(eqx.filter(result, eqx.is_array))

    raw = [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in leaves]
    return jax.export.export(jax.jit(plain), platforms=["tpu"])(raw).mlir_module()


def training_chunk(**options):
    """The program that `fit_ensemble` runs, and its arguments."""
    found = []

    def keep(*args):
        found.append(args)
        raise KeyboardInterrupt

    run.donating_chunk = keep
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 2)
    try:
        options |= {"members_at_once": 2, "batch_size": 8, "loss": ex.Denoising(2)}
        ex.fit_ensemble(maker(data), data, keys=keys, **options)
    except KeyboardInterrupt:
        return loop._chunk, *found[0]
    raise AssertionError


def precise(precision, program):
    with jax.default_matmul_precision(precision):
        return lowered(*program)


def summary(text):
    return {
        "callbacks": "callback" in text,
        "products": text.count("dot_general"),
        "precisions": sorted(set(re.findall(r"dot_general.*?precision = \[(\w+)", text))),
    }


def main():
    data, key = gaussian_data(), jax.random.key(0)
    model = maker(data)(key)
    mixture = ex.GaussianMixture(
        jnp.array([0.5, 0.5]), jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.full((2, 2), 0.3)
    )
    schedule = ex.MonotoneSchedule.from_schedule(ex.LinearSchedule(), 8)
    process = ex.VariancePreserving(schedule)

    def entropy(model, data, key):
        return ex.neural_entropy(model, data, key=key, num_evaluations=1024)

    def optimise(process, mixture, key):
        objective = ex.KineticAction(mixture, key=key, num_samples=64)
        return ex.optimise_schedule(process, objective, key=key, steps=3)

    def score(empirical, y):
        return jax.vmap(empirical.diffused(process, 0.5).score)(y)

    programs = {
        "neural_entropy": lowered(entropy, model, data, key),
        "sample": lowered(lambda m, k: ex.sample(m, key=k, num_samples=8, num_steps=4), model, key),
        "optimise_schedule": lowered(optimise, process, mixture, key),
        "exact score": precise("bfloat16", (score, ex.Empirical(data), data)),
        "fit_ensemble": lowered(*training_chunk()),
        "fit_ensemble in full precision": precise("highest", training_chunk()),
    }
    print(json.dumps({name: summary(text) for name, text in programs.items()}))


if __name__ == "__main__":
    main()
