"""Files that claim more than they hold, or unpack to more than there is memory, and what is none.

All is refused from headers: nothing is unpacked, no memory is taken, and nothing is waited for.
"""

import gzip
import importlib.util
import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest

import entropix as ex
from entropix._core import memory
from entropix.datasets import load, stream
from entropix.studies.cells import Cells
from tests.datasets.helpers import refused


HUGE = [(10**12, 2), (10**400,), (2**32, 2**32, 2**32), (-1, -8), (3, 2)]


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 50_000_000)


def npy(shape, body=b"", descr="<f8"):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def stream_refused(source, message):
    if importlib.util.find_spec("grain") is not None:
        with pytest.raises(ValueError, match=message):
            stream(source, batch_size=2)


def test_memory_is_asked_for_and_limited():
    assert 0 < memory.available_memory() < 2**60
    memory.check_fits(100, "'x'", "an array")
    with pytest.raises(
        ValueError, match=r"'x' must fit into the memory that is available, .*B, got"
    ):
        memory.check_fits(2**62, "'x'", "an array")
    assert memory.readable(10**400)


@pytest.mark.parametrize("shape", HUGE, ids=lambda shape: str(shape)[:20])
def test_headers_of_numpy(tmp_path, shape):
    path = tmp_path / "x.npy"
    path.write_bytes(npy(shape, bytes(64)))
    refused(path, "x.npy' must be a NumPy .npy file of numbers, .*its header claims")
    stream_refused(path, "its header claims")
    zipped(tmp_path / "x.npz", {"x.npy": npy(shape, bytes(64))})
    refused(tmp_path / "x.npz", "x.npz' must be a NumPy .npz file of numbers, .*its header claims")
    zipped(tmp_path / "x.npz", {"x.npy": npy((8,), bytes(64)), "y.npy": npy(shape, bytes(64))})
    refused(tmp_path / "x.npz", "its header claims", array="x", labels="y")


@pytest.mark.usefixtures("little_memory")
def test_what_unpacks_to_more_than_memory(tmp_path):
    zeros = bytes(32_000_000)
    zipped(tmp_path / "x.npz", {"x.npy": npy((4_000_000,), zeros)})
    assert (tmp_path / "x.npz").stat().st_size < 10**5
    refused(tmp_path / "x.npz", "available, 50 MB, got arrays of 64 MB")

    path = tmp_path / "x.npy"
    with path.open("wb") as file:  # sparse: it is as long as it claims
        file.write(npy((10**10,)))
        file.truncate(128 + 8 * 10**10)
    refused(path, "available, 50 MB, got an array of 160 GB")

    header = b"\x00\x00\x08\x02" + struct.pack(">II", 32_000, 1000)
    (tmp_path / "x.idx.gz").write_bytes(gzip.compress(header + zeros, 1))
    refused(tmp_path / "x.idx.gz", "available, 50 MB, got an array of shape .* of 160 MB")

    table = pd.DataFrame({"a": np.zeros(8_000_000)})
    table.to_parquet(tmp_path / "x.parquet", row_group_size=8_000_000)
    refused(tmp_path / "x.parquet", "available, 50 MB, got a table of 64 MB")
    stream_refused(tmp_path / "x.parquet", "a row group of 64 MB")


def test_a_gzipped_file_is_unpacked_no_further_than_it_claims(tmp_path):
    header = b"\x00\x00\x08\x02" + struct.pack(">II", 3, 2)
    path = tmp_path / "x.idx.gz"
    path.write_bytes(gzip.compress(header + bytes(10**7), 1))
    refused(path, r"18 bytes for an array of shape \(3, 2\), got 19: bytes left over")
    header = b"\x00\x00\x08\x04" + struct.pack(">IIII", *[2**32 - 1] * 4)
    path.write_bytes(gzip.compress(header))
    refused(path, "must fit into the memory that is available")
    (tmp_path / "x.idx").write_bytes(header)
    refused(tmp_path / "x.idx", "got 20: truncated")


