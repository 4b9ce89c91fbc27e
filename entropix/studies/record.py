"""The labelled record of a measurement: one xarray data set, written as NetCDF.

The table below is the schema: the dimensions, the unit and the meaning of every variable. A record
holds those of them that were measured: what needs a known truth is absent without one.
"""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.theorems import SLACK, with_theorems


if TYPE_CHECKING:
    import xarray

_SEED, _TIME, _STEP = ("seed",), ("seed", "time"), ("seed", "step")

# name: (dimensions, unit, meaning)
Schema = dict[str, tuple[tuple[str, ...], str, str]]
TRAINING: Schema = {
    "log_snr": (("time",), "1", "log-SNR at each time"),
    "loss": (_STEP, "nats", "training loss of each step; a perfect network has -S_tot"),
    "loss_held_out": (("seed", "check"), "nats", "the same loss on held-out data"),
    "theorem_slack": (("theorem", "seed"), "1", SLACK),
}
SCHEMA: Schema = TRAINING | {
    "neural_entropy": (_SEED, "nats", "neural entropy S_NN on held-out data"),
    "neural_entropy_stderr": (_SEED, "nats", "its standard error, for the population"),
    "neural_entropy_mc_stderr": (_SEED, "nats", "its standard error, for these held-out samples"),
    "neural_entropy_train": (_SEED, "nats", "neural entropy S_NN on training data"),
    "neural_entropy_train_stderr": (_SEED, "nats", "its standard error, for the population"),
    "entropy_rate": (_TIME, "nats per unit time", "entropy rate on held-out data"),
    "entropy_rate_stderr": (_TIME, "nats per unit time", "its standard error (Monte Carlo)"),
    "entropy_rate_log_snr": (_TIME, "nats per unit log-SNR", "entropy rate on the log-SNR axis"),
    "entropy_rate_log_snr_stderr": (_TIME, "nats per unit log-SNR", "its standard error"),
    "cumulative_entropy": (_TIME, "nats", "entropy between the data end and each time"),
    "cumulative_entropy_stderr": (_TIME, "nats", "its standard error, for the population"),
    "cumulative_entropy_train": (_TIME, "nats", "the same on training data"),
    "entropy_slope": (_SEED, "nats", "d S_NN / d(-ln cut-off): the codimension of the data"),
    "negative_log_likelihood": (_SEED, "nats", "upper bound on -E log p, held-out, data units"),
    "negative_log_likelihood_stderr": (_SEED, "nats", "its standard error, for the population"),
    "negative_log_likelihood_train": (_SEED, "nats", "the same on training data"),
    "negative_log_likelihood_train_stderr": (_SEED, "nats", "its standard error"),
    "bits_per_dim": (_SEED, "bits per dimension", "the bound per dimension, for integer levels"),
    "bits_per_dim_stderr": (_SEED, "bits per dimension", "its standard error"),
    "negative_log_likelihood_gaussian": (
        (),
        "nats",
        "-E log g, held-out, data units, g the Gaussian with the moments of the training data",
    ),
    "negative_log_likelihood_gaussian_stderr": ((), "nats", "its standard error"),
    "log_prob": (("seed", "rated_sample"), "nats", "lower bound on log p, held-out, data units"),
    "log_prob_stderr": (("seed", "rated_sample"), "nats", "its standard error (Monte Carlo)"),
    "log_prob_train": (("seed", "rated_sample"), "nats", "the same for training samples"),
    "log_prob_generated": (("seed", "rated_sample"), "nats", "the same for generated samples"),
    "log_prob_exact": (("rated_sample",), "nats", "exact log p of held-out samples"),
    "wasserstein2": (_SEED, "model units", "W2 between held-out data and generated samples"),
    "wasserstein2_null": ((), "model units", "W2 between held-out and training data, same size"),
    "wasserstein2_count": ((), "1", "samples on either side of both W2"),
    "transport_w2": (_SEED, "model units", "W2 of samples of data and diffused data"),
    "transport_w2_stderr": (_SEED, "model units", "its standard error"),
    "transport_w2_lower": (
        _SEED,
        "model units",
        "bound by moments: W2 is at least this",
    ),
    "transport_w2_lower_stderr": (_SEED, "model units", "its standard error"),
    "transport_length": (_SEED, "model units", "length of the path of the density, at least W2"),
    "transport_length_stderr": (_SEED, "model units", "its standard error"),
    "transport_action": (_SEED, "model units squared", "action of the path, at least length^2"),
    "transport_action_stderr": (_SEED, "model units squared", "its standard error"),
    "transport_budget": (_SEED, "model units squared", "noise budget, int sigma^2/2 ds"),
    "transport_efficiency": (_SEED, "1", "W2^2 / (S_NN x budget), at most 1"),
    "transport_efficiency_stderr": (_SEED, "1", "its standard error"),
    "samples": (("seed", "generated_sample", "coordinate"), "data units", "generated samples"),
    "mutual_information": (_SEED, "nats", "I(X; label), held-out data, difference of errors"),
    "mutual_information_stderr": (_SEED, "nats", "its standard error, for the population"),
    "mutual_information_score": (_SEED, "nats", "I(X; label), held-out data, difference of scores"),
    "mutual_information_score_stderr": (_SEED, "nats", "its standard error, for the population"),
    "mutual_information_cutoff": (_SEED, "model units", "smallest noise included, 0 for all"),
    "label_entropy": ((), "nats", "entropy of discrete labels: no information exceeds it"),
    "label_entropy_stderr": ((), "nats", "its standard error"),
    "total_entropy": ((), "nats", "exact total entropy production S_tot on held-out data"),
    "total_entropy_stderr": ((), "nats", "its standard error, for the population"),
    "total_entropy_mc_stderr": ((), "nats", "its standard error, for these held-out samples"),
    "cumulative_total_entropy": (("time",), "nats", "exact entropy up to each time"),
    "total_entropy_rate_log_snr": (("time",), "nats per unit log-SNR", "exact entropy rate"),
    "path_kl": (_SEED, "nats", "path KL between the exact field and the model's"),
    "path_kl_stderr": (_SEED, "nats", "its standard error, for the population"),
    "path_kl_mc_stderr": (_SEED, "nats", "its standard error, for these held-out samples"),
    "prior_kl": ((), "nats", "KL(p_T || prior)"),
    "prior_kl_stderr": ((), "nats", "its standard error"),
    "kl_bound": (_SEED, "nats", "upper bound on KL(data || model): path KL + KL(p_T || prior)"),
    "kl_bound_stderr": (_SEED, "nats", "its standard error"),
    "negative_log_likelihood_exact": ((), "nats", "exact -E log p on held-out data, data units"),
    "negative_log_likelihood_exact_stderr": ((), "nats", "its standard error, for the population"),
}


