"""Crops of the photographs that come with scikit-image and scikit-learn."""

import argparse
import hashlib
import logging

import numpy as np
import pytest
from PIL import Image

from dataset.bundled import TRAIN, VAL, build_bundled_photos
from dataset.imagenet import build_lmdb_dataset, build_lmdb_dataset_val10k
from i2sb.errors import UserError

LOG = logging.getLogger("dataset")
SMALL = {"size": 32, "num_train": 60, "num_val": 5}


def digest(folder):
    files = sorted(path for path in folder.rglob("*.png"))
    pixels = [np.asarray(Image.open(path)).tobytes() for path in files]
    names = [path.relative_to(folder).as_posix().encode() for path in files]
    return hashlib.sha256(b"".join(names + pixels)).hexdigest()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return build_bundled_photos(tmp_path_factory.mktemp("photos") / "out", LOG, **SMALL)


def test_layout(photos):
    assert sorted(path.name for path in photos.iterdir()) == ["bundled.json", "train", "val"]
    assert {path.name for path in (photos / "train").iterdir()} == set(TRAIN)
    assert {path.name for path in (photos / "val").iterdir()} == set(VAL)
    assert len(list(photos.glob("train/*/*.png"))) == 60
    for name in VAL:
        crops = [Image.open(path) for path in (photos / "val" / name).iterdir()]
        assert {(crop.size, crop.mode) for crop in crops} == {((32, 32), "RGB")}
        assert len({crop.tobytes() for crop in crops}) == 5
    # Whole photographs are held out.
    assert not {source[:2] for source in TRAIN.values()} & {source[:2] for source in VAL.values()}


def test_the_same_pixels_every_time(photos, tmp_path):
    (tmp_path / ".again.partial" / "train" / "astronaut").mkdir(parents=True)  # left by a build that was killed
    (tmp_path / ".again.partial" / "train" / "astronaut" / "stray.png").touch()
    assert digest(build_bundled_photos(tmp_path / "again", LOG, **SMALL)) == digest(photos)
    other = build_bundled_photos(tmp_path / "other", LOG, **{**SMALL, "size": 48})
    assert digest(other) != digest(photos)
    assert {path.name for path in tmp_path.iterdir()} == {"again", "other"}


def test_other_folders_are_left_alone(photos, tmp_path):
    with pytest.raises(UserError, match="was cut with other settings"):
        build_bundled_photos(photos, LOG, **{**SMALL, "num_val": 6})
    (tmp_path / "thesis.txt").write_text("years of work")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(UserError, match="is not a folder of bundled photographs"):
            build_bundled_photos(path, LOG, **SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("wrong", [{"size": 8}, {"val_size": 1000}, {"num_train": 3}, {"num_val": 0}])
def test_senseless_settings(tmp_path, wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong.values()))}"):
        build_bundled_photos(tmp_path / "out", LOG, **{**SMALL, **wrong})


def test_it_is_an_ordinary_data_set_and_reused(photos):
    opt = argparse.Namespace(dataset_dir=photos, image_size=32)
    train, val = build_lmdb_dataset(opt, LOG, train=True), build_lmdb_dataset_val10k(opt, LOG)
    assert (len(train), len(val)) == (60, 5 * len(VAL))
    assert val.classes == sorted(VAL)
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    build_bundled_photos(photos, LOG, **SMALL)  # the LMDBs in it do not make it another folder
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before
