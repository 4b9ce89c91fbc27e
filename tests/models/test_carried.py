"""One network carried from Equinox to Flax, PyTorch and a diffusers pipeline: the same numbers."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.studies import DataOptions, ModelOptions, TrainingOptions, measure
from tests.helpers import quick
from tests.models import carried
from tests.studies.common import options


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def linen(network, folder):
    module, params = carried.with_linen(network)
    function = jax.tree_util.Partial(functools.partial(apply_linen, module), params)
    return carried.model_of(function, batched=True)


def apply_linen(module, params, state, level, condition):
    return module.apply(params, state, level)


def nnx(network, folder):
    module = carried.with_nnx(network)  # itself a tree of arrays
    return carried.model_of(jax.tree_util.Partial(apply_nnx, module), batched=True)


def apply_nnx(module, state, level, condition):
    return module(state, level)


def pytorch(network, folder):
    return carried.model_of(ex.models.TorchFunction(carried.with_diffusers(network)))


def pipeline(network, folder):
    import diffusers

    scheduler = diffusers.DDPMScheduler(num_train_timesteps=carried.STEPS)
    diffusers.DDPMPipeline(carried.with_diffusers(network), scheduler).save_pretrained(folder)
    return ex.models.from_diffusers(folder)


ROUTES = {
    "linen": (linen, "flax"),
    "nnx": (nnx, "flax"),
    "pytorch": (pytorch, "diffusers"),
    "pipeline": (pipeline, "diffusers"),
}


def test_a_module_without_its_parameters():
    pytest.importorskip("flax")
    module, _ = carried.with_linen(carried.Network(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"must hold its parameters, got a Flax linen .*apply"):
        carried.model_of(module, batched=True)


@pytest.fixture(scope="module")
def random():
    """A network with random weights, and its neural entropy."""
    network = carried.Network(jax.random.key(0))
    return network, entropy(carried.model_of(network))


def entropy(model):
    data = carried.digits()[:64]
    return ex.neural_entropy(model, data, key=jax.random.key(3), num_evaluations=256)


@pytest.mark.parametrize("route", quick(["pytorch", "pipeline"], ROUTES))
def test_the_same_entropy(random, tmp_path, route):
    """To the rounding of float32, for the same key."""
    carry, package = ROUTES[route]
    pytest.importorskip(package)
    network, expected = random
    got = entropy(carry(network, tmp_path))
    np.testing.assert_allclose(got.value, expected.value, rtol=3e-6)
    np.testing.assert_allclose(got.stderr, expected.stderr, rtol=1e-4)


@pytest.mark.slow(reason="a gradient of a convolutional network")
def test_parameters_of_flax_can_be_differentiated(random, tmp_path):
    """Those of an NNX module, as those of the Equinox network."""
    pytest.importorskip("flax")
    network, _ = random
    x = jnp.asarray(carried.digits()[0])

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model):
        return jnp.sum(model.score(0.3, x) ** 2)

    own = gradient(carried.model_of(network)).network
    other = gradient(nnx(network, tmp_path)).network
    # The sum of squares does not depend on the order of the numbers in an array.
    squares = [sum(jnp.sum(g**2) for g in jax.tree.leaves(tree)) for tree in (own, other)]
    np.testing.assert_allclose(squares[1], squares[0], rtol=1e-4)


@pytest.mark.slow(reason="trains a network and measures it three times")
def test_the_same_report(tmp_path):
    """A network trained by `fit`: the record and the report of `measure` in three frameworks."""
    pytest.importorskip("flax")
    pytest.importorskip("diffusers")
    model = carried.trained()
    few = {"evaluations": 256, "density_evaluations": 16, "samples": 16, "sampling_steps": 4}
    asked = options(tmp_path, estimation=few)
    asked = dataclasses.replace(
        asked,
        data=DataOptions(),
        training=TrainingOptions(),
        pretrained=ModelOptions(model_range=(-1.0, 1.0)),
    )

    def measured(name, model):
        """The record, and the report without the line on the model."""
        output = dataclasses.replace(asked.output, out=str(tmp_path / name))
        request = dataclasses.replace(asked, output=output)
        record = measure("digits", request, model=model)
        lines = (tmp_path / name / "report.md").read_text().splitlines()
        assert sum("Nothing was trained" in line for line in lines) == 1
        return record, [line for line in lines if "Nothing was trained" not in line]

    expected, report = measured("equinox", model)
    for name in ("nnx", "pytorch", "pipeline"):
        record, lines = measured(name, ROUTES[name][0](model.network, tmp_path / "weights"))
        assert set(record.data_vars) == set(expected.data_vars)
        for variable in expected.data_vars:
            values = expected[variable].values
            # A standard error is a small difference of large numbers.
            rtol = 2e-3 if variable.endswith("_stderr") else 2e-4
            atol = 1e-6 + 1e-4 * np.nanmax(np.abs(values), initial=0.0)
            np.testing.assert_allclose(
                record[variable], values, rtol=rtol, atol=atol, err_msg=variable
            )
        assert lines == report
