"""Training on a stream of batches is training on the data, where the batches are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.interfaces import AbstractStream
from entropix.training import Callback, fit, fit_ensemble
from entropix.training.source import epoch_order
from tests.training.common import assert_same, gaussian_data, small_model
from tests.training.test_ensemble import maker


KEY = jax.random.key(5)
QUICK = {"steps": 20, "batch_size": 8, "loss": ex.Denoising(2)}


class Ordered(AbstractStream):
    """The batches that `fit(model, data, key=key)` sees, and their steps as a condition."""

    def __init__(self, data, key, conditional=False):
        self.data, self.key, self.conditional = np.asarray(data), key, conditional
        self.shape, self.dtype = self.data.shape[1:], self.data.dtype
        self.num_samples, self.batch_size = len(self.data), 8
        self.asked = []

    def batches(self, start):
        step = start
        while True:
            self.asked.append(step)
            epoch, place = divmod(step, self.num_samples // 8)
            order = epoch_order(self.key, jnp.int32(epoch), self.num_samples)
            batch = self.data[np.asarray(order)[8 * place : 8 * place + 8]]
            yield batch, (batch[:, :1] if self.conditional else None)
            step += 1

    def head(self, count):
        return self.data[:count], None

    def fingerprint(self):
        return {"of": "a test", "sum": float(self.data.sum())}


@pytest.mark.slow(reason="two runs")
def test_a_stream_of_the_same_batches_gives_the_same_bits(tmp_path):
    data = gaussian_data(60)
    model = small_model(data=data)

    def options(name, callback=lambda *_: None):
        # Chunks of six steps at most, and a checkpoint after each four.
        checkpoint = ex.Checkpoint(tmp_path / name, every=4, resume=True)
        return QUICK | {"checkpoint": checkpoint, "callback": Callback(callback, 6)}

    whole = fit(model, data, key=KEY, **options("a"))
    stream = Ordered(data, KEY)
    streamed = fit(model, stream, key=KEY, **options("b"))
    assert_same(streamed, whole)

    def interrupt(step, metrics):
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, stream, key=KEY, **options("c", interrupt))
    stream = Ordered(data, KEY)
    assert_same(fit(model, stream, key=KEY, **options("c")), whole)
    assert min(stream.asked) == 12  # nothing that lies before is read
    with pytest.raises(ValueError, match=r"`resume` must continue the run .* `data`"):
        fit(model, Ordered(data + 1, KEY), key=KEY, **options("c"))


@pytest.mark.slow  # two trainings
def test_members_share_the_batches_of_a_stream():
    data = gaussian_data(60)
    keys = jax.random.split(KEY, 2)
    fits = fit_ensemble(maker(data), Ordered(data, KEY), keys=keys, **QUICK)
    assert fits.history.loss.shape == (2, 20)
    # Their noise is their own, and the same as on its own.
    one = fit(maker(data)(keys[1]), Ordered(data, KEY), key=keys[1], **QUICK)
    assert jnp.allclose(fits.history.loss[1], one.history.loss, rtol=1e-4)


def test_conditions_come_with_the_stream():
    data = gaussian_data(60)
    network = ex.FourierMLP(2, key=KEY, widths=(8,), num_features=4, condition_dim=1)
    model = ex.EntropyMatching(network, ex.CosinePath())
    streamed = fit(model, Ordered(data, KEY, conditional=True), key=KEY, **QUICK)
    whole = fit(model, data, condition=data[:, :1], key=KEY, **QUICK)
    assert_same(streamed, whole)


def test_bad_streams():
    data = gaussian_data(60)
    model, stream = small_model(data=data), Ordered(data, KEY)
    for options, message in (
        ({"batch_size": 16}, "`batch_size` must be that of the stream, 8, got 16"),
        ({"condition": data[:, :1]}, "`condition` must be None for a stream"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, stream, key=KEY, **QUICK | options)
    with pytest.raises(ValueError, match="`num_samples` must be left out for a stream"):
        fit_ensemble(lambda key: model, stream, keys=[KEY], over={"num_samples": [8]}, **QUICK)
    with pytest.raises(ValueError, match=r"`data` must be a stream of examples of shape \(2,\)"):
        fit(model, Ordered(gaussian_data(60, dim=3), KEY), key=KEY, **QUICK)
