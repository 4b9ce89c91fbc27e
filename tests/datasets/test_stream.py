"""Streams: one order for all sources, processes and starting points; what is read, what is kept."""

import functools
import itertools
import json
import pathlib
import threading
import types

import numpy as np
import pytest

import entropix as ex
from entropix.datasets import Dataset, huggingface, load, sources, stream
from tests.datasets.sets import save_huggingface


pytest.importorskip("grain")
N, BATCH = 23, 6
STEPS = N // BATCH  # to an epoch
POINTS = np.arange(N * 3, dtype=np.float32).reshape(N, 3) / 7
LABELS = np.arange(N) % 4


def write_parquet(path, size=4):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(POINTS, columns=list("abc"))
    frame["label"] = LABELS
    frame.to_parquet(path, row_group_size=size)
    return path


def write_folder(path):
    pandas = pytest.importorskip("pandas")
    path.mkdir()
    for i, (first, last) in enumerate([(0, 9), (9, 10), (10, N)]):
        frame = pandas.DataFrame({"x": list(POINTS[first:last]), "label": LABELS[first:last]})
        frame.to_parquet(path / f"part-{i}.parquet", row_group_size=5)
    return path


def write_records(path, points=POINTS):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for point in points:
        writer.write(point.tobytes())
    writer.close()
    return path


def write_huggingface(path):
    hf = pytest.importorskip("datasets")
    features = hf.Features({"x": hf.Sequence(hf.Value("float32")), "label": hf.Value("int64")})
    columns = {"x": POINTS.tolist(), "label": LABELS.tolist()}
    return save_huggingface(path, columns, features, {"test": (0, 1), "train": (0, N)})


def write_npy(path):
    np.save(path, POINTS)
    return path


SOURCES = {
    "array": (lambda path: POINTS, {}),
    "dataset": (lambda path: Dataset(POINTS, "x", labels=LABELS), {"label": "labels"}),
    "npy": (lambda path: write_npy(path / "x.npy"), {}),
    "parquet": (lambda path: write_parquet(path / "x.parquet"), {"label": "label"}),
    "folder": (lambda path: write_folder(path / "x"), {"label": "label"}),
    "records": (
        lambda path: write_records(path / "x.array_record"),
        {"shape": (3,), "dtype": "<f4"},
    ),
    "huggingface": (lambda path: write_huggingface(path / "x"), {"label": "label"}),
}


def take(stream, start, count):
    iterator = stream.batches(start)
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    points = np.stack([points for points, _ in batches])
    labels = None if batches[0][1] is None else np.stack([labels for _, labels in batches])
    return points, labels


