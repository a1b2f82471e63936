"""The scanner of image folders."""

import logging
import os
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from dataset.folder import scan
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop"


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def relative(root, samples):
    return [(Path(path).relative_to(root).as_posix(), label) for path, label in samples]


def found(root, log=None):
    """{class: its files} of a scan with classes."""
    samples, classes = scan(root, classes=True, log=log)
    return {name: [path for path, label in relative(root, samples) if label == i] for i, name in enumerate(classes)}


def test_the_order_is_torchvisions():
    root = INTEROP / "images" / "val"
    samples, classes = scan(root, classes=True)
    assert (samples, classes) == (ImageFolder(root).samples, ImageFolder(root).classes)


def test_nested_hidden_and_empty_folders(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make(tmp_path, "b/deep/z.PNG", "b/a.jpg", "b/notes.txt", "c/only.txt", "d/y.webp", "loose.png")
    make(tmp_path, ".hidden/x.png", "__MACOSX/b/._a.jpg", "b/._a.jpg", "b/.ipynb_checkpoints/a-checkpoint.jpg", "b/no")
    assert found(tmp_path, logging.getLogger()) == {"b": ["b/a.jpg", "b/deep/z.PNG"], "c": [], "d": ["d/y.webp"]}
    assert len(caplog.messages) == 1
    assert "8 files left out: 2 .txt, 4 hidden, 1 outside class folders, 1 without suffix" in caplog.text


def test_without_classes(tmp_path):
    make(tmp_path, "2.png", "a/1.png", "a/.x.png", "b/c/3.gif")
    samples, classes = scan(tmp_path, classes=False)
    assert (relative(tmp_path, samples), classes) == ([("2.png", 0), ("a/1.png", 0), ("b/c/3.gif", 0)], [tmp_path.name])


def test_suffixes_are_those_that_pillow_reads(tmp_path):
    suffixes = [".jfif", ".gif", ".jp2", ".tga", ".webp", ".tif", ".JPEG", ".bmp", ".pgm"]
    suffixes += [suffix for suffix in (".avif",) if suffix in Image.registered_extensions()]
    make(tmp_path, *(f"a/1{suffix}" for suffix in [*suffixes, ".eps", ".mpg", ".h5"]))
    assert found(tmp_path) == {"a": sorted(f"a/1{suffix}" for suffix in suffixes)}


def test_links_to_files_and_folders_are_followed(tmp_path):
    make(tmp_path / "cache", "x1.png", "cat/1.png", "cat/2.png")
    (tmp_path / "train" / "dog").mkdir(parents=True)
    (tmp_path / "train" / "dog" / "9.png").symlink_to(tmp_path / "cache" / "x1.png")
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "cache" / "cat")
    assert found(tmp_path / "train") == {"cat": ["cat/1.png", "cat/2.png"], "dog": ["dog/9.png"]}


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../..", "../b"])
def test_links_that_lead_back_are_not_followed_for_ever(tmp_path, target):
    root = make(tmp_path / "d" / "train", "a/1.png", "a/2.png", "b/3.png")
    make(tmp_path / "d", "val/a/4.png")
    (root / "a" / "loop").symlink_to(target)
    (root / "b" / "loop").symlink_to(".")
    (root / "above").symlink_to("..")  # no class
    expected = ["a/1.png", "a/2.png", *(["a/loop/3.png"] if target == "../b" else [])]
    assert found(root) == {"a": expected, "b": ["b/3.png"]}
    assert len(scan(root, classes=False)[0]) == 3


@pytest.mark.parametrize("name", ["a/2.png", "lost_class"])
def test_a_broken_link_is_an_error(tmp_path, name):
    make(tmp_path, "a/1.png")
    (tmp_path / name).symlink_to("/none/such")
    with pytest.raises(UserError, match=rf"{name}: a broken link: remove or repair it"):
        found(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    make(tmp_path, "a/1.png", "b/1.png")
    listing = os.scandir

    def scandir(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read every folder
    with pytest.raises(UserError, match=r"b: the folder cannot be read: Permission denied"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "there is no such folder"),
        (["1.png", "2.png"], r"no images in its 0 class folders \(train/CLASS/\), and 2 outside of them"),
        (["readme.txt"], r"train: no images \("),
        (["a/readme.txt"], r"no images in its 1 class folders \(train/CLASS/\)"),
    ],
)
def test_folders_without_images_are_explained(tmp_path, files, text):
    with pytest.raises(UserError, match=text) as caught:
        found(make(tmp_path / "train", *files))
    assert "\n" not in str(caught.value)
