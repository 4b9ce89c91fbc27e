"""Figures of every kind of data are drawn without a warning, and show what they should."""

import numpy as np
import pytest
import xarray

from entropix.datasets import Dataset
from entropix.studies import SCHEMA, DataOptions
from entropix.studies.data import prepare_data
from entropix.studies.figures import plot_entropy, plot_loss
from entropix.studies.location import plot_location
from entropix.studies.measurement import measure_report
from entropix.studies.pictures import plot_log_density, plot_samples
from entropix.studies.record import assemble
from tests.helpers import quick


def record_of(data, *, seeds=2, truth=False):
    """A record of invented numbers, as complete as a measurement's."""
    rng = np.random.default_rng(0)
    log_snr = np.concatenate([[np.inf], np.linspace(8, -8, 33)])
    sizes = {
        "seed": seeds,
        "time": len(log_snr),
        "step": 50,
        "check": 5,
        "rated_sample": 20,
        "generated_sample": 30,
        "coordinate": data.dim,
        "scale": 3,
        "interval": 4,
        "edge": 5,
        "class_time": 9,
    }
    known = ("total", "path_kl", "prior", "kl_bound", "log_prob_exact")
    left_out = () if truth else known
    if not data.has_pictures:
        left_out = (*left_out, "scale")
    values = {
        name: rng.uniform(0.5, 1.0, size=tuple(sizes[dim] for dim in dims))
        for name, (dims, _, _) in SCHEMA.items()
        if not name.startswith((*left_out, "theorem")) and name != "coordinate"
    }
    errors = [n for n, v in values.items() if v.ndim < 3 and n not in TIMES]
    values |= {f"{n}_stderr": 0.1 * values[n] for n in errors}
    values["log_snr"] = log_snr
    values["edge_log_snr"] = np.array([np.inf, 4.0, 1.0, -2.0, -8.0])
    values["class_log_snr"] = np.tile(np.linspace(6, -6, 9), (seeds, 1))
    coordinates = {
        "coordinate": ([f"x{i}" for i in range(data.dim)], "coordinate"),
        "seed": (list(range(seeds)), "seed"),
        "time": (np.linspace(0, 1, len(log_snr)), "time"),
        "step": (np.arange(1, 51), "step"),
        "check": (np.arange(10, 60, 10), "step"),
    }
    texts = dict.fromkeys(
        ("data_text", "coordinates_text", "process_text", "cutoff_text", "training_text"), "text"
    )
    numbers = {"name": "invented", "command": "", "num_train": 8, "num_held_out": 2}
    attributes = {**texts, **numbers, "flag": True, "shape": [2, 3]}
    return assemble(SCHEMA, values, coordinates, attributes)


def data_of(shape, kind=None, **options):
    points = np.random.default_rng(1).normal(size=(40, *shape))
    return prepare_data(Dataset.from_array(points, kind=kind), DataOptions(**options))


TIMES = ("log_snr", "wasserstein2_count", "scale", "edge_log_snr", "class_log_snr")
SHAPES = {
    "line": (1,),
    "plane": (2,),
    "table": (3,),
    "wide table": (7,),
    "grey images": (4, 5),
    "colour images": (4, 5, 3),
    "images with other channels": (4, 5, 2),
}


@pytest.mark.parametrize("kind", quick(("plane", "wide table", "colour images"), SHAPES))
def test_samples_of_every_kind_of_data(tmp_path, kind):
    data = data_of(SHAPES[kind])
    plot_samples(record_of(data), tmp_path / "samples.png", data=data)
    plot_location(record_of(data), tmp_path / "information.png", data=data)
    for name in ("samples", "information"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_pixels_are_shown_as_columns(tmp_path):
    data = data_of((3,), kind="image")
    plot_samples(record_of(data), tmp_path / "samples.png", data=data)
    plot_location(record_of(data), tmp_path / "information.png", data=data)
    assert len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_names_of_columns_are_no_formulas(tmp_path, count):
    names = ["$\\frac$", "_a $b_$", "_100%\\"][:count]
    points = np.random.default_rng(1).normal(size=(40, count))
    data = prepare_data(Dataset.from_array(points, columns=tuple(names)), DataOptions())
    record = record_of(data).assign_coords(coordinate=names)
    plot_samples(record, tmp_path / "samples.png", data=data)
    plot_location(record, tmp_path / "information.png", data=data)
    assert len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.parametrize(("seeds", "truth"), [(1, False), (3, True), (12, True)])
def test_curves_of_any_number_of_seeds(tmp_path, seeds, truth):
    record = record_of(data_of((2,)), seeds=seeds, truth=truth)
    for plot in (plot_entropy, plot_loss, plot_log_density):
        plot(record, tmp_path / f"{plot.__name__}.png")
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_plotting_does_not_change_the_plots_of_the_caller(tmp_path):
    import matplotlib
    import matplotlib.pyplot as plt

    size, figures = matplotlib.rcParams["font.size"], plt.get_fignums()
    plot_loss(record_of(data_of((2,))), tmp_path / "loss.png")
    assert matplotlib.rcParams["font.size"] == size
    assert plt.get_fignums() == figures


def test_a_record_refuses_unknown_names():
    for name in ("entropy", "entropy_stderr"):
        with pytest.raises(ValueError, match=f"`values` must be named in the schema, got {name!r}"):
            assemble(SCHEMA, {name: 1.0}, {}, {})


def test_a_record_survives_its_file(tmp_path):
    record = record_of(data_of((2,)))
    record.to_netcdf(tmp_path / "r.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "r.nc", engine="h5netcdf") as back:
        xarray.testing.assert_identical(back, record)


def test_the_table_shows_values_with_errors_and_units():
    record = record_of(data_of((2,)), seeds=1, truth=True)
    record["neural_entropy"][0], record["neural_entropy_stderr"][0] = 12.3456, 0.078
    report = measure_report(record)
    rows = report.tables[0].rows
    assert rows[1] == ["neural entropy S_NN, held-out data", "12.346 ± 0.078", "nats"]
    # After the table: which theorems the invented numbers contradict.
    lines = report.text().splitlines()[: len(rows)]
    assert len({line.index(value) for line, (_, value, _) in zip(lines, rows, strict=True)}) == 1


def test_the_report_is_a_table_that_markdown_can_read():
    report = measure_report(record_of(data_of((2,)), truth=True))
    text = report.markdown({"loss.png": "Training loss"})
    table = [line for line in text.splitlines() if line.startswith("| ")]
    # Three columns; four in the tables of seeds, where there are labels, and of critical times.
    assert {line.replace("\\|", "").count("|") for line in table} == {4, 5}
    assert "(loss.png)" in text
    assert "(entropy.png)" not in text
    assert "| 1 |" in text  # a row for each seed
