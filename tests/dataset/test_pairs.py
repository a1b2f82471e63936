"""Pairs of degraded and clean images: layouts, what does not fit, identity."""

import argparse
import json
import logging
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import train_argv

import train
from dataset.build import build_lmdb
from dataset.images import WithChecksum
from dataset.open import open_dataset, open_evaluation
from i2sb.batch import unpack
from i2sb.errors import UserError
from i2sb.loader import SeededItems

LOG = logging.getLogger("dataset")


def options(dataset_dir=Path("/nowhere"), image_size=32, **more):
    return argparse.Namespace(dataset_dir=Path(dataset_dir), image_size=image_size, corrupt="paired", **more)


def pixels(seed, size=(40, 50)):
    return np.random.default_rng(seed).integers(0, 200, (size[1], size[0], 3), dtype=np.uint8)


def pair(degraded, clean, seed=0, size=(40, 50)):
    """Two files; the degraded image is 50 levels brighter."""
    for path, more in ((Path(degraded), 50), (Path(clean), 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed, size) + np.uint8(more)).save(path)


def side_by_side(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([pixels(seed) + np.uint8(50), pixels(seed)], axis=1)).save(path)


def check(dataset, count):
    """Clean images first, the degraded ones 50 levels brighter pixel by pixel."""
    assert (len(dataset), dataset.is_paired) == (count, True)
    for x0, x1, label in dataset:
        torch.testing.assert_close(x1 - x0, torch.full_like(x0, 100 / 255), atol=0.02, rtol=0)
        assert label == 0


FOLDERS = [
    ("trainA", "trainB", "valA", "valB"),
    ("train/A", "train/B", "val/A", "val/B"),
    ("train/lq", "train/gt", "val/lq", "val/gt"),
    ("source/train", "target/train", "source/val", "target/val"),
]


@pytest.mark.parametrize("names", FOLDERS)
def test_two_folders_of_each_split(tmp_path, names):
    for number in range(3):
        pair(tmp_path / names[0] / f"x/{number}.png", tmp_path / names[1] / f"x/{number}.png", number)
    pair(tmp_path / names[2] / "a.png", tmp_path / names[3] / "a.png", 9)
    check(open_dataset(options(tmp_path), LOG, train=True), 3)
    for opened in (open_dataset(options(tmp_path), LOG, train=False), open_evaluation(options(tmp_path), LOG)):
        check(opened, 1)
    assert opened.short_name(opened.samples[0][0]) == "a.png"


@pytest.mark.parametrize("way", ["A", "source", "lq", "by flags", "csv", "csv with header", "jsonl", "in a folder"])
def test_undivided_pairs(tmp_path, way):
    names = {"A": ("A", "B"), "source": ("source", "target"), "lq": ("lq", "gt")}.get(way, ("one", "other"))
    for number in range(20):
        pair(tmp_path / names[0] / f"{number}.png", tmp_path / names[1] / f"{number}.png", number)
    rows = [(f"one/{number}.png", f"{tmp_path}/other/{number}.png") for number in range(20)]
    opt = options(tmp_path)
    if way == "by flags":
        opt = options(source=tmp_path / "one", target=tmp_path / "other")
    elif "csv" in way:
        turned = [("clean", "degraded"), *(row[::-1] for row in rows)] if "header" in way else rows
        opt.dataset_dir = tmp_path / "list.csv"
        opt.dataset_dir.write_text("".join(f'"{a}", {b}\n' for a, b in turned))
    elif way in ("jsonl", "in a folder"):
        opt.dataset_dir = tmp_path / ("pairs.jsonl" if way == "in a folder" else "list.jsonl")
        opt.dataset_dir.write_text("".join(json.dumps({"source": a, "target": b}) + "\n\n" for a, b in rows))
        opt.dataset_dir = tmp_path if way == "in a folder" else opt.dataset_dir
    check(open_dataset(opt, LOG, train=True), 20)
    check(open_evaluation(opt, LOG), 20)
    with pytest.raises(UserError, match=r"has no pairs for validation: .*; --val-split 0.05 takes a share"):
        open_dataset(opt, LOG, train=False)
    opt.val_split = 0.2
    parts = [open_dataset(opt, LOG, train=True), open_dataset(opt, LOG, train=False)]
    names = [{path for path, _ in part.samples} for part in parts]
    assert (len(names[0]) + len(names[1]), names[0] & names[1]) == (20, set())
    check(parts[0], len(names[0]))
    assert [path for path, _ in open_evaluation(opt, LOG).samples] == [path for path, _ in parts[1].samples]


