"""The labelled record of a study: one xarray data set, written as NetCDF.

A schema says which variables there may be: the dimensions, the unit and the meaning of each. A
record holds those that were measured; what needs a known density is absent without one. Standard
errors are not listed: a variable `x` may be accompanied by `x_stderr`, its standard error for the
population, and `x_mc_stderr`, that for the given samples, of the same dimensions and unit.
"""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.theorems import SLACK, with_theorems
from entropix.studies.verdict import with_verdict


if TYPE_CHECKING:
    import xarray

# Dimensions, unit and meaning.
Variable = tuple[tuple[str, ...], str, str]
Schema = dict[str, Variable]
# What every study that trains a single set of networks records of the training.
TRAINING: Schema = {
    "log_snr": (("time",), "1", "log-SNR at each time"),
    "loss": (("seed", "step"), "nats", "training loss of each step; a perfect network has -S_tot"),
    "loss_held_out": (("seed", "check"), "nats", "the same loss on held-out data"),
    "best_step": (("seed",), "1", "training step of the network that was kept"),
    "theorem_slack": (("theorem", "seed"), "1", SLACK),
}
_ERRORS = {
    "_mc_stderr": "standard error of {}, for these samples (Monte Carlo)",
    "_stderr": "standard error of {}",
}


def definition(schema: Schema, name: str) -> Variable:
    """Dimensions, unit and meaning of a variable, or of the standard error of one.

    Raises:
        KeyError: if the schema does not know it.
    """
    of = _base(schema, name)
    dims, unit, meaning = schema[of]
    return dims, unit, meaning if of == name else _ERRORS[name.removeprefix(of)].format(of)


def assemble(
    schema: Schema,
    values: dict[str, Any],
    coordinates: dict[str, tuple[Any, str]],
    attributes: dict[str, Any],
) -> "xarray.Dataset":
    """A labelled data set, by how much the theorems between its variables hold, and a verdict.

    Args:
        schema: dimensions, unit and meaning of each variable.
        values: arrays, by names of the schema.
        coordinates: labels and meaning of each dimension.
        attributes: of the data set; what NetCDF cannot hold is written as JSON.

    Raises:
        ValueError: for a name that the schema does not know.
    """
    import xarray

    order = {name: i for i, name in enumerate(schema)}
    for name in values:
        if _base(schema, name) not in schema:
            raise ValueError(f"`values` must be named in the schema, got {name!r}.")
    entries = {}
    for name in sorted(values, key=lambda name: order[_base(schema, name)]):
        dims, unit, meaning = definition(schema, name)
        entries[name] = dims, np.asarray(values[name]), {"units": unit, "long_name": meaning}
    record = xarray.Dataset(
        entries,
        coords={
            name: (name, np.asarray(labels), {"long_name": meaning})
            for name, (labels, meaning) in coordinates.items()
        },
        attrs={name: _storable(value) for name, value in attributes.items()},
    )
    return with_verdict(with_theorems(record))


def _base(schema: Schema, name: str) -> str:
    """The variable of which a name is the standard error, or the name itself."""
    return name if name in schema else name.removesuffix("_stderr").removesuffix("_mc")


def _storable(value: Any) -> Any:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, sort_keys=True)


def write_record(record: "xarray.Dataset", path: Path) -> None:
    """Write NetCDF, with large arrays compressed.

    HDF5 writes to memory first: on a full disk it would print errors and might end the process.

    Raises:
        OSError: if the file cannot be written.
    """
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name, v in record.data_vars.items()
        if v.size > 1024
    }
    memory = io.BytesIO()
    with h5netcdf.File(memory, "w") as file:
        record.dump_to_store(H5NetCDFStore(file), encoding=encoding)
    path.write_bytes(memory.getbuffer())
