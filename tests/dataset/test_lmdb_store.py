"""Reading image files out of LMDBs, ours and the original's, and their `.lmdb.pt` indices."""

import argparse
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import lmdb
import pytest
import torch
from processes import as_child
from torchvision.datasets import ImageFolder

from dataset.index import read_index, write_index
from dataset.store import LmdbImages, entries
from i2sb.errors import UserError

INTEROP = Path(__file__).parents[1] / "interop"
VAL = INTEROP / "dataset" / "val_faster_imagefolder.lmdb"
NAMES = ["n01440764/img_003.png", "n01443537/ILSVRC_00000004.JPEG"]
ORIGINAL = INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt"
CLASSES = ["n01440764", "n01443537", "n01484850"]


def make_lmdb(path, content):
    environment = lmdb.open(str(path))
    with environment.begin(write=True) as transaction:
        for key, value in content.items():
            transaction.put(key.encode(), value)
    environment.close()
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_one_that_memory_has_no_room_for_is_not_called_damaged(tmp_path):
    path = make_lmdb(tmp_path / "x.lmdb", {"a": bytes(9 << 20)})
    answer = as_child(lambda: len(LmdbImages(path)), memory=6)
    assert answer == f"MemoryError: {path}: its 9 MiB are mapped into memory as a whole"


@pytest.mark.parametrize("prefix", ["/dataset/val/", "/somewhere/else/", "", "D:\\imagenet\\", "/" + 600 * "long/"])
def test_values_are_the_files_bytes_wherever_they_lay(prefix):
    first, second = LmdbImages(VAL), LmdbImages(VAL)
    assert len(first) == 24
    for name in NAMES:
        path = prefix + (name.replace("/", "\\") if "\\" in prefix else name)
        assert first.get(path) == second.get(path) == (INTEROP / "images" / "val" / name).read_bytes()
    with pytest.raises(UserError, match=r"val_faster_imagefolder\.lmdb: holds no image .*z\.png"):
        first.get(f"{prefix}z.png")


def test_two_images_of_one_name_are_never_mixed_up(tmp_path):
    content = {"/a/c/1.png": b"first", "/b/c/1.png": b"second"}
    store = LmdbImages(make_lmdb(tmp_path / "x.lmdb", content))
    assert store.get("/a/c/1.png") == b"first"
    assert store.key_of("/other/c/1.png") is None


def test_nothing_is_opened_before_the_first_access_nor_pickled(tmp_path):
    store = LmdbImages(tmp_path / "later.lmdb")
    copy = pickle.loads(pickle.dumps(store))
    make_lmdb(tmp_path / "later.lmdb", {"a/b": b"c"})
    assert store.get("a/b") == copy.get("a/b") == b"c"
    assert pickle.loads(pickle.dumps(store)).get("a/b") == b"c"


def test_the_lmdb_is_left_as_it_was(tmp_path):
    copy = tmp_path / "x.lmdb"
    shutil.copytree(VAL, copy)
    (copy / "lock.mdb").unlink()
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in copy.iterdir()}
    LmdbImages(copy).get(f"/dataset/val/{NAMES[0]}")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in copy.iterdir()} == before


@pytest.mark.parametrize("size", [0, 100, 5000, 8192, 100_000])
def test_an_lmdb_cut_short_is_refused(tmp_path, size):
    copy = tmp_path / "x.lmdb"
    shutil.copytree(VAL, copy)
    os.truncate(copy / "data.mdb", size)
    with pytest.raises(UserError, match=r"x\.lmdb: .*cut short .*: copy it again, or .* rebuild it: python") as caught:
        LmdbImages(copy).get(f"/dataset/val/{NAMES[0]}")
    assert "\n" not in str(caught.value)


