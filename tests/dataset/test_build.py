"""Building LMDBs: whole or not there, resumed after an interruption, one builder at a time."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from dataset import build
from dataset.build import build_lmdb, is_complete
from dataset.index import index_path, read_index
from dataset.store import LmdbImages
from i2sb.errors import UserError

REPOSITORY = Path(__file__).parents[2]
PIXEL = b"P5 1 1 255 x"  # a PGM of one pixel


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images" / "train"
    for number in range(40):
        folder = root / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32 + number, 32), 60).save(folder / f"{number:03d}.png")
    return root


def content(lmdb_path):
    store = LmdbImages(lmdb_path)
    return {key: store.get(key) for key in store}


def expected(root):
    return {str(path): path.read_bytes() for path in root.rglob("*.png")}


def quiet_build(root, target):
    return build_lmdb(root, target, threads=2, show_progress=False)


def test_format(images, tmp_path):
    target = tmp_path / "out" / "train_faster_imagefolder.lmdb"
    index = quiet_build(images, target)
    assert content(target) == expected(images)
    assert read_index(index_path(target)) == index
    assert {path for path, _ in index.samples} == set(content(target))
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, f"{target.name}.pt"]


def test_map_size_comes_from_the_data(images, tmp_path):
    quiet_build(images, tmp_path / "x.lmdb")
    environment = lmdb.open(str(tmp_path / "x.lmdb"), readonly=True, lock=False)
    assert environment.info()["map_size"] < 64 << 20
    environment.close()
    assert (tmp_path / "x.lmdb" / "data.mdb").stat().st_size < 1 << 20


def test_the_estimated_map_size_is_enough_for_many_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_SLACK", 1 << 16)
    folder = tmp_path / "images" / ("long_name_of_a_class_" * 4)
    folder.mkdir(parents=True)
    for number in range(1500):
        (folder / f"{number}.png").write_bytes(PIXEL + b"x" * (number * 7 % 5000))
    quiet_build(tmp_path / "images", tmp_path / "x.lmdb")
    assert len(LmdbImages(tmp_path / "x.lmdb")) == 1500


def test_files_that_grow_meanwhile_enlarge_the_map(images, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_map_size", lambda files: 64 << 10)
    quiet_build(images, tmp_path / "x.lmdb")
    assert content(tmp_path / "x.lmdb") == expected(images)


def test_a_finished_one_is_reused(images, tmp_path):
    index = quiet_build(images, tmp_path / "x.lmdb")
    before = (tmp_path / "x.lmdb" / "data.mdb").stat().st_mtime_ns
    assert quiet_build("/no/longer/there", tmp_path / "x.lmdb") == index
    assert (tmp_path / "x.lmdb" / "data.mdb").stat().st_mtime_ns == before


def test_an_interrupted_build_is_never_taken_for_whole_and_goes_on(images, tmp_path, monkeypatch):
    target = tmp_path / "x.lmdb"
    monkeypatch.setattr(build, "_BATCH_FILES", 4)
    write, read = build._write_batch, build._read_batch
    calls, read_again = [], []

    def interrupted(*args):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        write(*args)

    monkeypatch.setattr(build, "_write_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quiet_build(images, target)
    assert not target.exists()
    assert not is_complete(target)

    def counted(batch):
        read_again.extend(batch)
        return read(batch)

    monkeypatch.setattr(build, "_write_batch", write)
    monkeypatch.setattr(build, "_read_batch", counted)
    quiet_build(images, target)
    assert content(target) == expected(images)
    assert len(read_again) == 40 - 5 * 4


def test_a_killed_build_goes_on(images, tmp_path):
    """SIGKILL in the middle of it, with nothing to clean up behind."""
    target = tmp_path / "x.lmdb"
    program = (
        "import sys, time; from dataset import build as b; b._BATCH_FILES = 1; w = b._write_batch\n"
        "def slow(*args): w(*args); print('one', flush=True); time.sleep(0.05)\n"
        "b._write_batch = slow\n"
        "b.build_lmdb(sys.argv[1], sys.argv[2], threads=1, show_progress=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(images), str(target)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        assert process.stdout.readline() == "one\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    quiet_build(images, target)
    assert content(target) == expected(images)


def test_a_leftover_of_other_images_is_replaced(images, tmp_path):
    target = tmp_path / "x.lmdb"
    environment = lmdb.open(f"{target}.partial")
    first = min(expected(images))
    with environment.begin(write=True) as transaction:
        transaction.put(b"/old/a/1.png", b"old")
        transaction.put(first.encode(), b"of another length")
    environment.close()
    quiet_build(images, target)
    assert content(target) == expected(images)


def test_an_unreadable_leftover_is_replaced(images, tmp_path):
    target = tmp_path / "x.lmdb"
    Path(f"{target}.partial").mkdir()
    (Path(f"{target}.partial") / "data.mdb").write_bytes(b"\xff" * 20_000)
    quiet_build(images, target)
    assert content(target) == expected(images)


def test_an_lmdb_without_its_index_is_left_alone(images, tmp_path):
    quiet_build(images, tmp_path / "x.lmdb")
    index_path(tmp_path / "x.lmdb").unlink()
    with pytest.raises(UserError, match=r"x\.lmdb\.pt is missing beside it: copy it too, or rebuild both: rm -r "):
        quiet_build(images, tmp_path / "x.lmdb")
    assert content(tmp_path / "x.lmdb") == expected(images)


def _build_and_count(root, target, barrier, answers):
    counted = []
    fill = build._fill

    def slow(*args):
        counted.append(1)
        time.sleep(0.3)
        return fill(*args)

    build._fill = slow
    barrier.wait()
    index = quiet_build(root, target)
    answers.put((len(counted), len(index.samples)))


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


def test_images_that_change_under_an_interrupted_build_are_taken_again(images, tmp_path, monkeypatch):
    """Also of the same size: uncompressed pictures are."""
    target = tmp_path / "x.lmdb"
    with monkeypatch.context() as patched:
        patched.setattr(build, "_report", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quiet_build(images, target)
    time.sleep(0.02)  # clocks of file systems tick in steps of up to 10 ms
    path = min(images.rglob("*.png"))
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    quiet_build(images, target)
    assert content(target) == expected(images)


def damage(images):
    """Three images that cannot be used, and their names."""
    paths = sorted(images.rglob("*.png"))[5:8]
    paths[0].write_bytes(paths[0].read_bytes()[:-100])
    paths[1].write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(paths[2], "TIFF")
    return paths


def test_damaged_images_are_listed(images, tmp_path, caplog):
    paths = damage(images)
    with pytest.raises(UserError, match=r"3 of 40 images cannot be used: .*others.*: --skip-unreadable 3") as caught:
        build_lmdb(images, tmp_path / "x.lmdb", show_progress=False, skip_unreadable=2)
    assert "\n" not in str(caught.value)
    for path, why in zip(paths, ["cannot be decoded: ", "its 0 bytes are no image", "floating-point pixels"]):
        assert any(str(path) in line and why in line for line in caplog.messages)
    assert not is_complete(tmp_path / "x.lmdb")


def test_damaged_images_can_be_left_out(images, tmp_path, caplog):
    paths = damage(images)
    index = build_lmdb(images, tmp_path / "x.lmdb", show_progress=False, skip_unreadable=3)
    good = {path: content for path, content in expected(images).items() if Path(path) not in paths}
    assert content(tmp_path / "x.lmdb") == good
    assert sorted(path for path, _ in index.samples) == sorted(good)
    assert all(index.classes[label] == Path(path).parent.name for path, label in index.samples)
    assert all(str(path) in caplog.text for path in paths)


def test_replaced_images_are_all_that_is_read_when_a_build_resumes(images, tmp_path):
    paths = damage(images)
    with pytest.raises(UserError, match="cannot be used"):
        quiet_build(images, tmp_path / "x.lmdb")
    for path in paths:
        Image.effect_noise((32, 32), 60).save(path)
    quiet_build(images, tmp_path / "x.lmdb")
    assert content(tmp_path / "x.lmdb") == expected(images)


def test_a_path_too_long_for_a_key_is_named(tmp_path):
    folder = tmp_path / "images" / "/".join(["c" * 200] * 3)
    folder.mkdir(parents=True)
    (folder / "1.png").touch()
    with pytest.raises(UserError, match=r"bytes long, an LMDB takes 511"):
        quiet_build(tmp_path / "images", tmp_path / "x.lmdb")


def test_a_disk_that_is_too_small_is_noticed_before(images, tmp_path, monkeypatch):
    usage = build.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"needs about .* GiB more, but only .* GiB are free"):
        quiet_build(images, tmp_path / "x.lmdb")


def test_a_disk_that_fills_up_gives_one_line(images, tmp_path):
    """A limit on the size of files stands for the full disk; afterwards the build goes on."""
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


def test_a_folder_that_cannot_be_written_to_gives_one_line(images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be built"):
        quiet_build(images, tmp_path / "file" / "x.lmdb")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(UserError, match=r"cannot be built: Permission denied"):
        quiet_build(images, locked / "x.lmdb")


def test_log_lines(images, tmp_path, capsys, caplog):
    with caplog.at_level(logging.INFO):
        build_lmdb(images, tmp_path / "x.lmdb", log=logging.getLogger())
    assert f"Building {tmp_path / 'x.lmdb'} from 40 images" in caplog.text
    assert capsys.readouterr().out == ""
