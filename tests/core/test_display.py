"""Results as data sets, figures and HTML; models and networks in a few lines of text."""

import functools
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import entropix as ex
from tests.training.common import gaussian_data, small_model, small_network


KEY = jax.random.key(0)


def filled(function):
    """What a function returns, its numbers invented: nothing is compiled."""
    shapes = eqx.filter_eval_shape(function)

    def numbers(leaf):
        count = int(np.prod(leaf.shape))
        return jnp.linspace(1.0, 2.0, count, dtype=leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(lambda a: numbers(a) if hasattr(a, "shape") else a, shapes)


def curve(key=KEY, **options):
    model, data = small_model(), gaussian_data()
    return ex.entropy_curve(model, data, key=key, num_evaluations=1024, num_times=9, **options)


def history(members=(), checks=2):
    return ex.training.History(
        step=jnp.arange(1, 41),
        loss=jax.random.normal(KEY, (*members, 40)),
        gradient_norm=jnp.ones((*members, 40)),
        holdout_step=jnp.array([20, 40])[:checks],
        holdout_loss=jnp.ones((*members, checks)),
        best_step=jnp.full(members, 40),
        measured_step=jnp.array([40]),
        measured={"entropy": ex.Estimate(*jnp.ones((3, *members, 1)))},
    )


@functools.cache
def result_of(name):
    return RESULTS[name]()


RESULTS = {
    "curves": lambda: filled(lambda: jax.vmap(curve)(jax.random.split(KEY, 3))),
    "pixels": lambda: filled(lambda: curve(per_coordinate=True)),
    "samples": lambda: filled(lambda: curve(per_sample=True)),
    "both": lambda: filled(lambda: curve(per_sample=True, per_coordinate=True)),
    "densities": lambda: filled(lambda: ex.log_prob(small_model(), gaussian_data(), key=KEY)),
    "speed": lambda: filled(lambda: ex.speed_limit(small_model(), gaussian_data(), key=KEY)),
    "history": history,
    "nothing held out": lambda: history((), 0),
    "histories, nothing held out": lambda: history((3,), 0),
    "pixels of several": lambda: filled(
        lambda: jax.vmap(lambda key: curve(key, per_coordinate=True))(jax.random.split(KEY, 3))
    ),
    "histories": lambda: history((3,)),
}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_shows_itself(name):
    result = result_of(name)
    ax = result.plot()
    assert ax.has_data()
    assert ax.get_xlabel() or ax.images
    ax.figure.canvas.draw()
    own = plt.figure().subplots()
    assert result.plot(own) is own
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert type(result).__name__ in html
    assert len(html) < 4000
    assert len(repr(result).splitlines()) < 40
    record = result.to_xarray()
    assert all("units" in array.attrs for array in record.variables.values())
    jax.jit(lambda r: (repr(r), r._repr_html_()) and r)(result)  # not an error


def test_records_are_labelled():
    record = result_of("curves").to_xarray()
    assert record["cumulative"].dims == ("batch", "time")
    assert record["total_stderr"].dims == ("batch",)
    assert set(record.coords) == {"times", "log_snr"}
    assert record["rate"].attrs["units"] == "nats per unit time"
    both = result_of("both").to_xarray()
    assert both["value"].dims == ("part_0", "part_1")
    assert both["intervals"].dims == ("interval", "part_0", "part_1")
    assert both["intervals"].shape == (8, 64, 2)
    speed = result_of("speed").to_xarray()
    assert speed["w2"].attrs["units"] == "length"
    assert speed.attrs["dim"] == 2
    losses = result_of("histories").to_xarray()
    assert losses["loss"].dims == ("batch", "step")
    assert losses["measured_entropy_stderr"].dims == ("batch", "measured_step")
    assert losses["step"].values[-1] == 40
    several = result_of("pixels of several").to_xarray()
    assert several["value"].dims == ("batch", "part_0")
    twice = eqx.tree_at(lambda h: h.measured, history(), {"step": jnp.ones(1)})
    with pytest.raises(ValueError, match="names of a result must differ, got 'measured_step'"):
        twice.to_xarray()


@pytest.mark.parametrize(
    ("module", "call"), [("xarray", "to_xarray"), ("matplotlib.pyplot", "plot")]
)
def test_without_the_extra(module, call, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"`{call}` needs .* pip install .*\[studies\]"):
        getattr(history(), call)()


def test_models_print_in_a_few_lines():
    model = small_model()
    text = repr(model)
    assert len(text.splitlines()) < 20
    size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model.network, eqx.is_array)))
    assert f"FourierMLP(<{size:,} numbers>)" in text
    assert "kappa=1" in text  # numbers, not f32[]
    assert len(repr(model.network).splitlines()) < 20
    deep = eqx.filter_eval_shape(small_network, widths=(8,) * 20)
    assert len(repr(deep).splitlines()) < 20
    assert "f32[2]" in repr(ex.Gaussian([0.0, 1.0], np.eye(2, dtype=np.float32)))
    jax.jit(lambda m: repr(m) and m.process.t1)(model)  # tracers have no numbers to print
