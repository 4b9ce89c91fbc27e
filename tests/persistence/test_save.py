"""Saving and loading: equal outputs, no pickle, and no code but what is trusted."""

import functools
import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.persistence import load, save, write_archive
from entropix.training import fit_ensemble
from tests.helpers import PROCESSES, as_shipped, quick
from tests.training.common import (
    MODELS,
    Linear,
    assert_same,
    gaussian_data,
    small_model,
    small_network,
)


def read_header(path):
    """The JSON text of a file in the layout of safetensors."""
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


@eqx.filter_jit
def outputs(model):
    s, y = jnp.asarray(0.3), jnp.array([0.4, -1.2])
    return model.score(s, y), model.entropy_field(s, y), model.velocity(s, y)


def round_trip(tree, tmp_path, **kwargs):
    save(tmp_path / "folder" / "model", tree)
    loaded = load(tmp_path / "folder" / "model", **kwargs)
    assert_same(loaded, tree)
    return loaded


@pytest.mark.parametrize("name", quick(("vpx", "path-module", "sl-warped"), PROCESSES))
def test_every_process_and_model(name, tmp_path):
    process = PROCESSES[name]()
    trust = ("tests",)  # for the functions of two paths
    for kind in MODELS.values():
        model = kind(small_network(), process)
        assert_same(outputs(round_trip(model, tmp_path, trust=trust)), outputs(model))
    scaled = small_model(process)
    assert_same(outputs(round_trip(scaled, tmp_path, trust=trust)), outputs(scaled))


def test_exact_models(tmp_path):
    gaussian = ex.Gaussian(jnp.zeros(2), jnp.eye(2))
    for distribution in (gaussian, ex.Empirical(gaussian_data(5))):
        model = ex.ExactModel(distribution, PROCESSES["vp"]())
        assert_same(outputs(round_trip(model, tmp_path)), outputs(model))


@pytest.mark.slow
def test_trained_ensembles(tmp_path):
    data = gaussian_data()
    keys = jax.random.split(jax.random.key(0), 2)
    fits = fit_ensemble(lambda k: small_model(data=data), data, keys=keys, steps=2)
    loaded = round_trip(fits, tmp_path)
    assert_same(loaded.map(outputs), fits.map(outputs))
    round_trip(fits.model, tmp_path)


def test_whatever_a_module_may_hold(tmp_path):
    tree = {
        "numbers": (1, 2.5, float("inf"), -0.0, True, None, "text"),
        "arrays": [jnp.arange(3, dtype=jnp.bfloat16), np.arange(3.0), np.float32(0.1)],
        "keys": (jax.random.key(3), jax.random.split(jax.random.key(1, impl="rbg"))),
        "functions": (
            jax.nn.silu,
            jnp.tanh,
            jax.lax.rsqrt,
            ex.LinearSchedule(0.2, 3.0).rate.__func__,
        ),
        "types": (jnp.float32, np.float64, jnp.dtype("bfloat16")),
        "mlp": eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0)),
        "sequence": eqx.nn.Sequential([eqx.nn.Lambda(jax.nn.relu), eqx.nn.LayerNorm(3)]),
        "empty": ((), [], {}),
    }
    round_trip(tree, tmp_path)
    round_trip({3: "a", 1: jnp.ones(2)}, tmp_path)
    partial = {
        "p": functools.partial(jnp.sum, axis=0),
        "q": jax.tree_util.Partial(jnp.dot, jnp.ones(2)),
    }
    save(tmp_path / "p", partial)
    loaded = load(tmp_path / "p")
    assert loaded["p"](jnp.ones((2, 3))).shape == (3,)
    assert loaded["q"](jnp.ones(2)) == 2
    assert isinstance(loaded["q"], jax.tree_util.Partial)


def test_shared_arrays_are_stored_once(tmp_path):
    weight = jnp.ones(1000)
    save(tmp_path / "m", {"a": weight, "b": weight})
    assert (tmp_path / "m").stat().st_size < weight.nbytes + 2000
    loaded = load(tmp_path / "m")
    assert jnp.array_equal(loaded["a"], loaded["b"])


def test_functions_by_their_public_names(tmp_path):
    save(tmp_path / "m", small_model())
    header = read_header(tmp_path / "m")
    text = header["__metadata__"]["header"]
    assert '"jax.nn:silu"' in text
    assert '"entropix:EntropyMatching"' in text
    assert '"equinox.nn:Linear"' in text
    assert "._" not in text  # no private module: those move between releases
    assert header["__metadata__"]["format"] == "entropix model"
    assert {"F32"} <= {entry["dtype"] for name, entry in header.items() if name[0] == "a"}