@pytest.mark.parametrize("lmdb", [False, True])
def test_halves_of_one_image(tmp_path, lmdb):
    for number in range(4):
        side_by_side(tmp_path / "train" / f"{number}.png", number)
    side_by_side(tmp_path / "val" / "0.png", 0)
    if lmdb:
        for split in ("train", "val"):
            build_lmdb(tmp_path / split, tmp_path / f"{split}_faster_imagefolder.lmdb", log=LOG)
            shutil.rmtree(tmp_path / split)
    opt = options(tmp_path, pair_layout="side-by-side")
    check(open_dataset(opt, LOG, train=True), 4)
    dataset = open_evaluation(opt, LOG)
    check(dataset, 1)
    turned = open_evaluation(options(tmp_path, pair_layout="side-by-side-reversed"), LOG)
    assert torch.equal(turned[0][0], dataset[0][1])
    assert turned.fingerprint() != dataset.fingerprint()
    assert WithChecksum(turned)[0][1] != WithChecksum(dataset)[0][1]


@pytest.mark.parametrize("crop", ["center", "random"])
def test_both_sides_are_cut_and_flipped_alike(tmp_path, crop):
    for number in range(4):
        pair(tmp_path / f"A/{number}.png", tmp_path / f"B/{number}.png", number, size=(300, 400))
    dataset = open_dataset(options(tmp_path, crop=crop), LOG, train=True)
    items = SeededItems(dataset, seed=0)
    for position in range(12):
        x0, x1, _ = items[position, position % 4]
        torch.testing.assert_close(x1 - x0, torch.full_like(x0, 100 / 255), atol=0.02, rtol=0)
    first = [items[position, 0][0] for position in range(12)]
    assert torch.equal(first[5], items[5, 0][0])
    assert len({image.numpy().tobytes() for image in first}) == (12 if crop == "random" else 2)


def test_what_does_not_fit_is_listed_with_names(tmp_path, caplog):
    for number in range(3):
        pair(tmp_path / f"A/{number}.png", tmp_path / f"B/{number}.jpg", number)
    pair(tmp_path / "A/alone.png", tmp_path / "B/lonely.png")
    Image.new("RGB", (41, 50)).save(tmp_path / "B/1.jpg")
    Image.new("L", (40, 50)).save(tmp_path / "A/2.png")
    Image.new("L", (40, 50)).save(tmp_path / "A/2.bmp")
    (tmp_path / "B/0.jpg").write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"6 images do not make pairs, all listed above: .*; remove or repair them"
    ) as caught:
        open_dataset(options(tmp_path), LOG, train=True)
    assert "\n" not in str(caught.value)
    for text in (
        r"A/2\.png: has the same name as .*A/2\.bmp",
        r"A/alone\.png: has no partner in .*/B",
        r"B/lonely\.png: has no partner in .*/A",
        r"B/0\.jpg: cannot be read: ",
        r"A/1\.png: is 40 x 50, .*B/1\.jpg is 41 x 50",
        r"A/2\.bmp: is L, .*B/2\.jpg is RGB \(--channels 3 converts both\)",
    ):
        assert any(re.search(text, line) for line in caplog.messages), text


