"""Networks for images: common properties on a grid, and properties of each."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.networks import Fixed, network_size, trainable
from entropix.networks.images import convolved, doubled, halved, normalised, patches, pixels
from tests.helpers import all_finite, as_shipped, quick


KEY = jax.random.key(0)
NETWORKS = {
    "unet": lambda **o: ex.UNet((7, 5), key=KEY, widths=(4, 8), **o),
    "unet-attention": lambda **o: ex.UNet(
        (6, 6, 3), key=KEY, widths=(8, 8), attention=(1,), heads=2, dropout=0.5, **o
    ),
    "unet-patches": lambda **o: ex.UNet((6, 4, 2), key=KEY, widths=(4, 8), blocks=2, patch=2, **o),
    "dit": lambda **o: ex.DiT((6, 4, 2), key=KEY, width=16, depth=1, heads=2, **o),
    "tokens": lambda **o: ex.TokenTransformer((5,), 3, key=KEY, width=16, depth=2, heads=2, **o),
    "tokens-images": lambda **o: ex.TokenTransformer(
        (3, 2), 3, key=KEY, width=16, depth=1, heads=2, time_dependent=False, **o
    ),
}


@functools.cache
def initial(name, **options):
    """A network as it is made; the tests share it."""
    return NETWORKS[name](**options)


@eqx.filter_jit
def call(network, *args, **kwargs):
    """A network, compiled: its many small layers are slow if run separately."""
    return network(*args, **kwargs)


@eqx.filter_jit
def value_and_gradient(network, level, y):
    """The output, and the gradient of the sum of its squares."""

    def loss(network):
        output = network(level, y)
        return jnp.sum(output**2), output

    (_, output), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(network)
    return output, gradient


def awake(network, size=0.2):
    """The network with random numbers in layers that are initially zero; by NumPy: no program."""
    rng = np.random.default_rng(0)
    params, static = eqx.partition(network, trainable(network))

    def moved(leaf):
        noise = size * rng.normal(size=leaf.shape)
        return jnp.asarray(np.asarray(leaf) + noise.astype(leaf.dtype))

    return eqx.combine(jax.tree.map(moved, params), static)


@pytest.mark.slow(reason="large networks")
@pytest.mark.parametrize("name", quick(("dit",), NETWORKS))
def test_images_in_images_out(name, getkey):
    """Initially zero, finite at the exact ends, equal under jit and vmap, differentiable."""
    network = initial(name)
    ys = jax.random.normal(getkey(), (3, *network.shape))
    levels = jnp.array([-jnp.inf, 0.3, jnp.inf])
    initially, _ = value_and_gradient(network, levels[1], ys[0])
    np.testing.assert_array_equal(initially, jnp.zeros(network.shape))
    network = awake(network)
    together = jax.jit(jax.vmap(lambda level, y: network(level, y)))(levels, ys)
    assert together.dtype == ys.dtype
    assert all_finite(together)
    apart = [value_and_gradient(network, level, y) for level, y in zip(levels, ys, strict=True)]
    outputs = jnp.stack([output for output, _ in apart])
    np.testing.assert_allclose(together, outputs, rtol=2e-4, atol=2e-5)

    _, gradient = apart[1]
    params = eqx.filter(gradient, trainable(network))
    assert all_finite(gradient)
    for leaf in jax.tree.leaves(params):
        assert jnp.any(leaf != 0)


@pytest.mark.slow(reason="two networks")
@pytest.mark.parametrize("name", ["unet-attention", "dit"])
def test_condition_enters_and_is_checked(name, getkey):
    network = awake(initial(name, condition_dim=3))
    y = jax.random.normal(getkey(), network.shape)
    outputs = [call(network, jnp.asarray(0.3), y, jax.nn.one_hot(i, 3)) for i in range(2)]
    assert jnp.max(jnp.abs(outputs[0] - outputs[1])) > 1e-3
    with as_shipped():
        with pytest.raises(ValueError, match="`condition` must be given"):
            network(0.0, y)
        with pytest.raises(ValueError, match="`condition` must hold 3"):
            network(0.0, y, jnp.ones(2))
        with pytest.raises(ValueError, match="`y` must have the shape"):
            network(0.0, y.ravel(), jnp.ones(3))


@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_and_normalisations_with_channels_last(size, getkey, x64):
    """The values and derivatives of the layers of Equinox, for images that are not square."""
    layer = eqx.nn.Conv2d(4, 3, size, padding=size // 2, key=getkey())
    norm = awake(eqx.nn.GroupNorm(2, 4))
    x = 3 + jax.random.normal(getkey(), (5, 4, 4))

    def loss(inputs, convolve, normalise):
        layer, norm, x = inputs
        return jnp.sum(jnp.sin(convolve(layer, normalise(norm, x))))

    def channels_first(layer, x):
        return jnp.moveaxis(layer(jnp.moveaxis(x, -1, 0)), 0, -1)

    functions = (convolved, normalised), 2 * (channels_first,)
    gradients = (
        eqx.filter_jit(eqx.filter_value_and_grad(lambda i, f=f: loss(i, *f))) for f in functions
    )
    pairs = zip(*(jax.tree.leaves(f((layer, norm, x))) for f in gradients), strict=True)
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet-attention", "dit"])
def test_half_precision_computes_what_single_does(name, getkey):
    """bfloat16 within its three digits, with parameters and output in single precision."""
    single = awake(initial(name), size=0.05)
    half = awake(initial(name, precision="bfloat16"), size=0.05)
    y = jax.random.normal(getkey(), single.shape, jnp.float32)
    a, b = call(single, 0.5, y), call(half, 0.5, y)
    assert b.dtype == jnp.float32
    assert jnp.sqrt(jnp.mean((a - b) ** 2) / jnp.mean(a**2)) < 0.05
    text = jax.jit(lambda y: half(0.5, y)).lower(y).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line] or [
        line for line in text.splitlines() if "stablehlo.dot_general" in line
    ]
    assert products
    assert all("bf16" in line for line in products)
    gradient = eqx.filter_eval_shape(eqx.filter_grad(lambda n: jnp.sum(n(0.5, y) ** 2)), half)
    assert all(g.dtype == p.dtype for g, p in zip(*map(_numbers, (gradient, half)), strict=True))


def _numbers(tree):
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.slow
def test_dropout_needs_a_key():
    """Only a key enables it, and models pass theirs on."""
    network = awake(initial("unet-attention"), size=0.05)
    y = jax.random.normal(KEY, network.shape)
    model = ex.NoisePrediction(network, ex.CosinePath())
    score = eqx.filter_jit(lambda key: model.score(0.5, y, key=key))
    still = score(None)
    np.testing.assert_array_equal(still, score(None))
    first, second = (score(key) for key in jax.random.split(KEY, 2))
    assert jnp.max(jnp.abs(first - second)) > 1e-3
    assert jnp.any(first != still)


def test_resampling_of_odd_images(getkey):
    x = jax.random.normal(getkey(), (5, 3, 2))
    small = halved(x)
    assert small.shape == (3, 2, 2)
    np.testing.assert_allclose(small[0, 0], jnp.mean(x[:2, :2], axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(small[2, 1], x[4, 2], rtol=1e-5)  # the repeated corner
    assert doubled(small, (5, 3)).shape == x.shape
    np.testing.assert_array_equal(halved(doubled(small, (6, 4))), small)


@pytest.mark.slow(reason="two networks")
def test_patches_stay_in_place(getkey):
    """A transformer with zero gates does not mix patches."""
    network = initial("dit")
    weight = jax.random.normal(getkey(), network.head.weight.shape)
    network = eqx.tree_at(lambda n: n.head.weight, network, weight)
    y = jax.random.normal(getkey(), network.shape)
    jacobian = jax.jit(jax.jacobian(lambda y: network(0.0, y)))(y)  # (h, w, c, h, w, c)
    moved = np.asarray(jnp.any(jacobian != 0, axis=(2, 5)))
    h, w, h2, w2 = np.nonzero(moved)
    np.testing.assert_array_equal(h // 2, h2 // 2)
    np.testing.assert_array_equal(w // 2, w2 // 2)
    same = moved.reshape(3, 2, 2, 2, 3, 2, 2, 2)
    assert all(same[i, :, j, :, i, :, j, :].all() for i in range(3) for j in range(2))


@pytest.mark.slow(reason="large networks; the codec has tests of its own")
@pytest.mark.parametrize("name", ["unet-attention", "dit"])
def test_saved_and_loaded(name, tmp_path):
    """Every number and every setting, which together are what a network computes."""
    network = awake(initial(name, precision="bfloat16"), size=0.05)
    ex.save(tmp_path / "network", network)
    assert eqx.tree_equal(ex.load(tmp_path / "network"), network)


@pytest.mark.slow(reason="large networks")
def test_sizes_are_counted():
    """A linear map of n to m: n m + m parameters, 2 n m operations and m additions."""

    class Affine(eqx.Module):
        layer: eqx.nn.Linear
        scale: Fixed
        dim: int = eqx.field(static=True)

        def __call__(self, log_snr, y, condition=None):
            return self.layer(y)

    size = network_size(Affine(eqx.nn.Linear(30, 30, key=KEY), Fixed(jnp.ones(7)), 30))
    assert size.parameters == 930
    assert 1800 <= size.flops <= 1900
    small = network_size(ex.UNet((8, 8), key=KEY, widths=(4, 4)))
    large = network_size(ex.UNet((16, 16), key=KEY, widths=(4, 4)))
    assert small.parameters == large.parameters
    assert 3.5 < large.flops / small.flops < 4.5
    with pytest.raises(ValueError, match="`shape` must be given"):
        network_size(lambda log_snr, y, condition=None: y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ex.UNet((8,), key=KEY), "`shape` must be"),
        (lambda: ex.UNet((8, 8), key=KEY, widths=()), "`widths` must be"),
        (lambda: ex.UNet((8, 8), key=KEY, dropout=1.0), "`dropout` must be"),
        (lambda: ex.UNet((8, 8), key=KEY, attention=(3,)), "`attention` must hold indices"),
        (lambda: ex.UNet((8, 8), key=KEY, attention=(0,), heads=5), "`attention` must hold"),
        (lambda: ex.UNet((8, 8), key=KEY, precision="int8"), "`precision` must be one of"),
        (lambda: ex.DiT((8, 6), key=KEY, patch=4), "`patch` must divide"),
        (lambda: ex.DiT((8, 8), key=KEY, width=10), "`width` must be a multiple"),
    ],
)
def test_static_mistakes(make, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        make()


def test_patches_become_channels_and_pixels_again(getkey):
    x = jax.random.normal(getkey(), (6, 4, 3))
    parts = patches(x, 2)
    assert parts.shape == (3, 2, 12)
    np.testing.assert_array_equal(parts[1, 0, 4:8], x[2:4, :2, 1].ravel())
    np.testing.assert_array_equal(pixels(parts, 2), x)
    with pytest.raises(ValueError, match="`patch` must divide"):
        ex.UNet((7, 5), key=KEY, widths=(4,), patch=2)


@pytest.mark.slow(reason="two networks")
def test_flattened_images_are_images(getkey):
    network = awake(initial("dit", condition_dim=3))
    flat = ex.networks.Flattened(network)
    y, level = jax.random.normal(getkey(), network.shape), jnp.asarray(0.3)
    condition = jnp.ones(3)
    assert flat.dim == y.size
    expected = call(network, level, y, condition).ravel()
    np.testing.assert_array_equal(call(flat, level, y.ravel(), condition), expected)
    with pytest.raises(ValueError, match="`network` must have a `shape`"):
        ex.networks.Flattened(jnp.tanh)