def test_archives_of_cifar(tmp_path):
    path = tmp_path / "x.tar.gz"
    member = tarfile.TarInfo("data_batch_1.bin")
    member.size = 80_000_000
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    refused(path, "'data_batch_1.bin' must have at most 67.1 MB, got 80 MB")
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 10**11
    path.write_bytes(gzip.compress(name.tobuf(tarfile.GNU_FORMAT) + b"a" * 10**6))
    refused(path, "must have at most 67.1 MB, got 100 GB")


@pytest.mark.parametrize("size", [8500, 10**6])
def test_images(tmp_path, size):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    refused(tmp_path, r"a.png' must be a PNG image, .* pixels")


NAMES = ["x.npy", "x.npz", "x.csv", "x.idx", "x-ubyte.gz", "x.parquet", "x.tar.gz", "x"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none")
@pytest.mark.parametrize("name", NAMES)
def test_a_fifo_is_refused_at_once(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    refused(path, "`source` must be a file, got a FIFO: write what it gives to a file first")
    np.save(tmp_path / "data.npy", np.eye(3))
    with pytest.raises(ValueError, match="`labels` must be a file"):
        load(tmp_path / "data.npy", labels=path)
    with pytest.raises(ValueError, match="`path` must be a file, got a FIFO"):
        ex.load(path)
    stream_refused(path, "got a FIFO")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none")
@pytest.mark.parametrize(
    "names",
    [["a.png"], ["train-images-idx3-ubyte"], ["data_batch_1.bin"], ["state.json", "data.arrow"]],
)
def test_a_fifo_in_a_folder(tmp_path, names):
    for name in names[:-1]:
        (tmp_path / name).write_text("{}")
    os.mkfifo(tmp_path / names[-1])
    refused(tmp_path, "must")
    stream_refused(tmp_path, "must")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is none")
def test_devices():
    refused("/dev/zero", "`source` must be a file, got a device")
    with pytest.raises(ValueError, match="`path` must be a file, got a device"):
        ex.load("/dev/zero")


# ---------------------------------------------------------------------------- our own files


def tampered(path, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    zipped(path, {name: change(name, content) for name, content in members.items()}, compression)


@pytest.mark.parametrize("shape", HUGE, ids=lambda shape: str(shape)[:20])
def test_a_model_that_claims_more_than_it_holds(tmp_path, shape):
    path = tmp_path / "x.eqx"
    ex.save(path, ex.CosinePath())
    tampered(path, lambda name, old: npy(shape, bytes(64)) if name == "a0.npy" else old)
    with pytest.raises(
        ValueError, match=r"`path` must be an entropix model, .*its header claims"
    ) as c:
        ex.load(path)
    assert "\n" not in str(c.value)


def test_a_model_that_is_packed(tmp_path):
    """Ours never is: so none can unpack to more than its own length."""
    path = tmp_path / "x.eqx"
    ex.save(path, ex.CosinePath())
    tampered(path, lambda _, old: old)
    assert isinstance(ex.load(path), ex.CosinePath)
    tampered(path, lambda _, old: old, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="its members are not stored as they are"):
        ex.load(path)


@pytest.mark.usefixtures("little_memory")
def test_a_model_larger_than_memory(tmp_path):
    with (tmp_path / "x.eqx").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(ValueError, match=r"x.eqx must fit into the memory .* got arrays of 1 GB"):
        ex.load(tmp_path / "x.eqx")


def test_a_cell_that_claims_more_than_it_holds(tmp_path):
    """It counts as damaged, and is computed again."""
    cells = Cells(tmp_path, {"one": 1}, {})
    cells.compute(lambda task: {"value": np.arange(3.0)}, progress=False)
    path = next((tmp_path / "cells").glob("*.cell"))
    tampered(path, lambda name, old: npy((10**12,)) if name.endswith(".npy") else old)
    again = Cells(tmp_path, {"one": 1}, {})
    assert again.finished() == {}
    again.compute(lambda task: {"value": np.arange(3.0)}, progress=False)
    np.testing.assert_array_equal(again.finished()["one"]["value"], np.arange(3.0))