@functools.cache
def in_memory(seed=0):
    data = Dataset(POINTS, "x", labels=LABELS)
    return take(stream(data, batch_size=BATCH, seed=seed, label="labels"), 0, 2 * STEPS)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_the_same_batches(tmp_path, name):
    make, options = SOURCES[name]
    it = stream(make(tmp_path), batch_size=BATCH, **options)
    assert (it.shape, it.dtype, it.num_samples, it.batch_size) == ((3,), np.float32, N, BATCH)
    points, labels = in_memory()
    found, conditions = take(it, 0, 2 * STEPS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, points)
    first, condition = it.head(5)
    np.testing.assert_array_equal(first, POINTS[:5])
    if "label" in options:
        np.testing.assert_array_equal(conditions, labels)
        np.testing.assert_array_equal(condition, LABELS[:5])
    else:
        assert conditions is None
        assert condition is None
    if "label" in options:
        reference = stream(Dataset(POINTS, "x", labels=LABELS), batch_size=BATCH, label="labels")
    else:
        reference = stream(POINTS, batch_size=BATCH)
    assert it.fingerprint() == reference.fingerprint()
    assert json.loads(json.dumps(it.fingerprint())) == it.fingerprint()
    for start in (1, STEPS, 2 * STEPS - 2):
        np.testing.assert_array_equal(take(it, start, 2)[0], points[start : start + 2])
    for process in range(2):
        part = stream(
            make_again(tmp_path, name, make),
            batch_size=BATCH,
            num_processes=2,
            process_index=process,
            num_threads=0,
            **options,
        )
        half = slice(process * BATCH // 2, (process + 1) * BATCH // 2)
        np.testing.assert_array_equal(take(part, 2, STEPS)[0], points[2 : 2 + STEPS, half])
        assert part.fingerprint() == it.fingerprint()


def make_again(tmp_path, name, make):
    """The source that is there, made only once where it is a file."""
    return make(tmp_path) if name in ("array", "dataset") else next(tmp_path.iterdir())


def test_an_epoch_takes_every_sample_at_most_once():
    points, labels = in_memory()
    epochs = points.reshape(2, STEPS * BATCH, 3)
    seen = [set(epoch[:, 0].tolist()) for epoch in epochs]
    assert [len(epoch) for epoch in seen] == [STEPS * BATCH] * 2
    orders = [tuple(epoch[:, 0].tolist()) for epoch in epochs]
    assert len(set(orders)) == 2
    assert len(set.union(*seen)) > STEPS * BATCH  # other samples are left over
    rows = np.rint(points[..., 0] * 7 / 3).astype(int)
    np.testing.assert_array_equal(labels, LABELS[rows])


def test_orders_are_independent():
    """Of the source's order, of the epoch before, and of another seed's."""
    n = 2048
    points = np.arange(n, dtype=np.float32)[:, None]
    orders = [
        *take(stream(points, batch_size=n, num_threads=0), 0, 2)[0][..., 0],
        take(stream(points, batch_size=n, seed=1, num_threads=0), 0, 1)[0][0, :, 0],
    ]
    correlations = np.corrcoef([points[:, 0], *orders])[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(n)


@pytest.mark.parametrize("name", ["parquet", "folder", "huggingface", "dataset"])
def test_several_columns_of_conditions(tmp_path, name):
    """Of a list of columns: floating, with an axis of their own."""
    make, options = SOURCES[name]
    label = [options["label"]]
    it = stream(make(tmp_path), batch_size=BATCH, label=label)
    points, conditions = next(it.batches(0))
    np.testing.assert_array_equal(points, in_memory()[0][0])
    np.testing.assert_array_equal(conditions, in_memory()[1][0][:, None])
    assert conditions.dtype == it.dtype
    if name == "parquet":
        both = stream(next(tmp_path.iterdir()), batch_size=BATCH, columns="a", label=["b", "label"])
        points, conditions = both.head(N)
        np.testing.assert_array_equal(points[:, 0], POINTS[:, 0])
        np.testing.assert_array_equal(conditions, np.stack([POINTS[:, 1], LABELS], axis=-1))
        with pytest.raises(ValueError, match="`label` must name at least one column, got none"):
            stream(next(tmp_path.iterdir()), batch_size=BATCH, label=[])


def test_in_the_order_of_the_source():
    found, _ = take(stream(POINTS, batch_size=BATCH, shuffle=False), 0, 2 * STEPS)
    expected = POINTS[: STEPS * BATCH].reshape(STEPS, BATCH, 3)
    np.testing.assert_array_equal(found, np.concatenate([expected, expected]))


def test_fingerprints_differ_where_batches_do():
    base = stream(POINTS, batch_size=BATCH).fingerprint()
    others = [
        stream(POINTS, batch_size=BATCH, seed=1),
        stream(POINTS, batch_size=BATCH - 1),
        stream(POINTS, batch_size=BATCH, shuffle=False),
        stream(POINTS[:-1], batch_size=BATCH),
        stream(POINTS + 1, batch_size=BATCH),
        stream(POINTS, batch_size=BATCH, shape=(1, 3)),
    ]
    assert all(other.fingerprint() != base for other in others)
    assert stream(POINTS, batch_size=BATCH, prefetch=1).fingerprint() == base


# ---------------------------------------------------------------------------- what is read


def test_what_lies_before_is_not_read(tmp_path, monkeypatch):
    it = stream(write_huggingface(tmp_path / "x"), batch_size=BATCH, num_threads=0)
    read, original = [], huggingface.read_rows

    def spy(rows, which, used):
        read.extend(which)
        return original(rows, which, used)

    monkeypatch.setattr(sources, "read_rows", spy)
    points, _ = take(it, 2, 1)
    np.testing.assert_array_equal(points[0], POINTS[read])
    assert len(read) == BATCH


def test_a_parquet_file_is_copied_once(tmp_path):
    """It is unpacked again if it has changed; names may hold what patterns are made of."""
    hf = pytest.importorskip("datasets")
    path = write_parquet(tmp_path / "[x]*.parquet", 2)
    write_parquet(tmp_path / "x.parquet", 3)  # would match

    def copies():
        return set(pathlib.Path(hf.config.HF_DATASETS_CACHE).rglob("*.arrow"))

    before = copies()
    options = {"batch_size": BATCH, "columns": ["a", "b", "c"]}
    np.testing.assert_array_equal(stream(path, **options).head(N)[0], POINTS)
    made = copies() - before
    assert len(made) == 1
    assert stream(path, **options).num_samples == N
    assert copies() - before == made
    import pandas

    pandas.DataFrame(POINTS[::-1], columns=list("abc")).to_parquet(path)
    np.testing.assert_array_equal(stream(path, **options).head(N)[0], POINTS[::-1])


def test_a_parquet_file_must_fit_onto_the_disk(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "x.parquet")
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=9))
    with pytest.raises(ValueError, match=r"must fit unpacked onto the disk of .* 9 bytes are free"):
        stream(path, batch_size=BATCH)


