r"""Computations on many devices: one mesh with two named axes.

| axis | distributed along it | communication |
|---|---|---|
| `"seed"` | members of an ensemble | none |
| `"data"` | examples of a batch, samples, evaluations | one sum per step, sums of estimates |

Pass a mesh once, as `mesh=` of the training functions or for a block of code,

    with jax.set_mesh(ex.make_mesh(data=8)):
        ex.neural_entropy(model, data, key=key)

Results are those of one device up to rounding, because random numbers depend on examples and
evaluations, not on devices.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from entropix._core.checks import positive_integer


SEED = "seed"
DATA = "data"


def make_mesh(
    *, seed: int = 1, data: int | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh of devices with one axis for seeds and one for data.

    Args:
        seed: number of devices along which the members of an ensemble are distributed.
        data: number of devices along which each batch, and the evaluations of each estimate, are
            distributed; None for the remaining ones.
        devices: a sequence of devices; None for all, including those of other processes.

    Returns:
        A mesh with the axes `"seed"` and `"data"`.

    Raises:
        ValueError: if the product of the axes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    positive_integer(seed, "seed")
    data = max(len(devices) // seed, 1) if data is None else positive_integer(data, "data")
    if seed * data != len(devices):
        raise ValueError(
            f"`seed` times `data` must be the number of devices, {len(devices)}, "
            f"got {seed} times {data}."
        )
    return jax.make_mesh((seed, data), (SEED, DATA), (AxisType.Auto,) * 2, devices=devices)


def ambient_mesh() -> Mesh | AbstractMesh | None:
    """The mesh set by `jax.set_mesh`, or None; inside `jax.jit`, only its shape."""
    abstract = jax.sharding.get_abstract_mesh()
    if abstract.empty:
        return None
    try:
        return jax.sharding.get_mesh()
    except ValueError:
        return abstract


def check_mesh(mesh: Any) -> Mesh | AbstractMesh | None:
    """`mesh`, or the ambient mesh if it has a `"seed"` or `"data"` axis.

    Raises:
        ValueError: if `mesh` is not a mesh, or has neither of these axes.
    """
    if mesh is None:
        mesh = ambient_mesh()
        return mesh if mesh is not None and {SEED, DATA} & set(mesh.axis_names) else None
    if not isinstance(mesh, Mesh):
        raise ValueError(f"`mesh` must be made by make_mesh, got {type(mesh).__name__}.")
    if not {SEED, DATA} & set(mesh.axis_names):
        raise ValueError(
            f"`mesh` must have an axis {SEED!r} or {DATA!r}, got {', '.join(mesh.axis_names)}."
        )
    return mesh


def axis_size(mesh: Mesh | AbstractMesh | None, axis: str) -> int:
    """Number of devices along an axis; 1 if the axis does not exist."""
    return 1 if mesh is None else dict(mesh.shape).get(axis, 1)


def spec(mesh: Mesh, *axes: str | None) -> PartitionSpec:
    """A partition of leading array axes by mesh axes, except those that the mesh lacks."""
    return PartitionSpec(*(a if a in mesh.axis_names else None for a in axes))


def spread(tree: Any) -> Any:
    """Split the leading axis of arrays along `"data"` of the ambient mesh, if there is one.

    Inside `jax.shard_map`, which manages the axes itself, this has no effect.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if types.get(DATA) != AxisType.Auto or mesh.shape[DATA] == 1:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, PartitionSpec(DATA)), tree)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays placed according to `sharding`; every process must hold the same arrays."""

    def one(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf  # shards of other processes are already in place
        host = to_host(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree)


def to_host(x: Any) -> np.ndarray:
    """The whole array in every process."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    if x.is_fully_replicated:
        return np.asarray(x.addressable_data(0))
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
