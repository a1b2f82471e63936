"""The data sets as training and evaluation see them."""

import argparse
import logging
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dataset.imagenet import InpaintingVal10kSubset, build_lmdb_dataset, build_lmdb_dataset_val10k, readlines
from dataset.index import read_index, write_index
from dataset.names import class_and_file
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


def test_built_at_first_call_and_reused(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    ours = build_lmdb_dataset(options(folder), LOG, train=False)
    theirs = build_lmdb_dataset(options(), LOG, train=False)
    assert "Building" in caplog.text
    assert [class_and_file(path) for path, _ in ours.samples] == [class_and_file(path) for path, _ in theirs.samples]
    assert all(torch.equal(ours[i][0], theirs[i][0]) for i in range(24))
    assert len(build_lmdb_dataset(options(folder), LOG, train=True)) == 2
    caplog.clear()
    shutil.rmtree(folder / "val")
    moved = folder.rename(tmp_path / "moved")
    again = build_lmdb_dataset(options(moved), LOG, train=False)
    assert "Building" not in caplog.text
    assert again.samples == ours.samples
    assert torch.equal(again[5][0], theirs[5][0])


@pytest.mark.parametrize("prefix", ["/imagenet/val/", "E:\\data\\val\\"])
def test_an_index_of_other_paths_than_the_keys(tmp_path, prefix):
    shutil.copytree(INTEROP / "dataset", tmp_path / "d")
    index = read_index(INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt")
    name = str if "/" in prefix else (lambda path: path.replace("/", "\\"))
    index.samples = [(prefix + name(class_and_file(path)), label) for path, label in index.samples]
    index.root = ""
    write_index(index, tmp_path / "d" / "val_faster_imagefolder.lmdb.pt")
    opt = options(tmp_path / "d", val_list=INTEROP / "val10k_fn.txt")
    ours, theirs = build_lmdb_dataset_val10k(opt, LOG), build_lmdb_dataset(options(), LOG, train=False)
    assert all(torch.equal(ours[i][0], theirs[i][0]) for i in range(24))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_unreadable_image_is_named_in_one_line(tmp_path, num_workers):
    shutil.copytree(INTEROP / "dataset", tmp_path / "d")
    target, key = tmp_path / "d" / "val_faster_imagefolder.lmdb", b"/dataset/val/n01443537/ILSVRC_00000010.JPEG"
    with lmdb.open(str(target)) as environment, environment.begin(write=True) as transaction:
        transaction.put(key, transaction.get(key)[:-600])
    dataset = build_lmdb_dataset(options(tmp_path / "d"), LOG, train=False)
    with pytest.raises(UserError, match=r"ILSVRC_00000010\.JPEG: .*truncated.* rebuild the LMDB: rm -r ") as caught:
        list(DataLoader(dataset, 8, num_workers=num_workers))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{target}: cannot decode the image")


def test_a_folder_that_differs_from_its_lmdb_is_noticed(folder, caplog):
    build_lmdb_dataset(options(folder), LOG, train=False)
    caplog.clear()
    build_lmdb_dataset(options(folder), LOG, train=False)
    assert "rebuild it by" not in caplog.text
    (folder / "val" / "n01440764" / "img_003.png").rename(folder / "val" / "n01440764" / "new.png")
    with (folder / "val" / "n01440764" / "img_009.png").open("ab") as file:
        file.write(b"\0")
    build_lmdb_dataset(options(folder), LOG, train=False)
    (line,) = (line for line in caplog.messages if "rebuild it by" in line)
    assert "1 only in the folder, such as n01440764/new.png; 1 only in the LMDB, such as n01440764/img_003.png" in line
    assert "1 of all 24 have another size" in line
    assert f"python scripts/build_lmdb.py {folder}/val {folder}/val_faster_imagefolder.lmdb" in line


def test_exif_orientation_on_request(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = folder / "train" / "things" / "0.png"
    with Image.open(path) as image:
        image.save(path, exif=exif)
    plain = build_lmdb_dataset(options(folder), LOG, train=True, transform=np.asarray)[0][0]
    turned = build_lmdb_dataset(options(folder, exif_rotate=True), LOG, train=True, transform=np.asarray)[0][0]
    assert np.array_equal(turned, plain[::-1, ::-1])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        ([], r"has neither val_faster_imagefolder\.lmdb with its \.pt nor a folder val/ .*--eval-every 0"),
        (["val/1.txt"], r"val: no images \("),
        (["val_faster_imagefolder.lmdb/data.mdb"], r"has neither val_faster_imagefolder\.lmdb with its \.pt nor"),
        (None, r"--dataset-dir .*d: there is no such folder"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, make, text):
    for name in make or ():
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).touch()
    if make is not None:
        (tmp_path / "d").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=text) as caught:
        build_lmdb_dataset(options(tmp_path / "d"), LOG, train=False)
    assert "\n" not in str(caught.value)


def test_a_half_built_lmdb_of_another_program_is_not_taken_for_whole(tmp_path):
    shutil.copy(INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt", tmp_path)
    environment = lmdb.open(str(tmp_path / "val_faster_imagefolder.lmdb"))
    with environment.begin(write=True) as transaction:
        transaction.put(b"/dataset/val/n01440764/ILSVRC_00000000.JPEG", b"x")
    environment.close()
    with pytest.raises(UserError, match=r"holds 1 of the 24 images of its index"):
        build_lmdb_dataset(options(tmp_path), LOG, train=False)


# --- the 10k subset


@pytest.mark.parametrize("place", ["data", "dataset"])  # the second is where the original's clone has it
def test_the_published_list_is_taken_from_the_current_folder(place):
    Path(place).mkdir()
    lines = (INTEROP / "val10k_fn.txt").read_text().split()
    chosen = [lines[20], lines[0], lines[9]]
    Path(place, "val_faster_imagefolder_10k_fn.txt").write_text("\n".join(chosen) + "\n")
    dataset = build_lmdb_dataset_val10k(options(), LOG)
    assert [path for path, _ in dataset.samples] == chosen
    assert dataset.targets == [2, 0, 1]
    assert torch.equal(dataset[0][0], build_lmdb_dataset(options(), LOG, train=False)[20][0])


def test_it_is_fetched_only_when_needed(monkeypatch):
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
        ("n01440764/img_003.png\nn01440764/gone.png\nx/y.png\n", r"2 of the 3 .* not in .*: n01440764/gone\.png, x/y"),
        (
            "n01440764/img_003.png\nimg_009.png\n",
            r"1 of the 2 .* not in .*: /img_009\.png \(.* ends in CLASS/FILE .*, such as n01440764/ILSVRC_\d+\.JPEG\)",
        ),
        ("\n\n", r"is empty"),
        (None, r"cannot be read: No such file"),
    ],
)
def test_lists_that_do_not_fit_are_explained(tmp_path, lines, text):
    path = tmp_path / "list.txt"
    if lines is not None:
        path.write_text(lines)
    with pytest.raises(UserError, match=text) as caught:
        build_lmdb_dataset_val10k(options(val_list=path), LOG)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_list_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_text("n01440764/img_003.png\r\nn01484850/img_005.png\r\n", encoding="utf-8-sig")
    dataset = build_lmdb_dataset_val10k(options(val_list=tmp_path / "list.txt"), LOG)
    assert dataset.targets == [0, 2]
    assert readlines(tmp_path / "list.txt")[0] == "n01440764/img_003.png"


