"""PyTorch modules and diffusers pipelines as models; skipped where PyTorch is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped


torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
DIM = 3
RANGE = (-9.0, 9.0)


def copied(network):
    """The same multilayer perceptron in PyTorch, with the weights of one in JAX."""
    linears = [torch.nn.Linear(layer.in_features, layer.out_features) for layer in network.layers]
    for linear, layer in zip(linears, network.layers, strict=True):
        linear.weight.data = torch.from_numpy(np.array(layer.weight))
        linear.bias.data = torch.from_numpy(np.array(layer.bias))
    parts = [linears[0]]
    for linear in linears[1:]:
        parts += [torch.nn.SiLU(), linear]
    stack = torch.nn.Sequential(*parts)

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = stack

        def forward(self, states, levels):
            return self.stack(torch.cat([states, levels[:, None] / 8], dim=1))

    return Module()


@pytest.fixture(scope="module")
def pair():
    """One network in JAX and in PyTorch, as models of predicted noise."""
    import equinox as eqx

    network = eqx.nn.MLP(DIM + 1, DIM, 16, 2, jax.nn.silu, key=jax.random.key(0))

    class Function(eqx.Module):
        network: eqx.nn.MLP

        def __call__(self, state, level, condition=None):
            return self.network(jnp.append(state, level / 8))

    options = {"shape": (DIM,), "parametrisation": "noise", "log_snr_range": RANGE}
    return [
        ex.models.from_denoiser(function, **options)
        for function in (Function(network), ex.models.TorchFunction(copied(network)))
    ]


def test_the_same_numbers_as_in_jax(pair):
    data = np.random.default_rng(0).normal(size=(128, DIM)).astype(np.float32)
    one, other = (
        ex.neural_entropy(model, data, key=jax.random.key(1), num_evaluations=512, cutoff=0.05)
        for model in pair
    )
    np.testing.assert_allclose(other.value, one.value, rtol=1e-4)
    np.testing.assert_allclose(other.mc_stderr, one.mc_stderr, rtol=1e-3)


def loss(model):
    """A function of the noise level and a batch of states."""
    score = jax.vmap(model.score, in_axes=(None, 0))
    return lambda s, y: jnp.sum(jnp.sin(score(s, y)))


DIRECTION = jnp.asarray([[1.0, 0.5, -2.0], [0.2, 0.0, 1.0]])
DERIVATIVES = {
    "forward": lambda f: lambda s, y: jax.jvp(f, (s, y), (1.0, DIRECTION))[1],
    "reverse": lambda f: jax.grad(f, argnums=(0, 1)),
    "forward over reverse": lambda f: (
        lambda s, y: jax.jvp(lambda y: jax.grad(f, 1)(s, y), (y,), (DIRECTION,))[1]
    ),
    "reverse over forward": lambda f: (
        lambda s, y: jax.grad(lambda y: jax.jvp(f, (s, y), (0.0, DIRECTION))[1])(y)
    ),
    "reverse over reverse": lambda f: (
        lambda s, y: jax.grad(lambda s: jnp.sum(jax.grad(f, 1)(s, y) ** 2))(s)
    ),
    "transpose of forward": lambda f: (
        lambda s, y: jax.linear_transpose(lambda t: jax.jvp(f, (s, y), (0.0, t))[1], y)(1.0)[0]
    ),
    "jacobian": lambda f: jax.jacrev(f, 1),
}


@pytest.mark.parametrize("kind", DERIVATIVES)
def test_derivatives(pair, kind):
    """By state and noise level, under jit and vmap."""
    y = jnp.asarray([[0.3, -1.0, 0.7], [0.0, 0.4, -0.2]])
    one, other = (jax.jit(DERIVATIVES[kind](loss(model)))(0.4, y) for model in pair)
    for expected, got in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_gradient_through_the_probability_flow(pair):
    """Reverse through the solver, to the initial state."""
    y = jnp.asarray([[0.3, -1.0, 0.7]])

    def total(model):
        return lambda y: jnp.sum(ex.solve_flow(model, y, num_steps=4).final ** 2)

    one, other = (jax.jit(jax.grad(total(model)))(y) for model in pair)
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_conditions_precision_and_batches():
    """Conditions of whole numbers and of numbers that are differentiated; bfloat16; chunks."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(DIM, DIM)
            self.counts = []

        def forward(self, states, levels, condition):
            self.counts.append(len(states))
            shift = condition["shift"] * condition["label"].float()[:, None]
            return self.linear(states) + shift + levels[:, None]

    module = Module()
    function = ex.models.TorchFunction(module, batch_size=4)
    states = jnp.asarray(np.random.default_rng(0).normal(size=(6, DIM)), jnp.float32)
    label, shift = jnp.arange(6), jnp.ones(DIM)

    def at(shift, function=function):
        one = lambda y, c: function(y, jnp.float32(0.5), {"shift": shift, "label": c})  # noqa: E731
        return jax.vmap(one)(states, label)

    weight, bias = (p.detach().numpy() for p in module.linear.parameters())
    expected = states @ weight.T + bias + np.arange(6)[:, None] + 0.5
    np.testing.assert_allclose(at(shift), expected, rtol=1e-5)
    assert module.counts == [4, 2]
    np.testing.assert_allclose(jax.grad(lambda s: jnp.sum(at(s)))(shift), 15 * np.ones(DIM))
    rough = at(shift, ex.models.TorchFunction(module, precision="bfloat16"))
    assert 0 < np.max(np.abs(rough - expected)) < 0.03


