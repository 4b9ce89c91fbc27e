"""What an array of images means: its channels and grey levels, and what is said of either."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from entropix.datasets import Dataset, load
from entropix.studies import DataOptions
from entropix.studies.data import data_text, prepare_data


GREY = np.random.default_rng(0).integers(0, 256, size=(40, 8, 8))


@pytest.mark.parametrize(
    ("images", "levels"),
    [
        (GREY.astype(np.float32), 256),
        (GREY.astype(np.float64), 256),
        (GREY / 255, 256),
        ((GREY / 255).astype(np.float32), 256),
        ((GREY / 127.5 - 1).astype(np.float32), 256),
        ((GREY % 17).astype(float), 17),
        (GREY % 17 / 16, 17),
        ((GREY > 100).astype(np.float32), 2),
        (GREY * 257 / 65535, 256),
    ],
)
def test_floating_grey_levels_are_reported_and_dequantised_when_asked_for(images, levels):
    data = Dataset.from_array(images, source="x.npy")
    assert data.levels is None
    (note,) = data.notes
    assert note.startswith("'x.npy' holds floating numbers that are ")
    assert f"levels={levels} (--levels {levels})" in note
    assert f"note: {note}" in str(data)
    np.testing.assert_array_equal(data.points.reshape(images.shape), images)

    data = Dataset.from_array(images, levels=levels)
    assert data.levels == levels
    whole = data.points
    np.testing.assert_array_equal(whole, np.round(whole))
    assert whole.min() >= 0
    assert whole.max() == levels - 1
    prepared = prepare_data(data, DataOptions())
    assert prepared.dequantised
    assert "note" not in data_text(prepared) or "brought to the integers" in data_text(prepared)


@pytest.mark.parametrize(
    "images",
    [
        (GREY / 255).astype(np.float16),  # missed by half a level
        (GREY / 255 - 0.1307) / 0.3081,  # levels, but which?
    ],
)
def test_few_values_are_reported(images):
    (note,) = Dataset.from_array(images).notes
    assert "take only 256 values in 2560" in note


def test_half_precision_has_levels_when_asked_for():
    data = Dataset.from_array((GREY / 255).astype(np.float16), levels=256)
    np.testing.assert_array_equal(data.points.reshape(GREY.shape), GREY)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_continuous_images_are_not_suspected(dtype):
    rng = np.random.default_rng(0)
    for images in (
        rng.normal(size=(40, 8, 8)),
        rng.random((40, 8, 8)),
        255 * rng.random((9, 8, 8)),
    ):
        assert Dataset.from_array(images.astype(dtype)).notes == ()
        background = np.where(rng.random(images.shape) < 0.9, 0, images)
        assert Dataset.from_array(background.astype(dtype)).notes == ()
    assert Dataset.from_array(GREY.reshape(40, 64) / 255).notes == ()  # a table
    assert Dataset.from_array(GREY.astype(np.uint8)).notes == ()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (GREY / 255, {"levels": 100}, "`levels` must be the number L of grey levels .* got 100"),
        (GREY, {"levels": 100}, "`levels` must be the number L of grey levels .* got 100"),
        (GREY, {"levels": 1}, "`levels` must be an integer of at least 2, got 1"),
        (GREY.reshape(40, 64), {"levels": 256}, "`levels` must be None unless `kind` is 'image'"),
        (GREY, {"channels": "middle"}, None),
        (GREY[..., None], {"channels": "middle"}, "`channels` must be one of 'auto', 'first'"),
        (np.where(GREY == 0, np.nan, GREY), {"levels": 256}, "must hold finite numbers"),
    ],
)
def test_refusals(images, options, message):
    if message is None:
        assert Dataset.from_array(images, **options).shape == (8, 8)  # no channels
        return
    with pytest.raises(ValueError, match=message):
        Dataset.from_array(images, **options)


@pytest.mark.parametrize(
    ("shape", "expected", "said"),
    [
        ((3, 8, 8), (8, 8, 3), "taken for 8 x 8 pixels of 3 channels and turned to"),
        ((3, 8, 6), (8, 6, 3), "turned to"),
        ((1, 8, 8), (8, 8, 1), "taken for 8 x 8 pixels of 1 channel and turned to"),
        ((4, 8, 8), (8, 8, 4), "turned to"),
        ((3, 4, 4), (4, 4, 3), "turned to"),  # both may be; square pixels decide
        ((8, 8, 3), (8, 8, 3), None),
        ((8, 6, 1), (8, 6, 1), None),
        ((4, 4, 3), (4, 4, 3), "taken for 4 x 4 pixels of 3 channels"),
        ((3, 3, 3), (3, 3, 3), "taken for 3 x 3 pixels of 3 channels"),
        ((3, 6, 3), (3, 6, 3), "taken for 3 x 6 pixels of 3 channels"),
        ((8, 6, 2), (8, 6, 2), "taken for 8 x 6 pixels of 2 channels"),
    ],
)
def test_channels(shape, expected, said):
    images = np.random.default_rng(0).normal(size=(5, *shape))
    data = Dataset.from_array(images, source="x.npy")
    assert data.shape == expected
    assert len(data.notes) == (said is not None)
    if said is not None:
        assert said in data.notes[0]
        assert "'x.npy' has examples of shape" in data.notes[0]
        assert "(--channels " in data.notes[0]
    moved = images if expected == shape else np.moveaxis(images, 1, -1)
    np.testing.assert_array_equal(data.points.reshape(moved.shape), moved)
    for channels, as_asked in (("last", images), ("first", np.moveaxis(images, 1, -1))):
        data = Dataset.from_array(images, channels=channels)
        assert (data.shape, data.notes) == (as_asked.shape[1:], ())
        np.testing.assert_array_equal(data.points.reshape(as_asked.shape), as_asked)


@hypothesis.given(
    st.sampled_from([2, 4, 16, 17, 64, 256]),
    st.sampled_from([(1.0, 0.0), (None, 0.0), (None, -1.0)]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**16),
)
def test_levels_come_back(levels, scaling, dtype, seed):
    whole = np.random.default_rng(seed).integers(0, levels, size=(4, 4, 4))
    whole[0, 0, :2] = 0, levels - 1
    scale, shift = scaling
    scale = (1 - shift) / (levels - 1) if scale is None else scale
    images = (whole * scale + shift).astype(dtype)
    data = Dataset.from_array(images, levels=levels)
    np.testing.assert_array_equal(data.points.reshape(whole.shape), whole)
    assert len(Dataset.from_array(images).notes) == 1


@pytest.mark.slow(reason="a whole study")
def test_options_reach_the_file(tmp_path):
    path = tmp_path / "x.npy"
    images = np.random.default_rng(0).integers(0, 256, size=(20, 3, 4, 5)) / 255
    np.save(path, images)
    assert len(load(path).notes) == 2
    data = load(path, levels=256, channels="first")
    assert (data.shape, data.levels, len(data.notes)) == ((4, 5, 3), 256, 1)
    data = prepare_data(path, DataOptions(levels=256, channels="last"))
    assert (data.dataset.shape, data.dequantised) == ((3, 4, 5), True)
    data = prepare_data(path, DataOptions())
    assert data_text(data).count("; note: ") == 2
    with pytest.raises(ValueError, match="`levels` must be None for data whose levels are known"):
        load("digits", levels=17)