def test_a_file_that_ends_before_pages_that_were_never_written_is_whole(tmp_path):
    """Pages that were taken and given back within one transaction may be the last ones: they are not in the file."""
    draw, live = random.Random(1), []
    with lmdb.open(str(tmp_path), map_size=1 << 26, sync=False) as environment:
        for count in (50, 50, 400, 400):
            with environment.begin(write=True) as transaction:
                for _ in range(count):
                    if live and draw.random() < draw.choice([0.1, 0.6, 0.9]):
                        transaction.delete(live.pop(draw.randrange(len(live))))
                    else:
                        live.append(draw.randbytes(draw.choice([3, 20, 200, 511])))
                        transaction.put(live[-1], draw.randbytes(draw.choice([1, 100, 1500, 2030, 5000, 9000])))
        size = (tmp_path / "data.mdb").stat().st_size
        counted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        with environment.begin() as transaction:
            content = {key: bytes(value) for key, value in transaction.cursor()}
    assert size < counted
    store = LmdbImages(tmp_path)
    assert {key: store.get(os.fsdecode(key)) for key, _, _ in entries(tmp_path)} == content
    assert {key: size for key, size, _ in entries(tmp_path)} == {key: len(value) for key, value in content.items()}


def test_a_damaged_lmdb_gives_one_line(tmp_path):
    """Its pages were never copied."""
    shutil.copytree(VAL, tmp_path / "x.lmdb")
    with (tmp_path / "x.lmdb" / "data.mdb").open("r+b") as file:
        size = file.seek(0, 2)
        file.truncate(8192)
        file.truncate(size)
    for access in (list, lambda store: store.get("/dataset/val/n01440764/img_003.png")):
        with pytest.raises(UserError, match=r"x\.lmdb: .*(damaged|holds no image)") as caught:
            access(LmdbImages(tmp_path / "x.lmdb"))
        assert "\n" not in str(caught.value)


def test_other_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.lmdb", tmp_path):
        with pytest.raises(UserError, match="No such file"):
            len(LmdbImages(path))
    (tmp_path / "noise.lmdb").mkdir()
    (tmp_path / "noise.lmdb" / "data.mdb").write_bytes(random.Random(0).randbytes(40_000))
    with pytest.raises(UserError, match=r"noise\.lmdb: the LMDB is cut short or damaged .*: copy it again"):
        len(LmdbImages(tmp_path / "noise.lmdb"))


# --- the index


def small_index(**changes):
    good = {
        "root": "/d/val",
        "classes": ["a", "b"],
        "class_to_idx": {"a": 0, "b": 1},
        "samples": [("/d/val/a/1.png", 0)],
    }
    return argparse.Namespace(**{**good, **changes})


def test_ours_is_what_the_original_wrote(tmp_path):
    path = tmp_path / "ours.lmdb.pt"
    write_index(read_index(ORIGINAL), path)
    original = vars(torch.load(ORIGINAL, weights_only=False))  # a file of our own, known to be harmless
    with torch.serialization.safe_globals([ImageFolder]):
        ours = vars(torch.load(path, weights_only=True))
    assert list(ours) == list(original)
    assert {**ours, "extensions": ()} == {**original, "extensions": ()}  # ours lists what this Pillow reads
    assert set(ours["extensions"]) >= set(original["extensions"])
    assert ours["samples"] is ours["imgs"]


def test_names_that_are_not_utf8_survive(tmp_path):
    odd = os.fsdecode(b"/d/val/a/\xff.png")
    write_index(small_index(samples=[(odd, 0)]), tmp_path / "x.lmdb.pt")
    assert read_index(tmp_path / "x.lmdb.pt").samples == [(odd, 0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": []},
        {"samples": [("a/1.png", 2)]},
        {"samples": [("a/1.png", -1)]},
        {"classes": ["a", "a"]},
        {"classes": None},
        {"class_to_idx": {"a": 1, "b": 0}},
    ],
    ids=ascii,
)
def test_indices_that_contradict_themselves_are_refused(tmp_path, changes):
    write_index(small_index(**changes), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: refused: ") as caught:
        read_index(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
