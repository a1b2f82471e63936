"""What FID and KID compare with: folders of images and files of statistics, through the names of the original too."""

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import noise

from dataset.splits import open_folder
from dataset.transforms import build_test_transform
from evaluation import fid_util, reference
from evaluation.fid import Features, load_statistics, save_statistics
from evaluation.reference import build_reference
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop" / "images" / "val"
LOG = logging.getLogger("test")


def colours(images):
    """A feature network small enough to check by hand: [B, 3, S, S] -> [B, 3]."""
    return images.float().mean(dim=(2, 3))


@pytest.fixture
def folder(tmp_path):
    """Images of several kinds, nested, beside other files."""
    root = tmp_path / "photos"
    noise(root / "b.jpg")
    noise(root / "a" / "2.PNG", (30, 50), "L", seed=1)
    noise(root / "a" / "10.png", (64, 64), "P", seed=2)
    noise(root / "a" / "deep" / "er" / "x.webp", (33, 80), seed=3)
    noise(root / "z" / "alpha.png", (50, 50), "RGBA", seed=5)
    noise(root / ".hidden" / "h.png")
    (root / "z" / "._tiny.png").write_bytes(b"of a Mac")
    (root / "readme.txt").write_text("no image")
    return root


NAMES = ["b.jpg", "a/10.png", "a/2.PNG", "a/deep/er/x.webp", "z/alpha.png"]


def test_images_of_a_folder_are_those_of_the_data_sets(folder):
    dataset = open_folder(folder, argparse.Namespace(), build_test_transform(32), LOG, classes=False)
    names = [Path(path).relative_to(folder).as_posix() for path, _ in dataset.samples]
    assert sorted(names) == sorted(NAMES)
    for name, (image, _) in zip(names, dataset):
        with Image.open(folder / name) as source:
            torch.testing.assert_close(image, build_test_transform(32)(source.convert("RGB")), rtol=0, atol=0)


def given(path, metrics=("fid",)):
    opt = argparse.Namespace(fid_ref=str(path), metrics=metrics, mode="clean", batch_size=4, num_workers=0)
    return build_reference(
        opt, argparse.Namespace(image_size=16, corrupt="jpeg-5", exif_rotate=False), False, colours, LOG
    )[0]


def test_a_given_reference(folder, tmp_path):
    save_statistics(tmp_path / "mine.npz", Features(np.arange(3.0), np.eye(3)))
    found = given(tmp_path / "mine.npz", ("fid", "kid"))
    assert (found.mu.tolist(), found.sample) == ([0, 1, 2], None)
    assert given(folder, ("fid", "kid")).sample.shape == (5, 3)
    np.testing.assert_array_equal(given(INTEROP.parent).mu, given(INTEROP).mu)  # a data set folder


def test_refusals_name_the_path(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    whole = (folder / "b.jpg").read_bytes()
    (folder / "a/b.jpg").write_bytes(whole[: len(whole) // 2])
    named = {tmp_path / "gone": "gone: is neither an npz file", folder / "b.jpg": "b.jpg: is neither an npz file"}
    named |= {tmp_path / "empty": "empty", folder: "a/b.jpg: "}
    for path, text in named.items():
        with pytest.raises(UserError, match=text) as caught:
            given(path)
        assert "\n" not in str(caught.value)


def test_names_of_the_original(tmp_path, monkeypatch):
    from cleanfid.fid import frechet_distance

    monkeypatch.setattr(fid_util, "build_inception", lambda mode, device: colours)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "val").symlink_to(INTEROP)
    opt = argparse.Namespace(mode="legacy_pytorch", split="val", image_size=16, dataset_dir=tmp_path / "set")
    mu, sigma = fid_util.compute_fid_ref_stat(opt, LOG)
    np.testing.assert_array_equal(load_statistics(tmp_path / "data/fid_imagenet_16_val.npz")[0].sigma, sigma)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    features = pixels.astype(np.float64).mean(axis=(1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clean-fid calls scipy's sqrtm in a way that SciPy deprecates
        expected = frechet_distance(features.mean(axis=0), np.cov(features, rowvar=False), mu, sigma)
    assert fid_util.compute_fid_from_numpy(pixels, mu, sigma, batch_size=7) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(reference, "FeatureSums", None)  # the file is read, nothing computed
    np.testing.assert_array_equal(fid_util.compute_fid_ref_stat(opt, LOG)[0], mu)
