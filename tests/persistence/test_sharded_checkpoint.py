"""Checkpoints by Orbax: the same bits after any interruption, and the last good one kept."""

import jax
import numpy as np
import pytest

import entropix as ex
from entropix.persistence import ShardedCheckpoint
from entropix.training import fit_ensemble
from tests.helpers import as_shipped
from tests.training.common import assert_same, gaussian_data
from tests.training.test_ensemble import maker


DATA = gaussian_data()
OPTIONS = {"steps": 20, "batch_size": 8, "loss": ex.Denoising(2)}
OPTIONS |= {"holdout": ex.Holdout(DATA[:5], every=4)}


def train(folder, stop_at=None, seeds=2, **options):
    def stop(step, metrics):
        if step == stop_at:
            raise KeyboardInterrupt

    keys = jax.random.split(jax.random.key(0), seeds)
    options = OPTIONS | {"callback": stop} | options
    checkpoint = ShardedCheckpoint(folder, every=4, resume=True, keep=2)
    return fit_ensemble(maker(DATA), DATA, keys=keys, checkpoint=checkpoint, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def spoil(folder, step):
    """Overwrite everything in the checkpoint of a step."""
    for path in (folder / str(step)).rglob("*"):
        if path.is_file():
            path.write_bytes(np.random.default_rng(0).bytes(max(path.stat().st_size, 64)))


@pytest.mark.slow(reason="three runs")
def test_goes_on_to_the_same_bits(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", stop_at=12)
    assert steps(tmp_path / "run") == [8, 12]
    assert_same(train(tmp_path / "run"), whole)
    assert_same(train(tmp_path / "run"), whole)  # nothing is left to do
    with pytest.raises(ValueError, match=r"got another setup than that of .*: .*`learning_rate`"):
        train(tmp_path / "run", learning_rate=0.1)


# Orbax leaves the event loop of a read that failed to the garbage collector.
@pytest.mark.slow(reason="several runs")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["spoilt", "half-written"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path, whole, damage):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", stop_at=12)
    if damage == "spoilt":
        spoil(tmp_path / "run", 12)
    else:
        for path in (tmp_path / "run" / "12" / "state").rglob("*"):
            if path.is_file() and path.parent.name == "d":
                path.unlink()
    assert_same(train(tmp_path / "run"), whole)


@pytest.mark.slow(reason="two runs")
def test_a_wrong_number_is_noticed(tmp_path, whole, monkeypatch):
    """Whatever Orbax reads is compared with the sums of what was written."""
    import orbax.checkpoint as ocp

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", stop_at=12)
    restore = ocp.CheckpointManager.restore

    def flipped(self, step, *args, **kwargs):
        found = restore(self, step, *args, **kwargs)
        if step == 12 and "state" in found:
            name = next(name for name in found["state"] if "bias" in name)
            bits = np.array(found["state"][name])
            bits.view(np.uint32).flat[0] ^= 1
            found["state"][name] = jax.numpy.asarray(bits)
        return found

    monkeypatch.setattr(ocp.CheckpointManager, "restore", flipped)
    seen = []
    resumed = train(tmp_path / "run", callback=lambda step, _: seen.append(step))
    assert seen[0] == 12  # the one before it served
    assert_same(resumed, whole)


@pytest.mark.slow  # trainings of its own
def test_nothing_left_to_read(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", stop_at=8)
    for step in steps(tmp_path / "run"):
        spoil(tmp_path / "run", step)
    with pytest.raises(ValueError, match=r"`checkpoint` must hold a whole checkpoint, .* \[4, 8\]"):
        train(tmp_path / "run")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="`checkpoint` must be a folder that can be written to"):
        train(tmp_path / "file" / "run")
    with as_shipped(), pytest.raises(ValueError, match="`folder` must be the path of a folder"):
        ShardedCheckpoint(3)
    with pytest.raises(ValueError, match="`keep` must be an integer of at least 1"):
        ShardedCheckpoint(tmp_path, keep=0)


@pytest.mark.slow(reason="two runs")
def test_a_full_disk_leaves_the_last_one(tmp_path, whole, monkeypatch):
    import orbax.checkpoint as ocp

    save, calls = ocp.CheckpointManager.save, []

    def full(self, step, *args, **kwargs):
        calls.append(step)
        if step == 12:
            raise OSError(28, "No space left on device")
        return save(self, step, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(OSError, match=r"No space left on device\. What it held before"):
            train(tmp_path / "run")
    assert calls == [4, 8, 12]
    assert steps(tmp_path / "run") == [4, 8]
    assert_same(train(tmp_path / "run"), whole)