def test_twins_are_told_apart_by_the_folders_before_them(tmp_path):
    for number, name in enumerate(("a/x/1.png", "b/x/1.png")):
        (tmp_path / "d" / "val" / name).parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "d" / "val" / name)
    (tmp_path / "list.txt").write_text("/elsewhere/val/b/x/1.png\nval/a/x/1.png\n")
    opt = options(tmp_path / "d", val_list=tmp_path / "list.txt")
    assert build_lmdb_dataset_val10k(opt, LOG).targets == [1, 0]
    (tmp_path / "list.txt").write_text("x/1.png\n")
    with pytest.raises(UserError, match=r"list\.txt: x/1\.png may be .*: add the folders before it to the line"):
        build_lmdb_dataset_val10k(opt, LOG)


def test_inpainting_subset_of_the_originals_scripts(tmp_path):
    (tmp_path / "data").mkdir()
    rows = np.arange(256)[None, :, None] < 38 + np.arange(24)[:, None, None]  # 15 to 24 % of the image
    masks = np.broadcast_to(rows, (24, 256, 256)).astype(np.uint8)
    np.savez("data/imagenet_freeform1020_masks.npz", mask=masks[:12].repeat(2, axis=0))
    opt = options(val_list=INTEROP / "val10k_fn.txt")
    center = InpaintingVal10kSubset(opt, LOG, "center")
    image, _, mask = center[5]
    assert (len(center), mask.shape, mask.dtype, mask.sum()) == (24, (1, 64, 64), torch.uint8, 32 * 32)
    assert torch.equal(image, center.dataset[5][0])
    freeform = InpaintingVal10kSubset(opt, LOG, "freeform1020")
    assert torch.equal(freeform[9][2][0], torch.from_numpy(masks[4][::4, ::4]))
    assert freeform[9][1] == freeform.dataset[9][1] == center[9][1]


# --- identity


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
