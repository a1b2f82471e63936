"""The data sets as training and evaluation see them."""

import argparse
import io
import logging
import shutil
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dataset.imagefolder_index import class_and_file, scan_image_folder, write_index
from dataset.imagenet import build_lmdb_dataset, build_lmdb_dataset_val10k
from dataset.images import WithChecksum, decode
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop"
LOG = logging.getLogger("dataset")


def options(dataset_dir=INTEROP / "dataset", image_size=64, **more):
    return argparse.Namespace(dataset_dir=Path(dataset_dir), image_size=image_size, **more)


@pytest.fixture
def folder(tmp_path):
    """A data set folder with images only: two training images, and the validation images of interop/."""
    shutil.copytree(INTEROP / "images" / "val", tmp_path / "d" / "val")
    (tmp_path / "d" / "train" / "things").mkdir(parents=True)
    for seed, size in enumerate([(100, 70), (70, 100)]):
        Image.effect_noise(size, 50 + seed).convert("RGB").save(tmp_path / "d/train/things" / f"{seed}.png")
    return tmp_path / "d"


def by_hand(image, size):
    """Resize and crop with Pillow and numpy alone; shorter side to `size`, the longer one rounded down."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((size * width // short, size * height // short), Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return torch.from_numpy(pixels * 2 - 1).permute(2, 0, 1)


def test_the_originals_files():
    dataset = build_lmdb_dataset(options(), LOG, train=False)
    assert len(dataset) == 24
    assert dataset.classes == ["n01440764", "n01443537", "n01484850"]
    assert dataset.samples is dataset.imgs
    assert dataset.targets == 8 * [0] + 8 * [1] + 8 * [2]
    for index, (path, label) in enumerate(dataset.samples):
        with Image.open(INTEROP / "images" / "val" / class_and_file(path)) as image:
            expected = by_hand(image.convert("RGB"), 64)
        found, found_label = dataset[index]
        assert found_label == label
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert len(build_lmdb_dataset(options(), LOG, train=True)) == 24


@pytest.mark.parametrize("size", [16, 64, 65, 200])
def test_image_size(size):
    image, _ = build_lmdb_dataset(options(image_size=size), LOG, train=False)[3]
    assert image.shape == (3, size, size)
    assert image.min() >= -1
    assert image.max() <= 1


def test_training_flips_half_of_the_images_by_the_global_seed():
    train = build_lmdb_dataset(options(), LOG, train=True)
    plain = build_lmdb_dataset(options(), LOG, train=True, transform=lambda image: by_hand(image, 64))
    torch.manual_seed(3)
    seen = [train[0][0] for _ in range(60)]
    image = plain[0][0]
    same = sum(torch.allclose(item, image, atol=1e-6) for item in seen)
    flipped = sum(torch.allclose(item, image.flip(-1), atol=1e-6) for item in seen)
    assert same + flipped == 60
    assert 15 < flipped < 45
    torch.manual_seed(3)
    assert all(torch.equal(item, train[0][0]) for item in seen)


def test_built_at_first_call_and_reused(folder, caplog):
    caplog.set_level(logging.INFO)
    ours = build_lmdb_dataset(options(folder), LOG, train=False)
    theirs = build_lmdb_dataset(options(), LOG, train=False)
    assert "Building" in caplog.text
    assert [class_and_file(path) for path, _ in ours.samples] == [
        class_and_file(path) for path, _ in theirs.samples
    ]
    assert all(torch.equal(ours[i][0], theirs[i][0]) for i in range(24))
    assert len(build_lmdb_dataset(options(folder), LOG, train=True)) == 2
    caplog.clear()
    shutil.rmtree(folder / "val")
    again = build_lmdb_dataset(options(folder), LOG, train=False)
    assert "Building" not in caplog.text
    assert again.samples == ours.samples


def test_the_data_set_may_move(folder, tmp_path):
    build_lmdb_dataset(options(folder), LOG, train=False)
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(moved / "val")
    assert len([*build_lmdb_dataset(options(moved), LOG, train=False)]) == 24


@pytest.mark.parametrize("prefix", ["/imagenet/val/", "E:\\data\\val\\"])
def test_an_index_of_other_paths_than_the_keys(tmp_path, prefix):
    shutil.copytree(INTEROP / "dataset", tmp_path / "d")
    index = scan_image_folder(INTEROP / "images" / "val")
    name = str if "/" in prefix else (lambda path: path.replace("/", "\\"))
    index.samples = [(prefix + name(class_and_file(path)), label) for path, label in index.samples]
    write_index(index, tmp_path / "d" / "val_faster_imagefolder.lmdb.pt")
    ours = build_lmdb_dataset(options(tmp_path / "d"), LOG, train=False)
    theirs = build_lmdb_dataset(options(), LOG, train=False)
    assert all(torch.equal(ours[i][0], theirs[i][0]) for i in range(24))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_images_of_all_modes_are_rgb(mode):
    image = Image.effect_noise((20, 30), 80).convert("RGB").convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode(buffer.getvalue())
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_unreadable_image_is_named_in_one_line(folder, num_workers):
    whole = (folder / "val" / "n01443537" / "ILSVRC_00000010.JPEG").read_bytes()
    (folder / "val" / "n01443537" / "ILSVRC_00000010.JPEG").write_bytes(whole[: len(whole) // 2])
    dataset = build_lmdb_dataset(options(folder), LOG, train=False)
    with pytest.raises(UserError, match=r"ILSVRC_00000010\.JPEG: .*truncated") as caught:
        list(DataLoader(dataset, 8, num_workers=num_workers))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}/val_faster_imagefolder.lmdb: cannot decode the image")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        ([], r"has neither val_faster_imagefolder\.lmdb \(with its \.pt\) nor image folders val/CLASS/"),
        (["val/"], r"val: holds no folders"),
        (["val/1.png"], r"val: holds 1 images directly; images belong into val/CLASS/"),
        (["val/a/"], r"val: its 1 class folders hold no images"),
        (["val_faster_imagefolder.lmdb/"], r"val_faster_imagefolder\.lmdb\.pt: there is no such file"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, make, text):
    for name in make:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    with pytest.raises(UserError, match=text) as caught:
        build_lmdb_dataset(options(tmp_path), LOG, train=False)
    assert "\n" not in str(caught.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match=r"--dataset-dir .*none: there is no such folder"):
        build_lmdb_dataset(options(tmp_path / "none"), LOG, train=True)


def test_a_half_built_lmdb_of_another_program_is_not_taken_for_whole(tmp_path):
    shutil.copy(INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt", tmp_path)
    environment = lmdb.open(str(tmp_path / "val_faster_imagefolder.lmdb"))
    with environment.begin(write=True) as transaction:
        transaction.put(b"/dataset/val/n01440764/ILSVRC_00000000.JPEG", b"x")
    environment.close()
    with pytest.raises(UserError, match=r"holds 1 of the 24 images of its index"):
        build_lmdb_dataset(options(tmp_path), LOG, train=False)


# --- the 10k subset


def test_the_published_list_is_taken_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    lines = (INTEROP / "val10k_fn.txt").read_text().split()
    chosen = [lines[20], lines[0], lines[9]]
    Path("data/val_faster_imagefolder_10k_fn.txt").write_text("\n".join(chosen) + "\n")
    dataset = build_lmdb_dataset_val10k(options(), LOG)
    assert [path for path, _ in dataset.samples] == chosen
    assert dataset.targets == [2, 0, 1]
    whole = build_lmdb_dataset(options(), LOG, train=False)
    assert torch.equal(dataset[0][0], whole[20][0])


def test_the_originals_list():
    dataset = build_lmdb_dataset_val10k(options(val_list=INTEROP / "val10k_fn.txt"), LOG)
    assert len(dataset) == 24


def test_it_is_fetched_only_when_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetched = []

    def fetch(remote, folder, log):
        fetched.append(remote.name)
        Path(folder).mkdir()
        return Path(shutil.copy(INTEROP / "val10k_fn.txt", Path(folder) / remote.name))

    monkeypatch.setattr("i2sb.fetch.fetch", fetch)
    build_lmdb_dataset_val10k(options(val_list=INTEROP / "val10k_fn.txt"), LOG)
    assert fetched == []
    assert len(build_lmdb_dataset_val10k(options(), LOG)) == 24
    build_lmdb_dataset_val10k(options(), LOG)
    assert fetched == ["val_faster_imagefolder_10k_fn.txt"]


def test_data_that_are_not_imagenet_are_judged_whole_and_nothing_is_fetched(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("i2sb.fetch.fetch", lambda *args, **kwargs: pytest.fail("fetched"))
    for number, path in enumerate(sorted((folder / "val").iterdir())):
        path.rename(folder / "val" / f"class_{number}")
    assert len(build_lmdb_dataset_val10k(options(folder), LOG)) == 24
    assert "evaluating on the whole validation set" in caplog.text


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (
            "n01440764/img_003.png\nn01440764/gone.png\nx/y.png\n",
            r"2 of the 3 .* not in .*: n01440764/gone\.png, x/y",
        ),
        ("n01440764/img_003.png\nimg_009.png\n", r"line 2 does not end in CLASS/FILE"),
        ("\n\n", r"is empty"),
        (None, r"cannot be read: No such file"),
        (b"\xff\xfe\xff", r"it is no text"),
    ],
)
def test_lists_that_do_not_fit_are_explained(tmp_path, lines, text):
    path = tmp_path / "list.txt"
    if lines is not None:
        path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(UserError, match=text) as caught:
        build_lmdb_dataset_val10k(options(val_list=path), LOG)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


# --- identity


def test_the_bytes_of_an_image_and_their_checksum():
    dataset = build_lmdb_dataset(options(), LOG, train=False)
    checked = WithChecksum(dataset)
    assert (len(checked), checked.classes, checked.samples) == (24, dataset.classes, dataset.samples)
    for index, (path, label) in enumerate(dataset.samples):
        content = (INTEROP / "images" / "val" / class_and_file(path)).read_bytes()
        assert dataset.read(index) == content
        image, found_label, checksum = checked[index]
        assert (found_label, checksum) == (label, zlib.crc32(content))
        assert torch.equal(image, dataset[index][0])


def test_the_fingerprint_is_of_names_labels_and_sizes(folder):
    theirs = build_lmdb_dataset(options(), LOG, train=False)
    ours = build_lmdb_dataset(options(folder), LOG, train=False)
    assert ours.fingerprint() == theirs.fingerprint()  # wherever the data set lies, whoever built it
    ours.samples = ours.samples[1:]
    assert ours.fingerprint() != theirs.fingerprint()
    shutil.rmtree(folder / "val_faster_imagefolder.lmdb")
    (folder / "val_faster_imagefolder.lmdb.pt").unlink()
    with next(folder.glob("val/*/*.png")).open("ab") as file:
        file.write(b"\0")
    assert build_lmdb_dataset(options(folder), LOG, train=False).fingerprint() != theirs.fingerprint()
