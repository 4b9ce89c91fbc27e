"""Folders of PNG images."""

import numpy as np
import pytest

from entropix.datasets import load
from tests.datasets.helpers import BYTES, refused, save_png


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_folder(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, size=(3, *shape), dtype=np.uint8)
    for i in (2, 0, 1):
        save_png(tmp_path / "set" / f"{i}.{'PNG' if i else 'png'}", images[i])
    (tmp_path / "set" / "README.txt").write_text("not an image")
    (tmp_path / "set" / "._0.png").write_text("not an image")
    data = load(tmp_path / "set")
    assert (data.kind, data.shape, data.levels, data.labels) == ("image", shape, 256, None)
    assert data.name == "set"
    np.testing.assert_array_equal(data.points.reshape(images.shape), images)


def test_folder_with_labels(tmp_path):
    for label, image in zip(["b", "a", "a"], BYTES, strict=False):
        save_png(tmp_path / label / f"{image[0, 0]}.png", image)
    (tmp_path / "empty").mkdir()
    data = load(tmp_path)
    assert data.labels.tolist() == ["a", "a", "b"]
    np.testing.assert_array_equal(data.points[2], BYTES[0].ravel())
    save_png(tmp_path / "x.png", BYTES[0])
    refused(tmp_path, "either in itself or in subfolders, got 1 and 3")


def test_modes_of_png(tmp_path):
    black_and_white = np.where(BYTES > 127, 255, 0).astype(np.uint8)
    rgb = np.stack([BYTES] * 3, axis=-1)
    alpha = np.full_like(BYTES[..., None], 255)
    for i in range(2):
        save_png(tmp_path / "bw" / f"{i}.png", black_and_white[i], mode="1")
        save_png(tmp_path / "palette" / f"{i}.png", black_and_white[i], mode="P")
        save_png(tmp_path / "la" / f"{i}.png", np.concatenate([BYTES[..., None], alpha], -1)[i])
        save_png(tmp_path / "rgba" / f"{i}.png", np.concatenate([rgb, alpha], -1)[i])
        save_png(tmp_path / "glass" / f"{i}.png", np.concatenate([rgb, alpha - 1], -1)[i])
        save_png(tmp_path / "deep" / f"{i}.png", BYTES[i].astype(np.uint16) * 257)

    def pixels(folder):
        data = load(tmp_path / folder)
        return data.points.reshape(2, *data.shape)

    np.testing.assert_array_equal(pixels("bw"), black_and_white[:2])
    np.testing.assert_array_equal(pixels("palette"), np.stack([black_and_white[:2]] * 3, -1))
    np.testing.assert_array_equal(pixels("la"), BYTES[:2])
    np.testing.assert_array_equal(pixels("rgba"), rgb[:2])
    refused(tmp_path / "glass", "glass.0.png' must be opaque, got transparent pixels")
    refused(tmp_path / "deep", "deep.0.png' must have 8 bits per channel, got the mode I;16")


def test_folder_refusals(tmp_path):
    refused(tmp_path, "must hold PNG files, in itself or in one subfolder per label, got none")
    save_png(tmp_path / "0.png", BYTES[0])
    refused(tmp_path, "at least two samples, got 1")
    save_png(tmp_path / "1.png", BYTES[1].T)
    refused(tmp_path, r"1.png' must have the shape \(4, 3\) of .*0.png', got \(3, 4\)")
    save_png(tmp_path / "1.png", np.stack([BYTES[1]] * 3, -1))
    refused(tmp_path, r"1.png' must have the shape \(4, 3\) of .*0.png', got \(4, 3, 3\)")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:50])
    refused(tmp_path, "1.png' must be a PNG image, got one that cannot be read")
    (tmp_path / "1.png").write_bytes(b"")
    refused(tmp_path, "1.png' must be a PNG image, got one that cannot be read")
