"""scripts/build_lmdb.py: build, build again, verify."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from dataset.build import verify_lmdb
from dataset.index import read_index, write_index
from scripts import build_lmdb

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_lmdb.py"
INTEROP = Path(__file__).parents[1] / "interop"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Call the script's main in `tmp_path` -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        try:
            code = build_lmdb.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def images(tmp_path):
    return Path(shutil.copytree(INTEROP / "images" / "val", tmp_path / "val"))


def test_build_then_verify(images, tmp_path, run):
    target = tmp_path / "out" / "val_faster_imagefolder.lmdb"
    code, out, _ = run("val", target)
    assert code == 0
    assert "24 images of 3 classes; it is complete" in out
    code, out, _ = run("val", target)
    assert code == 0
    assert "was there already" in out
    code, out, _ = run("--verify", target)
    assert code == 0
    assert "24 images read, 0 faults" in out


def test_bad_images_are_left_out_on_request(images, run, caplog):
    bad = images / "n01443537" / "ILSVRC_00000010.JPEG"
    bad.write_bytes(bad.read_bytes()[:-300])
    code, out, _ = run("val", "x.lmdb", "--skip-unreadable", "1")
    assert code == 0
    assert "23 images of 3 classes" in out
    assert "ILSVRC_00000010.JPEG" in caplog.text


def test_verifying_lists_bad_images(images, run):
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


def test_a_path_that_is_not_utf8_and_an_output_in_ascii(tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xbc"
    shutil.copytree(INTEROP / "images" / "val", os.fsdecode(odd) + "/val")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for arguments in ([odd + b"/val", odd + b"/x.lmdb"], [b"--verify", odd + b"/x.lmdb"]):
        command = [sys.executable, str(SCRIPT), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"24 images" in done.stdout