def test_small_networks_have_large_batches():
    """A batch whose largest tensor has 16 MiB: 2^22 numbers."""
    sizes = {}
    for width in (8, 2**14, 2**20):
        module = torch.nn.Sequential(torch.nn.Linear(DIM, width), torch.nn.Linear(width, DIM))
        seen = sizes[width] = []
        module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
        function = ex.models.TorchFunction(module, call=lambda m, x, t, c: m(x))
        states, levels = jnp.zeros((300, DIM)), jnp.ones(300)
        jax.block_until_ready(jax.vmap(function)(states, levels))
    # One example that the size is found with, then all of them.
    assert sizes[8] == [1, 300]
    assert sizes[2**14] == [1, 256, 44]
    assert sizes[2**20] == [1, *18 * [16], 12]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A small pipeline with random weights, on disk."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=10,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(folder)
    return folder, network


def test_a_pipeline_on_disk(pipeline):
    folder, network = pipeline
    model = ex.models.from_diffusers(folder)
    assert model.shape == (1, 8, 8)
    table = np.asarray(model.steps)
    assert table[0] == pytest.approx(np.log((1 - 1e-4) / 1e-4), rel=1e-3)
    # At the noise of step 500 the model's noise is that of the network.
    s = model.process.time_of_log_snr(model.steps[500])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 8)), jnp.float32)
    size = jnp.sqrt(model.process.scale(s) ** 2 + model.process.var(s))
    with torch.inference_mode():
        expected = network(
            torch.from_numpy(np.array(x / size))[None],
            torch.tensor([500.0]),
            class_labels=torch.tensor([3]),
        ).sample[0]
    noise = -model.process.std(s) * model.score(s, x, jnp.int32(3))
    np.testing.assert_allclose(noise, expected.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda f: (f / "model_index.json").unlink(), "with a model_index.json"),
        (lambda f: (f / "model_index.json").write_text("[" * 100_000), "it is no JSON"),
        (lambda f: (f / "model_index.json").write_text("{}"), "must hold a diffusers pipeline"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            "must hold the unet",
        ),
        (
            lambda f: (f / "scheduler" / "scheduler_config.json").write_text(
                (f / "scheduler" / "scheduler_config.json")
                .read_text()
                .replace("epsilon", "mystery")
            ),
            "predicts one of",
        ),
    ],
    ids=["no index", "nested index", "another index", "no weights", "unknown prediction"],
)
def test_what_is_no_pipeline(pipeline, tmp_path, spoil, match):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(pipeline[0], folder)
    spoil(folder)
    with pytest.raises(ValueError, match=match):
        ex.models.from_diffusers(folder)


def test_mistakes():
    with pytest.raises(ValueError, match=r"`module` must be a torch\.nn\.Module"):
        ex.models.TorchFunction(lambda x, t: x)
    with pytest.raises(ValueError, match="`precision` must be one of"):
        ex.models.TorchFunction(torch.nn.Linear(2, 2), precision="int8")

    with pytest.raises(ValueError, match=r"`function` must be .*TorchFunction"):
        ex.models.from_denoiser(torch.nn.Linear(2, 2), shape=(2,), log_snr_range=RANGE)
    linear = torch.nn.Linear(DIM, DIM)
    for call in (lambda y, *_: linear(y), lambda y, *_: torch.sin(y)):
        model = ex.models.from_denoiser(call, shape=(DIM,), log_snr_range=RANGE)
        with pytest.raises((TypeError, ValueError)) as caught:
            model.score(0.5, jnp.ones(DIM))
        assert "TorchFunction" in "".join([str(caught.value), *caught.value.__notes__])
    wanted = "`folder` must be the path of a folder, got NoneType"
    with as_shipped(), pytest.raises(ValueError, match=wanted):
        ex.models.from_diffusers(None)
    listed = ex.models.TorchFunction(torch.nn.Linear(2, 2), call=lambda m, x, t, c: [m(x)])
    with pytest.raises(ValueError, match=r"`module` must return a tensor, .* got list"):
        listed(jnp.ones(2), jnp.float32(0.5))

    class Wrong(torch.nn.Module):
        def forward(self, states, levels):
            return states[:, :1]

    model = ex.models.from_denoiser(
        ex.models.TorchFunction(Wrong()), shape=(DIM,), log_snr_range=RANGE
    )
    with pytest.raises(Exception, match="must return a tensor of shape"):
        jax.block_until_ready(model.score(0.5, jnp.ones(DIM)))
