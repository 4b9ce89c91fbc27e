r"""Work spread over devices: one mesh with two named axes.

| axis | what is spread along it | communication |
|---|---|---|
| `"seed"` | members of an ensemble | none |
| `"data"` | examples of a batch, samples, evaluations | one sum a step, sums of estimates |

A mesh is given once, as `mesh=` of the training functions or for a block of code,

    with jax.set_mesh(ex.make_mesh(data=8)):
        ex.neural_entropy(model, data, key=key)

and the numbers are those of one device up to rounding: random numbers belong to examples and
evaluations, not to devices.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from entropix._core.checks import positive_integer


SEED = "seed"
DATA = "data"


def make_mesh(*, seed: int = 1, data: int | None = None, devices: Any = None) -> Mesh:
    """A mesh of devices, some for seeds and some for data.

    Args:
        seed: devices among which the members of an ensemble are dealt out.
        data: devices among which each batch, and the evaluations of each estimate, are split. None:
            as many as are left.
        devices: which devices, a sequence; None for all, those of other processes included.

    Returns:
        A mesh with the axes `"seed"` and `"data"`.

    Raises:
        ValueError: if the devices do not suffice, or some would be left over.
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
    """The mesh that `jax.set_mesh` has set, or None; inside of `jax.jit`, its shape alone."""
    abstract = jax.sharding.get_abstract_mesh()
    if abstract.empty:
        return None
    try:
        return jax.sharding.get_mesh()
    except ValueError:
        return abstract


def check_mesh(mesh: Any) -> Mesh | AbstractMesh | None:
    """`mesh`, or the ambient one, if it has an axis that we know.

    Raises:
        ValueError: if it is no mesh, or has neither a `"seed"` nor a `"data"` axis.
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
    """Devices along an axis; 1 where there is none."""
    return 1 if mesh is None else dict(mesh.shape).get(axis, 1)


def spec(mesh: Mesh, *axes: str | None) -> PartitionSpec:
    """A partition of leading array axes by mesh axes, those that the mesh lacks left out."""
    return PartitionSpec(*(a if a in mesh.axis_names else None for a in axes))


def spread(tree: Any) -> Any:
    """Split the leading axis of arrays along `"data"` of the ambient mesh, if there is one.

    Inside of `jax.shard_map`, where the axes are in other hands, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if types.get(DATA) != AxisType.Auto or mesh.shape[DATA] == 1:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, PartitionSpec(DATA)), tree)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays placed as `sharding` says; every process must hold the same ones."""

    def one(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf  # shards in other processes are where they belong
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