def test_threads_end_with_the_iterator():
    iterator = stream(POINTS, batch_size=BATCH, num_threads=3).batches(0)
    next(iterator)
    threads = [thread for thread in threading.enumerate() if "grain" in thread.name]
    assert threads
    iterator.close()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)


# ---------------------------------------------------------------------------- values


def test_images_of_parquet_and_huggingface(tmp_path):
    """Pixels stay what they are; the noise of dequantisation is that of a sample and an epoch."""
    hf = pytest.importorskip("datasets")
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, size=(8, 4, 3, 3), dtype=np.uint8)
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=["a", "b"])})
    columns = {"img": [Image.fromarray(image) for image in images], "label": [0, 1] * 4}
    folder = save_huggingface(tmp_path / "hf", columns, features)
    hf.load_from_disk(str(folder)).to_parquet(str(tmp_path / "x.parquet"))
    for path in (folder, tmp_path / "x.parquet"):
        it = stream(path, batch_size=4, label="label")
        assert (it.shape, it.dtype) == ((4, 3, 3), np.float32)
        points, labels = it.head(8)
        np.testing.assert_array_equal(points, images)
        assert labels.tolist() == [0, 1] * 4
    noisy = stream(images, batch_size=4, dequantise=True)
    plain, whole = (
        take(stream(images, batch_size=4, dequantise=d), 0, 6)[0] for d in (False, True)
    )
    np.testing.assert_array_equal(np.floor(whole), plain)
    noise = whole - plain
    assert abs(noise.mean() - 0.5) < 4 * np.sqrt(1 / 12 / noise.size)
    assert len(np.unique(noise[:, :, 0, 0, 0])) == 24  # every epoch, every sample its own
    np.testing.assert_array_equal(take(noisy, 3, 1)[0][0], whole[3])
    halves = [
        take(stream(images, batch_size=4, dequantise=True, num_processes=2, process_index=p), 3, 1)[
            0
        ][0]
        for p in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), whole[3])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("u1", "f4"),
        ("i2", "f4"),
        ("?", "f4"),
        ("f2", "f4"),
        ("i4", "f8"),
        ("i8", "f8"),
        ("f8", "f8"),
    ],
)
def test_dtypes(given, expected):
    it = stream(np.ones((6, 2), given), batch_size=2)
    assert it.dtype == np.dtype(expected)
    assert next(it.batches(0))[0].dtype == it.dtype


# ---------------------------------------------------------------------------- what is refused


