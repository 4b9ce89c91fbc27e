"""Chunks change memory only: sums, per-entry outputs and gradients are those of one pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix._core.chunks import in_chunks, unchunk
from tests.helpers import quick_jit


# The number of entries in each chunk.
EQUAL = {(10, 3): 3, (10, 6): 5, (3, 10): 3, (7, 1): 1, (1, 1): 1, (9, 4): 3}


@pytest.mark.parametrize(("count", "chunk"), EQUAL)
def test_chunks(count, chunk):
    x = jnp.cos(jnp.arange(2.0 * count)).reshape(count, 2)
    index = jnp.arange(count)

    def work(scale, x, index):
        return jnp.sin(scale * jnp.sum(x)) + index

    def chunked(scale, x):
        def fn(args, weight):
            values = jax.vmap(work, (None, 0, 0))(scale, args["x"], args["index"])
            assert weight.size == EQUAL[count, chunk]
            return values, jnp.sum(weight * values)

        values, sums = in_chunks(fn, {"x": x, "index": index}, count, chunk)
        return jnp.sum(sums), unchunk(values, count)

    def direct(scale, x):
        values = jax.vmap(work, (None, 0, 0))(scale, x, index)
        return jnp.sum(values), values

    for f in (chunked, direct):
        quick = quick_jit(jax.value_and_grad(f, (0, 1), has_aux=True))
        if f is chunked:
            (total, values), gradient = quick(0.7, x)
        else:
            (total_, values_), gradient_ = quick(0.7, x)
    np.testing.assert_allclose(total, total_, rtol=1e-6)
    np.testing.assert_allclose(values, values_, rtol=1e-6)
    for one, other in zip(gradient, gradient_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
