"""Checkpoint files: what survives, and what a damaged one does."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix.persistence import archive, describe, read_archive, write_archive
from entropix.persistence.checkpoint import read_checkpoint, write_checkpoint
from tests.persistence.test_save import read_header
from tests.training.common import assert_same


def state():
    return {
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4, impl="rbg"), 2),
        "half": jnp.arange(5, dtype=jnp.bfloat16) / 3,
        "small": jnp.arange(5, dtype=jnp.float8_e4m3fn),
        "whole": jnp.arange(6, dtype=jnp.int32).reshape(2, 3),
        "flag": jnp.array([True, False]),
        "empty": jnp.zeros((0, 3)),
        "scalars": (3, 0.1, float("inf"), True, "text", None),
        "host": np.arange(3.0),
        "function": jnp.tanh,
    }


def written(path):
    history = {"loss": np.arange(3.0, dtype=np.float32)}
    write_checkpoint(path, 3, {"steps": 7, "data": ["x", 1]}, state(), history)
    return path


def read(path):
    return read_checkpoint(path, {"steps": 7, "data": ["x", 1]}, state())


def test_everything_survives(tmp_path):
    step, values, history = read(written(tmp_path / "run.ckpt"))
    assert step == 3
    assert_same(values, state())
    assert isinstance(values["host"], np.ndarray)
    assert [type(v) for v in values["scalars"][:5]] == [int, float, float, bool, str]
    assert np.array_equal(history["loss"], np.arange(3.0))


def test_equal_runs_write_equal_files(tmp_path):
    assert written(tmp_path / "a").read_bytes() == written(tmp_path / "b").read_bytes()


def test_no_pickle_inside(tmp_path):
    """Numbers as they are, and JSON: the layout of safetensors."""
    path = written(tmp_path / "run.ckpt")
    entries = read_header(path)
    metadata = entries.pop("__metadata__")
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["format"] == "entropix checkpoint"
    assert metadata["format_version"] == str(archive.FORMAT_VERSION)
    assert json.loads(metadata["header"])["step"] == 3
    ends = [offset for entry in entries.values() for offset in entry["data_offsets"]]
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert ends[0] == start % 8 == 0
    assert ends[1:-1:2] == ends[2::2]  # one after the other, without gaps
    assert start + ends[-1] == path.stat().st_size
    with pytest.raises(ValueError, match="an array to be saved must hold numbers"):
        archive.ArrayStore().add(np.array([object()]))


def test_truncated_anywhere(tmp_path):
    path = written(tmp_path / "run.ckpt")
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"got .*run\.ckpt, which is damaged"):
            read(path)


def test_any_wrong_bit_is_noticed(tmp_path):
    """Every bit of a small file: in its length, its JSON text, its checksum and its numbers."""
    path = tmp_path / "small"
    write_archive(path, "entropix model", {}, {"a": np.arange(3, dtype=np.float32)})
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ValueError, match=r"got .*small, which is damaged"):
                read_archive(path, "entropix model")


def test_wrong_bits_of_a_checkpoint_are_noticed(tmp_path):
    path = written(tmp_path / "run.ckpt")
    content = path.read_bytes()
    random = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    for place in random.choice(len(content), 150, replace=False):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"got .*run\.ckpt, which is damaged"):
            read(path)


def test_other_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    write_archive(path, "entropix model", {}, {})
    with pytest.raises(ValueError, match=r"must be an entropix checkpoint, got .* entropix model"):
        read(path)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "FORMAT_VERSION", 99)
        write_archive(path, "entropix checkpoint", {}, {})
    with pytest.raises(ValueError, match=r"of format 2, got .* of format 99"):
        read(path)
    np.savez(tmp_path / "old.npz", a=np.zeros(3))  # the format of earlier versions
    with pytest.raises(ValueError, match=r"damaged or .* a zip file, such as earlier versions"):
        read(tmp_path / "old.npz")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch, failing):
    path = written(tmp_path / "run.ckpt")
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(archive.os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(path, 4, {}, state(), {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.ckpt"]


def test_description_sees_every_change():
    tree = {"a": jnp.arange(3.0), "b": (1, "x", jnp.tanh), "key": jax.random.key(0)}
    assert describe(tree) == describe(jax.tree.map(lambda x: x, tree))
    assert json.loads(json.dumps(describe(tree))) == describe(tree)
    for change in (
        {"a": jnp.arange(3.0).at[0].set(-0.0)},
        {"a": jnp.arange(3, dtype=jnp.bfloat16)},
        {"a": jnp.arange(3.0)[None]},
        {"b": (1, "x", jnp.sin)},
        {"b": (2, "x", jnp.tanh)},
        {"key": jax.random.key(1)},
    ):
        assert describe(tree | change) != describe(tree)
