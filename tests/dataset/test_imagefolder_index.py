"""The `.lmdb.pt` index: as the original writes it, as torchvision reads it, and never a program."""

import io
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from dataset.imagefolder_index import (
    ImageIndex,
    class_and_file,
    read_index,
    scan_image_folder,
    write_index,
)
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop"
ORIGINAL = INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt"
CLASSES = ["n01440764", "n01443537", "n01484850"]


def small_index(**changes):
    samples = [("/d/val/a/1.png", 0), ("/d/val/a/2.png", 0), ("/d/val/b/1.png", 1)]
    return ImageIndex(**{**vars(ImageIndex("/d/val", ["a", "b"], {"a": 0, "b": 1}, samples)), **changes})


def image_folder(**changes):
    folder = ImageFolder.__new__(ImageFolder)
    index = small_index()
    folder.__dict__.update(
        classes=index.classes, class_to_idx=index.class_to_idx, samples=index.samples, imgs=index.samples
    )
    folder.__dict__.update(changes)
    return folder


def test_originals_file_is_read():
    index = read_index(ORIGINAL)
    assert index.root == "/dataset/val"
    assert index.classes == CLASSES
    assert len(index.samples) == 24
    assert index.samples[0] == ("/dataset/val/n01440764/ILSVRC_00000000.JPEG", 0)
    assert index.samples[-1] == ("/dataset/val/n01484850/img_023.png", 2)


def test_ours_equals_the_originals_attribute_by_attribute(tmp_path):
    path = tmp_path / "ours.lmdb.pt"
    write_index(read_index(ORIGINAL), path)
    original = torch.load(ORIGINAL, weights_only=False)  # a file of our own, known to be harmless
    with torch.serialization.safe_globals([ImageFolder]):
        ours = torch.load(path, weights_only=True)
    assert type(ours) is ImageFolder
    assert list(vars(ours)) == list(vars(original))
    assert vars(ours) == vars(original)
    assert ours.samples is ours.imgs


def test_scan_orders_as_torchvision_does():
    root = INTEROP / "images" / "val"
    theirs, ours = ImageFolder(root), scan_image_folder(root)
    assert ours.classes == theirs.classes
    assert ours.class_to_idx == theirs.class_to_idx
    assert ours.samples == theirs.samples
    assert [class_and_file(path) for path, _ in ours.samples] == [
        class_and_file(path) for path, _ in read_index(ORIGINAL).samples
    ]


def test_scan_of_nested_hidden_and_empty_folders(tmp_path):
    for name in ("b/deep/z.PNG", "b/a.jpg", "b/notes.txt", ".hidden/x.png", "c/only.txt", "d/y.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = scan_image_folder(tmp_path)
    assert index.classes == ["b", "c", "d"]  # a class without images keeps its number
    assert [(Path(path).relative_to(tmp_path).as_posix(), label) for path, label in index.samples] == [
        ("b/a.jpg", 0),
        ("b/deep/z.PNG", 0),
        ("d/y.webp", 2),
    ]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (None, "there is no such folder"),
        ([], "holds no folders"),
        (["1.png", "2.png"], r"holds 2 images directly; images belong into train/CLASS/"),
        (["a/readme.txt"], "its 1 class folders hold no images"),
    ],
)
def test_folders_without_images_are_explained(tmp_path, files, text):
    root = tmp_path / "train"
    for name in files or []:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if files == []:
        root.mkdir()
    with pytest.raises(UserError, match=text) as caught:
        scan_image_folder(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/imagenet/val/n01440764/x.JPEG", "n01440764/x.JPEG"),
        ("n01440764/x.JPEG", "n01440764/x.JPEG"),
        ("D:\\data\\val\\n01440764\\x.JPEG", "n01440764/x.JPEG"),
        ("x.JPEG", "/x.JPEG"),
    ],
)
def test_class_and_file(path, expected):
    assert class_and_file(path) == expected


def test_names_that_are_no_utf8_survive(tmp_path):
    odd = os.fsdecode(b"/d/val/a/\xff.png")
    index = small_index(samples=[(odd, 0)])
    write_index(index, tmp_path / "x.lmdb.pt")
    assert read_index(tmp_path / "x.lmdb.pt").samples == [(odd, 0)]


