"""Building LMDBs: whole or not there, resumed after an interruption, one builder at a time."""

import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image
from processes import ROOT, as_child, largest_file, python, readonly_folder

from dataset.build import build_lmdb, is_complete, verify_lmdb
from dataset.index import index_path, read_index, write_index
from dataset.store import LmdbImages
from i2sb.errors import UserError
from scripts import build_lmdb as build_script

INTEROP = ROOT / "tests/interop"


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images" / "train"
    for number in range(40):
        folder = root / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32 + number, 32), 60).save(folder / f"{number:03d}.png")
    return root


def content(lmdb_path):
    """All keys and values, read as the original does."""
    with lmdb.open(os.fspath(lmdb_path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {key.decode(): bytes(value) for key, value in transaction.cursor()}


def expected(root):
    return {str(path): path.read_bytes() for path in root.rglob("*.png")}


def test_format(images, tmp_path):
    target = tmp_path / "out" / "train_faster_imagefolder.lmdb"
    index = build_lmdb(images, target)
    assert content(target) == expected(images)
    assert read_index(index_path(target)) == index
    before = (target / "data.mdb").stat().st_mtime_ns
    assert build_lmdb("/no/longer/there", target) == index  # it is there
    assert (target / "data.mdb").stat().st_mtime_ns == before
    assert {path for path, _ in index.samples} == set(content(target))
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, f"{target.name}.pt"]


BUILD = """
import sys
from dataset.build import build_lmdb
build_lmdb(*sys.argv[1:], threads=1)
"""


def test_a_killed_build_is_never_taken_for_whole_and_resumes(tmp_path):
    """SIGKILL in the middle of it, with nothing to clean up behind."""
    images, target = tmp_path / "images", tmp_path / "x.lmdb"
    (images / "c").mkdir(parents=True)
    for number in range(1200):
        (images / "c" / f"{number:04d}.pgm").write_bytes(b"P5 100 100 255 " + bytes([number % 256]) * 10_000)
    process = python(BUILD, images, target)
    draft = tmp_path / "x.lmdb.partial"
    while process.poll() is None and not (draft.exists() and len(draft_keys(draft)) > 0):
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not is_complete(target)
    begun = draft_keys(draft)
    assert 0 < len(begun) < 1200
    changed = images / "c" / "0000.pgm"  # same size, other pixels
    changed.write_bytes(b"P5 100 100 255 " + bytes([77]) * 10_000)
    build_lmdb(images, target)
    assert content(target) == {str(path): path.read_bytes() for path in images.glob("c/*.pgm")}


def draft_keys(draft):
    try:
        return list(LmdbImages(draft))
    except UserError:  # it is being written to
        return []


def test_what_another_build_has_left_is_replaced(images, tmp_path):
    (tmp_path / "noise.lmdb.partial").mkdir()
    (tmp_path / "noise.lmdb.partial" / "data.mdb").write_bytes(b"\xff" * 20_000)
    build_lmdb(images, tmp_path / "noise.lmdb")
    assert content(tmp_path / "noise.lmdb") == expected(images)
    target = tmp_path / "x.lmdb"
    environment = lmdb.open(f"{target}.partial")
    first = min(expected(images))
    with environment.begin(write=True) as transaction:
        transaction.put(b"/old/a/1.png", b"old")
        transaction.put(first.encode(), b"of another length")
    environment.close()
    build_lmdb(images, target)
    assert content(target) == expected(images)


def test_an_lmdb_without_its_index_is_left_alone(images, tmp_path):
    target = tmp_path / "with space" / "x.lmdb"
    build_lmdb(images, target)
    index_path(target).unlink()
    with pytest.raises(UserError, match=r"x\.lmdb\.pt is missing beside it: copy it too, or rebuild both: ") as caught:
        build_lmdb(images, target)
    assert f"rm -r '{target}' '{target}.pt'; " in str(caught.value)  # pasted into a shell, it removes nothing else
    assert content(target) == expected(images)


def test_of_three_processes_one_builds(images, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fork = multiprocessing.get_context("fork")
    ready, results = fork.Barrier(3), fork.SimpleQueue()

    def build():
        ready.wait()
        index = build_lmdb(images, tmp_path / "x.lmdb", threads=1, log=logging.getLogger("build"))
        results.put((len(index.samples), "Building" in caplog.text))

    processes = [fork.Process(target=build) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(results.get() for _ in processes) == [(40, False), (40, False), (40, True)]


def test_damaged_images_are_listed_or_left_out(images, tmp_path, caplog):
    paths = sorted(images.rglob("*.png"))[5:8]
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    paths[1].write_bytes(b"")
    Image.fromarray(np.full((8, 8), np.float32(np.nan))).save(paths[2], "TIFF")
    with pytest.raises(UserError, match=r"3 of 40 images cannot be used: .*others.*: --skip-unreadable 3") as caught:
        build_lmdb(images, tmp_path / "x.lmdb", skip_unreadable=2)
    assert "\n" not in str(caught.value)
    for path, why in zip(paths, ["cannot be decoded: ", "its 0 bytes are not an image", "64 values are NaN or inf"]):
        assert any(str(path) in line and why in line for line in caplog.messages)
    assert not is_complete(tmp_path / "x.lmdb")
    caplog.clear()
    index = build_lmdb(images, tmp_path / "x.lmdb", skip_unreadable=3)
    good = {path: content for path, content in expected(images).items() if Path(path) not in paths}
    assert content(tmp_path / "x.lmdb") == good
    assert sorted(path for path, _ in index.samples) == sorted(good)
    assert all(index.classes[label] == Path(path).parent.name for path, label in index.samples)
    assert all(str(path) in caplog.text for path in paths)


def test_a_path_too_long_for_a_key_is_named(tmp_path):
    folder = tmp_path / "images" / "/".join(["c" * 200] * 3)
    folder.mkdir(parents=True)
    (folder / "1.png").touch()
    with pytest.raises(UserError, match=r"bytes long, an LMDB takes 511"):
        build_lmdb(tmp_path / "images", tmp_path / "x.lmdb")


def test_a_disk_that_is_too_small_is_noticed_before(images, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs .* GiB more, but .* GiB are free"):
        build_lmdb(images, tmp_path / "x.lmdb")


def test_a_disk_that_fills_up_gives_one_line(images, tmp_path):
    """Afterwards the build resumes."""
    target = tmp_path / "x.lmdb"
    with largest_file(30_000), pytest.raises(UserError, match=r"x\.lmdb: cannot be built: ") as caught:
        build_lmdb(images, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    build_lmdb(images, target)
    assert content(target) == expected(images)


def test_a_folder_that_cannot_be_written_to_gives_one_line(images):
    with readonly_folder() as folder:
        text = as_child(lambda: build_lmdb(images, folder / "x.lmdb"), no_root=True)
    assert text.startswith(f"UserError: {folder}/x.lmdb: cannot be built: Permission denied: ")
    assert text.endswith(f"in another --dataset-dir: python scripts/build_lmdb.py {images} DIR/x.lmdb")
    assert "\n" not in text


# --- scripts/build_lmdb.py


@pytest.fixture
def run(capfd):
    """Call the script's main in `tmp_path` -> (exit code, stdout, stderr)."""

    def call(*args):
        try:
            code = build_script.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return call


def test_build_then_verify(images, tmp_path, run):
    target = tmp_path / "out" / "val_faster_imagefolder.lmdb"
    for argv, said in (
        ((images, target), "40 images of 3 classes; it is complete"),
        ((images, target), "was there already"),
        (("--verify", target), "40 images read, 0 faults"),
    ):
        code, out, _ = run(*argv)
        assert code == 0
        assert said in out


def test_verifying_lists_bad_images(run):
    """Of an LMDB that another program built."""
    bad = {"n01443537/ILSVRC_00000010.JPEG": b"\xff\xd8", "n01440764/img_003.png": b"", "n01484850/img_005.png": b"<p>"}
    shutil.copytree(INTEROP / "dataset", "theirs")
    with lmdb.open("theirs/val_faster_imagefolder.lmdb") as environment, environment.begin(write=True) as transaction:
        for name, content in bad.items():
            transaction.put(f"/dataset/val/{name}".encode(), content)
    code, out, _ = run("theirs/val_faster_imagefolder.lmdb", "--verify", "--threads", "2")
    assert code == 1
    lines = out.splitlines()
    assert len(lines) == 4
    assert all(sum(name in line for line in lines) == 1 for name in bad)
    assert lines[-1] == "theirs/val_faster_imagefolder.lmdb: 24 images read, 3 faults"


def test_the_originals_lmdbs_are_sound_and_missing_images_are_listed(tmp_path):
    for split in ("train", "val"):
        assert verify_lmdb(INTEROP / "dataset" / f"{split}_faster_imagefolder.lmdb") == (24, [])
    shutil.copytree(INTEROP / "dataset" / "val_faster_imagefolder.lmdb", tmp_path / "x.lmdb")
    index = read_index(INTEROP / "dataset" / "val_faster_imagefolder.lmdb.pt")
    index.samples.append(("/dataset/val/n01440764/gone.png", 0))
    write_index(index, tmp_path / "x.lmdb.pt")
    missing = ("/dataset/val/n01440764/gone.png", "is in the index but not in the LMDB")
    assert verify_lmdb(tmp_path / "x.lmdb") == (24, [missing])


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["x.lmdb"], "give the folder of images and the LMDB to build"),
        (["val", "x"], "must end in .lmdb"),
        (["val", "x.lmdb", "--verify"], "--verify takes the LMDB alone"),
        (["val", "x.lmdb", "--threads", "0"], "--threads: '0' is invalid"),
        (["none", "x.lmdb"], "none: there is no such folder of images"),
        (["--verify", "none.lmdb"], "none.lmdb.pt: there is no such file"),
    ],
)
def test_wrong_use(run, args, text):
    code, _, err = run(*args)
    assert code == 2
    assert text in err.splitlines()[-1]


def test_a_path_that_is_not_utf8_and_an_output_in_ascii(tmp_path, warm):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xbc")
    shutil.copytree(INTEROP / "images" / "val", f"{odd}/val")
    for arguments in ([f"{odd}/val", f"{odd}/x.lmdb"], ["--verify", f"{odd}/x.lmdb"]):
        run = warm("build_lmdb", arguments, "sys.stdout.reconfigure(encoding='ascii')")
        assert run.wait()[0] == 0, run.said()
        assert "24 images" in run.said()
