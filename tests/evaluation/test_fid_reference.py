"""References of one's own: files of statistics, folders of images, batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.images import build_test_transform
from evaluation.fid import save_statistics
from evaluation.fid_reference import find_images, folder_batches, reference_from
from evaluation.frechet import Statistics
from evaluation.kid import FeatureReservoir
from i2sb.errors import UserError
from i2sb.pixels import nearest_uint8

INTEROP = Path(__file__).parents[1] / "interop" / "images" / "val"


def colours(images):
    """[B, 3, S, S] -> [B, 3]"""
    return images.float().mean(dim=(2, 3))


def save(path, size=(40, 30), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Seven images of several kinds, nested, among what is none."""
    root = tmp_path / "photos"
    save(root / "b.jpg")
    save(root / "a" / "2.PNG", (30, 50), "L", seed=1)
    save(root / "a" / "10.png", (64, 64), "P", seed=2)
    save(root / "a" / "deep" / "er" / "x.webp", (33, 80), seed=3)
    save(root / "a" / "cmyk.jpeg", (100, 35), "CMYK", seed=4)
    save(root / "z" / "alpha.png", (50, 50), "RGBA", seed=5)
    save(root / "z" / "tiny.png", (5, 9), seed=6)
    save(root / ".hidden" / "h.png")
    (root / "z" / "._tiny.png").write_bytes(b"of a Mac")
    (root / "readme.txt").write_text("no image")
    return root


NAMES = ["a/10.png", "a/2.PNG", "a/cmyk.jpeg", "a/deep/er/x.webp", "b.jpg", "z/alpha.png", "z/tiny.png"]


def test_finds_images_sorted(folder):
    assert [path.relative_to(folder).as_posix() for path in find_images(folder)] == NAMES


def test_links_that_go_round_end(folder, tmp_path):
    (folder / "a" / "round").symlink_to(folder)
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere / "e.png")
    (folder / "linked").symlink_to(elsewhere)
    names = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert names == sorted([*NAMES, "linked/e.png"])
    (tmp_path / "link").symlink_to(folder)
    assert len(find_images(tmp_path / "link")) == 8


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_pixels_are_those_of_the_data_sets(folder, batch_size):
    batches = list(folder_batches(folder, 32, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    images = torch.cat(batches)
    assert images.dtype == torch.uint8
    assert images.shape == (7, 3, 32, 32)
    for name, image in zip(NAMES, images):
        with Image.open(folder / name) as source:
            expected = build_test_transform(32)(source.convert("RGB"))
        torch.testing.assert_close(image, nearest_uint8(expected), rtol=0, atol=0)


def test_statistics_and_sample_of_a_folder():
    reservoir, seen = FeatureReservoir(1000), []
    statistics = reference_from(INTEROP, colours, 16, 5, reservoir, seen.append)
    pixels = torch.cat(list(folder_batches(str(INTEROP), 16)))
    features = colours(pixels).double().numpy()
    assert statistics.num_images == sum(seen) == len(pixels) == reservoir.num_images > 20
    np.testing.assert_allclose(statistics.mu, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.sigma, np.cov(features, rowvar=False), rtol=1e-5)
    np.testing.assert_allclose(reservoir.features, features, rtol=1e-5)
    from_batches = reference_from(iter(pixels.split(4)), colours, 16)
    np.testing.assert_allclose(from_batches.sigma, statistics.sigma, rtol=1e-6)


def test_a_file_of_statistics(tmp_path):
    path = tmp_path / "mine.npz"
    save_statistics(path, Statistics(np.arange(3.0), np.eye(3), 50))
    reservoir = FeatureReservoir(10)
    statistics = reference_from(str(path), colours, 16, reservoir=reservoir)
    assert statistics.mu.tolist() == [0, 1, 2]
    assert statistics.num_images == 50
    assert reservoir.num_images == 0

    class Wide(torch.nn.Module):
        num_features = 2048

    with pytest.raises(UserError, match=r"mine\.npz: has statistics of 3 features per image, the network gives 2048"):
        reference_from(path, Wide(), 16)


def refusal(reference):
    with pytest.raises(UserError) as caught:
        reference_from(reference, colours, 16)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refusals_name_the_path(tmp_path):
    assert f"{tmp_path / 'gone'}: there is no such file or folder" in refusal(tmp_path / "gone")
    photo = save(tmp_path / "one" / "photo.png")
    assert f"{photo}: is neither an .npz file" in refusal(photo)
    assert f"{photo.parent}: has 1 image files" in refusal(photo.parent)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut short")
    assert "bad.npz holds no FID statistics" in refusal(tmp_path / "bad.npz")


def test_images_that_cannot_be_read_are_named(folder):
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    assert f"{folder / 'b.jpg'}: the image cannot be read" in refusal(folder)
    (folder / "b.jpg").write_text("no image at all")
    assert f"{folder / 'b.jpg'}: is no image that Pillow knows" in refusal(folder)