def make_record(
    variables: dict[str, Any],
    *,
    seeds: list[int],
    times: Any,
    steps: Any,
    checks: Any,
    attributes: dict[str, Any],
    schema: Schema = SCHEMA,
) -> "xarray.Dataset":
    """A labelled data set of everything measured.

    Args:
        variables: arrays under names of the schema, shaped as it says.
        seeds: labels of the seed axis.
        times: labels of the time axis.
        steps: labels of the step axis.
        checks: the steps after which the held-out loss was taken.
        attributes: of the whole; what NetCDF cannot hold is written as JSON.
        schema: that of `measure`, or of another study.

    Raises:
        ValueError: on a name that the schema does not know.
    """
    coordinates = {
        "seed": (seeds, "seed of training"),
        "time": (times, "time s, from data to noise"),
        "step": (steps, "training step"),
        "check": (checks, "training step"),
    }
    return assemble(schema, variables, coordinates, attributes)


def assemble(
    schema: Schema,
    variables: dict[str, Any],
    coordinates: dict[str, tuple[Any, str]],
    attributes: dict[str, Any],
) -> "xarray.Dataset":
    """A labelled data set, with the theorems that hold between its variables, or do not.

    Args:
        schema: dimensions, unit and meaning of each variable there may be.
        variables: arrays under some of its names.
        coordinates: labels and meaning of each dimension.
        attributes: of the whole; what NetCDF cannot hold is written as JSON.

    Raises:
        ValueError: on a name that the schema does not know.
    """
    import xarray

    unknown = sorted(variables.keys() - schema.keys())
    if unknown:
        raise ValueError(f"`variables` must be named in SCHEMA, got {', '.join(unknown)}.")
    entries = {
        name: (dims, np.asarray(variables[name]), {"units": unit, "long_name": meaning})
        for name, (dims, unit, meaning) in schema.items()
        if name in variables
    }
    record = xarray.Dataset(
        entries,
        coords={
            name: (name, np.asarray(labels), {"long_name": meaning})
            for name, (labels, meaning) in coordinates.items()
        },
        attrs={name: _storable(value) for name, value in attributes.items()},
    )
    return with_theorems(record)


def _storable(value: Any) -> Any:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    return json.dumps(value, sort_keys=True)


def write_record(record: "xarray.Dataset", path: Path) -> None:
    """Write NetCDF, the large arrays compressed.

    HDF5 writes into memory: on a full disk it prints its errors and may end the process.

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
