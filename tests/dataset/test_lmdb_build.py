"""Building LMDBs: whole or not there, resumed after an interruption, one builder at a time."""

import argparse
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image
from processes import as_child, readonly_folder

from dataset.build import build_lmdb, is_complete
from dataset.index import index_path, read_index
from dataset.store import LmdbImages
from i2sb.errors import UserError

REPOSITORY = Path(__file__).parents[2]


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


def quiet_build(root, target):
    return build_lmdb(root, target, threads=2)


def test_format(images, tmp_path):
    target = tmp_path / "out" / "train_faster_imagefolder.lmdb"
    index = quiet_build(images, target)
    assert content(target) == expected(images)
    assert read_index(index_path(target)) == index
    before = (target / "data.mdb").stat().st_mtime_ns
    assert quiet_build("/no/longer/there", target) == index  # it is there
    assert (target / "data.mdb").stat().st_mtime_ns == before
    assert {path for path, _ in index.samples} == set(content(target))
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, f"{target.name}.pt"]


def test_a_killed_build_is_never_taken_for_whole_and_resumes(tmp_path):
    """SIGKILL in the middle of it, with nothing to clean up behind."""
    images, target = tmp_path / "images", tmp_path / "x.lmdb"
    (images / "c").mkdir(parents=True)
    for number in range(1200):
        (images / "c" / f"{number:04d}.pgm").write_bytes(b"P5 100 100 255 " + bytes([number % 256]) * 10_000)
    program = "import sys; from dataset.build import build_lmdb; build_lmdb(*sys.argv[1:], threads=1)"
    process = subprocess.Popen([sys.executable, "-c", program, str(images), str(target)], cwd=REPOSITORY)
    draft = tmp_path / "x.lmdb.partial"
    while process.poll() is None and not (draft.exists() and len(draft_keys(draft)) > 0):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_complete(target)
    begun = draft_keys(draft)
    assert 0 < len(begun) < 1200
    changed = images / "c" / "0000.pgm"  # same size, other pixels
    changed.write_bytes(b"P5 100 100 255 " + bytes([77]) * 10_000)
    quiet_build(images, target)
    assert content(target) == {str(path): path.read_bytes() for path in images.glob("c/*.pgm")}


def draft_keys(draft):
    try:
        return list(LmdbImages(draft))
    except UserError:  # it is being written to
        return []


def test_what_another_build_has_left_is_replaced(images, tmp_path):
    (tmp_path / "noise.lmdb.partial").mkdir()
    (tmp_path / "noise.lmdb.partial" / "data.mdb").write_bytes(b"\xff" * 20_000)
    quiet_build(images, tmp_path / "noise.lmdb")
    assert content(tmp_path / "noise.lmdb") == expected(images)
    target = tmp_path / "x.lmdb"
    environment = lmdb.open(f"{target}.partial")
    first = min(expected(images))
    with environment.begin(write=True) as transaction:
        transaction.put(b"/old/a/1.png", b"old")
        transaction.put(first.encode(), b"of another length")
    environment.close()
    quiet_build(images, target)
    assert content(target) == expected(images)


def test_an_lmdb_without_its_index_is_left_alone(images, tmp_path):
    target = tmp_path / "with space" / "x.lmdb"
    quiet_build(images, target)
    index_path(target).unlink()
    with pytest.raises(UserError, match=r"x\.lmdb\.pt is missing beside it: copy it too, or rebuild both: ") as caught:
        quiet_build(images, target)
    assert f"rm -r '{target}' '{target}.pt'; " in str(caught.value)  # pasted into a shell, it removes nothing else
    assert content(target) == expected(images)


def _build_and_count(root, target, barrier, answers):
    lines = []
    log = argparse.Namespace(info=lines.append, warning=lines.append)
    barrier.wait()
    index = build_lmdb(root, target, log=log)
    answers.put((sum("Building" in line for line in lines), len(index.samples)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_of_three_processes_one_builds(images, tmp_path):
    quick = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if quick else "spawn")
    barrier, answers = context.Barrier(3), context.Queue()
    arguments = (images, tmp_path / "x.lmdb", barrier, answers)
    processes = [context.Process(target=_build_and_count, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(results) == [(0, 40), (0, 40), (1, 40)]


def test_damaged_images_are_listed_or_left_out(images, tmp_path, caplog):
    paths = sorted(images.rglob("*.png"))[5:8]
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    paths[1].write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(paths[2], "TIFF")
    with pytest.raises(UserError, match=r"3 of 40 images cannot be used: .*others.*: --skip-unreadable 3") as caught:
        build_lmdb(images, tmp_path / "x.lmdb", skip_unreadable=2)
    assert "\n" not in str(caught.value)
    for path, why in zip(paths, ["cannot be decoded: ", "its 0 bytes are not an image", "floating-point pixels"]):
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
        quiet_build(tmp_path / "images", tmp_path / "x.lmdb")


def test_a_disk_that_is_too_small_is_noticed_before(images, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs .* GiB more, but .* GiB are free"):
        quiet_build(images, tmp_path / "x.lmdb")


def test_a_disk_that_fills_up_gives_one_line(images, tmp_path):
    """A limit on the size of files stands for the full disk; afterwards the build resumes."""
    resource = pytest.importorskip("resource")
    target = tmp_path / "x.lmdb"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"x\.lmdb: cannot be built: ") as caught:
            quiet_build(images, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    quiet_build(images, target)
    assert content(target) == expected(images)


def test_a_folder_that_cannot_be_written_to_gives_one_line(images):
    with readonly_folder() as folder:
        text = as_child(lambda: quiet_build(images, folder / "x.lmdb"), no_root=True)
    assert text.startswith(f"UserError: {folder}/x.lmdb: cannot be built: Permission denied: ")
    assert text.endswith(f"in another --dataset-dir: python scripts/build_lmdb.py {images} DIR/x.lmdb")
    assert "\n" not in text


def test_a_file_that_cannot_be_read_is_one_of_the_unreadable(images, tmp_path, monkeypatch):
    read, first = Path.read_bytes, min(images.rglob("*.png"))

    def refused(path):  # root may read every file
        if path == first:
            raise PermissionError(13, "Permission denied", path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=r"1 of 40 images cannot be used: .* cannot be read: Permission denied"):
        build_lmdb(images, tmp_path / "x.lmdb")