def test_what_has_no_name_is_refused(tmp_path):
    path = tmp_path / "m"

    class Local(eqx.Module):
        x: float = 1.0

    for bad, where in (
        (ex.GaussianPath(lambda s: 1 - s, jnp.sqrt), r"model\.scale_fn\.func"),
        (small_model(activation=lambda x: x), r"model\.network\.activation"),
        ({"a": [Local()]}, r"model\['a'\]\[0\]"),
        (functools.partial(lambda x: x), r"model\.func"),
    ):
        with pytest.raises(ValueError, match=rf"named functions, got .* as {where}: use"):
            save(path, bad)
    for bad in ({"a": {1, 2}}, {"a": iter([])}, {"a": dict}):
        with pytest.raises(ValueError, match=r"`model` must be made of .* as model\['a'\]"):
            save(path, bad)
    assert not path.exists()


def test_other_packages_need_trust(tmp_path):
    path = tmp_path / "m"
    model = ex.EntropyMatching(Linear(0.3), PROCESSES["vp"]())
    save(path, model)
    with pytest.raises(
        ValueError, match=r"`trust` must name .* got tests\.training\.common:Linear"
    ):
        load(path)
    assert_same(load(path, trust=("tests",)), model)
    assert_same(load(path, trust=("tests.training.common",)), model)
    with pytest.raises(ValueError, match="`trust` must name"):
        load(path, trust=("test",))  # a prefix of the name is not the package
    with as_shipped(), pytest.raises(ValueError, match="`trust` must be a tuple"):
        load(path, trust="tests")


@pytest.mark.parametrize(
    "recipe",
    [
        {"function": "os:system"},
        {"function": "subprocess:Popen"},
        {"function": "builtins:eval"},
        {"function": "jax:os.system"},
        {"function": "equinox._module:importlib.import_module"},
        {"function": "jax._src.config:os"},
        {"function": "jax.numpy:nothing_of_that_name"},
        {"function": "jax.nothing:of_that_name"},
        {"function": "jax.numpy:__builtins__.eval"},
        {"function": "equinox:Module"},
        {"function": "jaxfake:f"},
        {"function": ""},
        {"function": 3},
        {"module": "jax:jit", "fields": {}},
        {"module": "collections:OrderedDict", "fields": {}},
        {"module": "optax:GradientTransformation", "fields": {}},
        {"partial": "jax", "function": {"function": "os:system"}, "args": {"tuple": []}},
        {"module": "equinox.nn:Linear", "fields": {"weight": 1}},
        {"module": "equinox.nn:Lambda", "fields": {"fn": 1, "unknown": 2}},
        {"module": "equinox.nn:Linear", "fields": {"weight": {"default": "weight"}}},
        {"scalar type": "load", "of": "numpy"},
        {"array": "a99", "of": "jax", "dtype": "float32"},
        {"nonsense": 1},
        [1, 2],
    ],
)
def test_recipes_that_ask_for_more_are_refused(recipe, tmp_path):
    write_archive(tmp_path / "m", "entropix model", {"recipe": recipe}, {})
    with pytest.raises(ValueError, match=r"`(trust|path)` must"):
        load(tmp_path / "m")


def test_nothing_is_imported_before_it_is_trusted(tmp_path):
    (tmp_path / "wicked.py").write_text("raise SystemExit('imported')")
    recipe = {"function": "wicked:f"}
    write_archive(tmp_path / "m", "entropix model", {"recipe": recipe}, {})
    program = (
        "import sys; sys.path.insert(0, '.'); import entropix.persistence as t\n"
        "try: t.load('m')\n"
        "except ValueError as e: assert 'trust' in str(e)\n"
        "assert 'wicked' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=120)


def test_no_file_and_no_model(tmp_path):
    path = tmp_path / "m"
    path.write_text("not a model")
    with pytest.raises(ValueError, match="damaged or no such file"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
    with pytest.raises(ValueError, match="damaged or no such file"):
        load(tmp_path)


def test_float64_is_not_cut_to_float32_in_silence(tmp_path):
    with jax.enable_x64(True):
        save(tmp_path / "m", {"a": jnp.ones(2, jnp.float64)})
    if jax.config.jax_enable_x64:
        pytest.skip("float64 is on")
    with pytest.raises(ValueError, match="`path` must fit the precision of this process"):
        load(tmp_path / "m")


def test_numbers_stay_arrays_of_their_dtype(tmp_path):
    """What is loaded trains and differentiates like what was saved."""
    process = PROCESSES["vpx"]()
    loaded = round_trip(process, tmp_path)
    gradient = eqx.filter_grad(lambda p: p.std(0.3))(loaded)
    assert jnp.array_equal(gradient.kappa, eqx.filter_grad(lambda p: p.std(0.3))(process).kappa)