def test_damaged_pairs_are_left_out_on_request(tmp_path, caplog):
    for number in range(3):
        pair(tmp_path / f"A/{number}.png", tmp_path / f"B/{number}.png", number)
    whole = (tmp_path / "A/1.png").read_bytes()
    (tmp_path / "A/1.png").write_bytes(whole[: len(whole) // 2])
    check(open_dataset(options(tmp_path, skip_unreadable=1), LOG, train=True), 2)
    assert re.search(r"A/1\.png: cannot be decoded", caplog.text)


def test_at_most_20_are_listed(tmp_path, caplog):
    pair(tmp_path / "A/0.png", tmp_path / "B/0.png")
    for number in range(1, 31):
        pair(tmp_path / f"A/{number}.png", tmp_path / f"elsewhere/{number}.png")
    with pytest.raises(UserError, match="30 images do not make pairs, the first 20 listed above"):
        open_dataset(options(tmp_path), LOG, train=True)
    assert len([line for line in caplog.messages if "has no partner" in line]) == 20


def test_training_does_not_start(tmp_path, capsys):
    pair("A/0.png", "B/0.png")
    pair("A/1.png", "elsewhere/1.png")
    assert train.main(train_argv(tmp_path, corrupt="paired")) == 2
    *_, listed, last = capsys.readouterr().err.strip().splitlines()
    assert "A/1.png: has no partner in" in listed
    assert last.startswith("train.py: error: ")
    assert not Path("results").exists() or not list(Path("results").iterdir())


def test_grey_images_are_pairs_of_coloured_ones_where_the_channels_are_named(tmp_path):
    pair(tmp_path / "A/0.png", tmp_path / "B/0.png")
    Image.new("L", (40, 50)).save(tmp_path / "A/0.png")
    x0, x1, _ = open_dataset(options(tmp_path, channels=3, given=("channels",)), LOG, train=True)[0]
    assert x0.shape == x1.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        ("one/0.png,other/0.png\none/1.png,gone.png\n", [r"line 2: there is no file .*/gone\.png"]),
        ("one/0.png,other/0.png,3\n\none/0.png\n", ["line 1: expected two paths", "line 3: expected two paths"]),
    ],
)
def test_faults_of_a_list(tmp_path, caplog, lines, faults):
    for number in range(2):
        pair(tmp_path / f"one/{number}.png", tmp_path / f"other/{number}.png")
    (tmp_path / "list.csv").write_text(lines)
    with pytest.raises(UserError, match=f"{len(faults)} images do not make pairs"):
        open_dataset(options(tmp_path / "list.csv"), LOG, train=True)
    for fault in faults:
        assert re.search(fault, caplog.text)


def test_what_cannot_be_pairs_is_said(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/list.txt").touch()
    (tmp_path / "d/list.csv").touch()
    for name, more, text in (
        ("d", {}, "has no pairs for training"),
        ("nowhere", {}, "nowhere: there is no such folder or list"),
        ("d/list.txt", {}, r"csv or a \.jsonl file"),
        ("d/list.csv", {}, r"list\.csv: holds no pairs"),
        ("d", {"source": tmp_path / "d"}, "give both"),
    ):
        with pytest.raises(UserError, match=text) as caught:
            open_dataset(options(tmp_path / name, **more), LOG, train=True)
        assert "\n" not in str(caught.value)
    opt = options(tmp_path / "d", source=tmp_path / "d", target=tmp_path / "d")
    opt.corrupt = "jpeg-5"
    with pytest.raises(UserError, match=r"--source .*: is for pairs, --corrupt paired"):
        open_dataset(opt, LOG, train=True)


def test_validation_pairs_are_never_trained_on(tmp_path):
    for name in ("0.png", "val/1.png"):
        pair(tmp_path / "A" / name, tmp_path / "B" / name)
    opt = options(source=tmp_path / "A", target=tmp_path / "B")
    check(open_dataset(opt, LOG, train=False), 1)
    with pytest.raises(UserError, match="has no pairs for training"):
        open_dataset(opt, LOG, train=True)


def test_identity_and_checksums_are_of_both_files(tmp_path):
    for number in range(2):
        pair(tmp_path / f"A/{number}.png", tmp_path / f"B/{number}.png", number)
    dataset = open_evaluation(options(tmp_path), LOG)
    before, (item, crc) = dataset.fingerprint(), WithChecksum(dataset)[0]
    assert crc == zlib.crc32(dataset.read(0))
    given = unpack([torch.as_tensor(part)[None] for part in item])
    assert torch.equal(given.x1[0], dataset[0][1])
    assert given.labels.tolist() == [0]
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert open_evaluation(options(tmp_path / "copy"), LOG).fingerprint() == before
    pair(tmp_path / "A/0.png", tmp_path / "new.png", 5)
    assert WithChecksum(dataset)[0][1] != crc
    with (tmp_path / "A/0.png").open("ab") as file:
        file.write(b"\0")
    assert dataset.fingerprint() != before


def test_cond_x1_is_suggested(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pair(tmp_path / "A/0.png", tmp_path / "B/0.png")
    open_dataset(options(tmp_path, cond_x1=True), LOG, train=True)
    assert "--cond-x1" not in caplog.text
    open_dataset(options(tmp_path), LOG, train=True)
    assert "--cond-x1 is not given" in caplog.text
