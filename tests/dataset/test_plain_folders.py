"""Images that are read where they lie, crops, and the share that is held out for validation."""

import argparse
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import noise

from dataset.imagenet import build_lmdb_dataset
from dataset.images import WithChecksum
from dataset.open import open_dataset, open_evaluation
from dataset.transforms import build_test_transform, build_train_transform
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop"
LOG = logging.getLogger("dataset")


def options(dataset_dir, image_size=32, corrupt="jpeg-5", **more):
    return argparse.Namespace(dataset_dir=Path(dataset_dir), image_size=image_size, corrupt=corrupt, **more)


@pytest.fixture
def flat(tmp_path):
    """40 images in train/ and below it, and no val/."""
    for number in range(40):
        noise(tmp_path / "d/train" / ("more" if number % 4 == 0 else "") / f"{number}.png", seed=number)
    return tmp_path / "d"


def test_a_folder_and_its_lmdb_are_the_same_data_set(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    shutil.copytree(INTEROP / "images" / "val", tmp_path / "val")
    theirs = open_dataset(options(INTEROP / "dataset"), LOG, train=False)
    ours = open_dataset(options(tmp_path), LOG, train=False)
    assert [path.name for path in tmp_path.iterdir()] == ["val"]  # no copy was made
    assert ours.fingerprint() == theirs.fingerprint()
    assert (ours.classes, ours.targets, ours.has_labels) == (theirs.classes, theirs.targets, True)
    for index in (0, 13, 23):
        mine, other = (pickle.loads(pickle.dumps(WithChecksum(dataset)))[index] for dataset in (ours, theirs))
        assert torch.equal(mine[0][0], other[0][0])
        assert mine[1] == other[1]
    build_lmdb_dataset(options(tmp_path), LOG, train=False)
    (tmp_path / "val/n01440764/img_003.png").unlink()
    caplog.clear()
    assert len(open_dataset(options(tmp_path), LOG, train=False)) == 24  # the LMDB is preferred
    assert "differs from its LMDB (1 only in the LMDB" in caplog.text


def test_changed_files_change_the_identity_and_damaged_ones_are_named(flat):
    dataset = open_dataset(options(flat), LOG, train=True)
    before = dataset.fingerprint()
    with (flat / "train/7.png").open("ab") as file:
        file.write(b"\0")
    assert dataset.fingerprint() != before
    (flat / "train/7.png").write_bytes(b"no image")
    number = [path for path, _ in dataset.samples].index(str(flat / "train/7.png"))
    with pytest.raises(UserError, match=r"cannot decode the image .*/7\.png: .*; replace or remove it$"):
        dataset[number]
    (flat / "train/9.png").write_bytes(b"nor this")
    with pytest.raises(UserError, match=r"2 of 40 images cannot be used: .*/7.png .*--skip-unreadable 2"):
        open_dataset(options(flat, skip_unreadable=1), LOG, train=True)
    assert len(open_dataset(options(flat, skip_unreadable=2), LOG, train=True)) == 38


def test_without_classes_there_are_no_labels(flat):
    dataset = open_dataset(options(flat), LOG, train=True)
    assert (len(dataset), dataset.has_labels, set(dataset.targets)) == (40, False, {0})
    built = build_lmdb_dataset(options(flat), LOG, train=True)
    assert built.fingerprint() == dataset.fingerprint()


def test_a_stray_image_does_not_make_imagenet_a_folder_without_classes(tmp_path):
    shutil.copytree(INTEROP / "images" / "val", tmp_path / "val")
    noise(tmp_path / "val/contact_sheet.png")
    dataset = open_dataset(options(tmp_path), LOG, train=False)
    assert (len(dataset), len(dataset.classes)) == (24, 3)


def test_the_held_out_share_is_the_same_everywhere_and_never_overlaps(flat, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def names(folder, share=0.2, **more):
        opt = options(folder, val_split=share, **more)
        parts = open_dataset(opt, LOG, train=True), open_dataset(opt, LOG, train=False)
        return [{part.short_name(path) for path, _ in part.samples} for part in parts]

    left, held_out = names(flat)
    assert (len(left) + len(held_out), left & held_out) == (40, set())
    assert 3 <= len(held_out) <= 15
    assert f"--val-split 0.2: {len(held_out)} of 40 held out to validate" in caplog.text
    moved = shutil.copytree(flat, tmp_path / "elsewhere")
    noise(moved / "train/new.png")
    more_left, more_held_out = names(moved)
    assert left <= more_left  # new images do not move the others
    assert held_out <= more_held_out
    build_lmdb_dataset(options(flat), LOG, train=True)
    assert names(flat) == [left, held_out]
    assert len(names(flat, 1e-9)[1]) == 1
    with pytest.raises(UserError, match=r"--val-split 1\.0: holds all 40 images out"):
        names(flat, 1.0)
    opt = options(flat, val_split=0.2)
    assert {opened.short_name(p) for opened in [open_evaluation(opt, LOG)] for p, _ in opened.samples} == held_out
    with pytest.raises(UserError, match=r"nor a folder val/ of images \(--val-split 0.05 takes"):
        open_dataset(options(flat), LOG, train=False)
    shutil.copytree(flat / "train", flat / "val")
    assert len(open_dataset(opt, LOG, train=True)) == 40  # what is in val/ counts


@pytest.mark.parametrize("size", [16, (16, 24)])
def test_random_crops_are_windows_at_full_resolution(size):
    high, wide = size if isinstance(size, tuple) else (size, size)
    image = Image.fromarray(np.arange(60 * 50, dtype=np.uint16).view(np.uint8).reshape(50, 60, 2)[..., [0, 1, 1]])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    transform = build_train_transform(size, "random")
    torch.manual_seed(0)
    seen = set()
    for _ in range(50):
        window = transform(image)
        assert window.shape == (3, high, wide)
        found = [
            (top, left, flipped)
            for flipped, source in ((False, window), (True, window.flip(-1)))
            for top, left in (pixels.unfold(1, high, 1).unfold(2, wide, 1)[:, :, :, 0, 0] - source[:, :1, :1])
            .abs()
            .sum(0)
            .lt(1e-5)
            .nonzero()
            .tolist()
            if torch.allclose(pixels[:, top : top + high, left : left + wide], source, atol=1e-5)
        ]
        assert len(found) == 1
        seen |= {found[0]}
    assert len(seen) > 40
    torch.manual_seed(7)
    first = transform(image)
    torch.manual_seed(7)
    assert torch.equal(first, transform(image))
    enlarged = transform(image.resize((10, 50)))
    assert enlarged.shape == (3, high, wide)


def test_rectangles_are_covered_and_cut_in_the_middle():
    image = Image.new("RGB", (100, 40), "black")
    image.paste("white", (20, 0, 80, 40))
    found = build_test_transform((16, 24))(image)  # resized to 40 x 16; columns 8 to 32 of it are white
    assert found.shape == (3, 16, 24)
    assert found[:, :, 1:-1].min() == 1


def test_small_images_are_counted(flat, caplog):
    caplog.set_level(logging.INFO)
    open_dataset(options(flat, image_size=(48, 48), crop="random"), LOG, train=True)
    assert "40 of all 40 images are smaller than 48,48 px, and are enlarged" in caplog.text
    caplog.clear()
    open_dataset(options(flat, image_size=(48, 32)), LOG, train=True)
    assert "smaller" not in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_channels_say_how_files_are_decoded(tmp_path, channels):
    folder = tmp_path / "train"
    if channels == 5:
        bands = np.random.default_rng(0).integers(0, 65536, (40, 50, 5), dtype=np.uint16)
        import tifffile

        folder.mkdir()
        np.save(folder / "a.npy", bands)
        tifffile.imwrite(folder / "b.tif", bands.transpose(2, 0, 1))
        np.save(folder / "c.npy", bands[..., :4])
        noise(folder / "no_bands.png")
    else:
        noise(folder / "a.png", mode="RGBA")
    dataset = open_dataset(options(tmp_path, channels=channels), LOG, train=True)
    assert dataset[0][0].shape == (channels, 32, 32)
    if channels == 5:
        assert len(dataset) == 3
        exact = open_dataset(options(tmp_path, channels=5, image_size=(40, 50)), LOG, train=True)
        exact.transform = build_test_transform((40, 50))
        expected = torch.from_numpy(bands.astype(np.float32)).permute(2, 0, 1) / 32767.5 - 1
        torch.testing.assert_close(exact[0][0], expected)
        torch.testing.assert_close(exact[1][0], expected)
        with pytest.raises(UserError, match=r"c\.npy: it holds uint16 \[40, 50, 4\], not \[height, width, 5\]"):
            dataset[2]


@pytest.mark.parametrize(("name", "dtype", "is_deep"), [("a.png", "u1", 0), ("a.png", "u2", 1), ("a.npy", "u1", 0)])
def test_whether_scores_round_to_8_bits_is_read_from_the_first_image(tmp_path, name, dtype, is_deep):
    (tmp_path / "train").mkdir()
    pixels = np.zeros((40, 40), dtype)
    (np.save if name.endswith("npy") else lambda path, x: Image.fromarray(x).save(path))(
        tmp_path / "train" / name, pixels
    )
    dataset = open_dataset(options(tmp_path, channels=1), LOG, train=True)
    assert WithChecksum(dataset).is_deep == is_deep
    assert open_dataset(options(tmp_path, channels=1, value_range=[0, 9]), LOG, train=True).is_deep
    assert (dataset[0][0].shape, dataset[0][0].dtype) == ((1, 32, 32), torch.float32)