OPTIONS = {
    "batch_size=0": "`batch_size` must be an integer of at least 1, got 0",
    "batch_size=24": "`batch_size` must be at most the number of samples of .*, 23, got 24",
    "seed=-1": "`seed` must be an integer from 0",
    "shape=(2,)": r"`shape` must have the size of one example of .*, got \(2,\)",
    "dequantise=True": "`dequantise` must be False .*float32, got True",
    "num_threads=-1": "`num_threads` must be",
    "prefetch=-1": "`prefetch` must be",
    "num_processes=4": "`batch_size` must be a multiple of the number of processes, 4, got 6",
    "num_processes=2, process_index=2": "`process_index` must be below .* 2, got 2",
    "columns='x'": "`columns` must be None for 'an array', got 'x'",
    "dtype='f4'": "`dtype` must be None",
    "split='train'": "`split` must be None",
}


@pytest.mark.parametrize("words", OPTIONS)
def test_options_that_are_wrong(words):
    options = {"batch_size": BATCH} | eval(f"dict({words})")
    with pytest.raises(ValueError, match=OPTIONS[words]):
        stream(POINTS, **options)
    with pytest.raises(ValueError, match="`start` must be an integer of at least 0, got -1"):
        stream(POINTS, batch_size=BATCH).batches(-1)


def refused(source, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        take(stream(source, batch_size=2, **options), 0, 12)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path):
    parquet = write_parquet(tmp_path / "x.parquet", 4)
    content = parquet.read_bytes()
    parquet.write_bytes(content[:-9])
    refused(parquet, "x.parquet' must be a .parquet table, got one that cannot be read")
    hole = bytearray(content)
    hole[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    parquet.write_bytes(bytes(hole))
    refused(parquet, "x.parquet' must be a .parquet table, got one that cannot be read")
    records = write_records(tmp_path / "x.array_record")
    options = {"shape": (3,), "dtype": "f4"}
    refused(records, "`shape` and `dtype` must be those of one record", shape=(3,))
    refused(records, "must hold records of 16 bytes .* got 12", shape=(4,), dtype="f4")
    content = records.read_bytes()
    records.write_bytes(content[:-9])
    refused(records, "must be an ArrayRecord file, got one that cannot be read", **options)
    records.write_bytes(bytes(b ^ (i > 100 and i % 97 == 0) for i, b in enumerate(content)))
    refused(records, "must be an ArrayRecord file, got one that cannot be read", **options)


def test_sources_that_are_wrong(tmp_path):
    pandas = pytest.importorskip("pandas")
    refused(tmp_path / "none.parquet", "`source` must be .* that exists, got '.*none.parquet'")
    refused(tmp_path, "`source` must be .*, got .*; what fits into memory can be read by `load`")
    refused(np.ones(5), "must have at least two axes")
    refused(np.array([["a"]] * 5), "must hold real numbers, got text")
    bad = POINTS.copy()
    bad[17, 1] = np.nan
    refused(bad, r"must hold finite numbers, got others in sample 17 \(counted from 0\)")
    frame = pandas.DataFrame({"t": ["u", "v", "w"], "x": [[1.0], [2.0], [3.0, 4.0]]})
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=1)
    refused(tmp_path / "x.parquet", r"examples of one (shape|size)", columns="x")
    refused(tmp_path / "x.parquet", "`label` must be a column of .*'t', 'x'; got 'y'", label="y")
    refused(tmp_path / "x.parquet", "labels of numbers to be streamed", label="t", shuffle=False)
    refused(tmp_path / "x.parquet", "`columns` must be columns of numbers", columns="t")
    frame[:0].to_parquet(tmp_path / "none.parquet")
    refused(tmp_path / "none.parquet", "none.parquet' must hold samples, got none")
    (tmp_path / "none.parquet").unlink()
    frame[["t"]].to_parquet(tmp_path / "y.parquet")
    refused(tmp_path, "y.parquet' must have the columns and types of '.*x.parquet'")
    refused(Dataset(POINTS, "x"), "`label` must be None for 'x', got 'labels'", label="labels")


def test_a_stream_is_what_training_asks_for():
    digits = load("digits")
    it = stream(digits, batch_size=8, label="labels")
    assert isinstance(it, ex.training.AbstractStream)
    assert it.shape == (8, 8)