def test_an_imagefolder_saved_by_torchvisions_own_means(tmp_path):
    """It names its loader, and its root as a path: read as names, nothing is called."""
    for root in (INTEROP / "images" / "val", str(INTEROP / "images" / "val")):
        torch.save(ImageFolder(root), tmp_path / "x.pt", pickle_protocol=4)
        index = read_index(tmp_path / "x.pt")
        assert index.classes == CLASSES
        assert len(index.samples) == 24


class _Touch:
    """A pickle that makes a file when it is opened in the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _hostile(kind, trap):
    folder = image_folder()
    if kind == "bare":
        return _Touch(trap)
    if kind == "as attribute":
        folder.loader = _Touch(trap)
    if kind == "among the samples":
        folder.samples = [("a/1.png", 0), _Touch(trap)]
    return folder


@pytest.mark.parametrize("kind", ["bare", "as attribute", "among the samples"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_file_is_executed(tmp_path, kind, protocol):
    trap, path = tmp_path / "trap", tmp_path / "x.lmdb.pt"
    torch.save(_hostile(kind, trap), path, pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"x\.lmdb\.pt: refused: .*mkdir") as caught:
        read_index(path)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_an_allowed_class_cannot_be_called_with_arguments_that_do_something(tmp_path):
    class Scan:
        def __reduce__(self):
            return ImageFolder, (str(tmp_path),)

    torch.save(Scan(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="refused"):
        read_index(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": []},
        {"samples": "abc"},
        {"samples": [("a/1.png", 0), "b/1.png"]},
        {"samples": [("a/1.png", 0, 1)]},
        {"samples": [["a/1.png", 0]]},
        {"samples": [("a/1.png", 2)]},
        {"samples": [("a/1.png", -1)]},
        {"samples": [("a/1.png", True)]},
        {"samples": [("a/1.png", "0")]},
        {"samples": [(b"a/1.png", 0)]},
        {"samples": [("", 0)]},
        {"samples": [("a/\0.png", 0)]},
        {"samples": [("a/\ud800.png", 0)]},
        {"classes": []},
        {"classes": ["a", "a"]},
        {"classes": ["a", 1]},
        {"classes": None},
        {"class_to_idx": {"a": 1, "b": 0}},
        {"class_to_idx": {"a": 0}},
        {"class_to_idx": [0, 1]},
        {"root": 7},
        {"extensions": [".png"]},
        {"extensions": (1,)},
    ],
    ids=ascii,
)
def test_odd_attributes_are_refused(tmp_path, changes):
    torch.save(image_folder(**changes), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: refused: ") as caught:
        read_index(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


def _rezipped(compression):
    buffer = io.BytesIO()
    with zipfile.ZipFile(ORIGINAL) as source, zipfile.ZipFile(buffer, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04N.",
        b"<html>not found</html>",
        ORIGINAL.read_bytes()[:1500],
        pickle.dumps({"samples": []}),
        _rezipped(zipfile.ZIP_DEFLATED),
    ],
    ids=["empty", "pickle", "page", "cut", "dict", "compressed"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.lmdb.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.lmdb\.pt: refused: ") as caught:
        read_index(path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"x\.lmdb\.pt: there is no such file"):
        read_index(tmp_path / "x.lmdb.pt")


def test_a_thousand_damaged_files_are_read_or_refused(tmp_path):
    """Flipped, cut and doubled bytes: never another exception than UserError."""
    generator = random.Random(0)
    whole, path = ORIGINAL.read_bytes(), tmp_path / "x.lmdb.pt"
    with zipfile.ZipFile(ORIGINAL) as archive:
        inner = archive.read("val_faster_imagefolder.lmdb/data.pkl")
    messages = []
    for round_ in range(1000):
        data = bytearray(inner if round_ % 2 else whole)
        for _ in range(generator.randint(1, 4)):
            where = generator.randrange(len(data))
            kind = generator.randrange(3)
            if kind == 0:
                data[where] = generator.randrange(256)
            elif kind == 1:
                del data[where : where + generator.randint(1, 50)]
            else:
                data[where:where] = data[where : where + generator.randint(1, 50)]
            if not data:
                break
        if round_ % 2:  # damage below the checksum
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", bytes(data))
        else:
            path.write_bytes(data)
        try:
            read_index(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 300
    assert not any("\n" in message for message in messages)


def test_an_index_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_index(small_index(), tmp_path / "file" / "x.pt")
    shutil.rmtree(tmp_path / "file", ignore_errors=True)
