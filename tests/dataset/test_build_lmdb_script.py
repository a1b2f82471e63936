"""scripts/build_lmdb.py: build, build again, verify."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.imagefolder_index import scan_image_folder, write_index
from dataset.lmdb_verify import verify_lmdb

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_lmdb.py"
INTEROP = Path(__file__).parents[1] / "interop"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Call the script's main in `tmp_path` -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(SCRIPT))["main"]

    def call(*args):
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def images(tmp_path):
    return Path(shutil.copytree(INTEROP / "images" / "val", tmp_path / "val"))


def test_build_then_verify(images, tmp_path, run):
    target = tmp_path / "out" / "val_faster_imagefolder.lmdb"
    code, out, err = run("val", target)
    assert code == 0
    assert "24 images of 3 classes; it is complete" in out
    assert "24/24" in err
    code, out, _ = run("val", target)
    assert code == 0
    assert "was there already" in out
    code, out, _ = run("--verify", target)
    assert code == 0
    assert "24 images read, 0 faults" in out


def test_bad_images_are_listed(images, run):
    cut = images / "n01443537" / "ILSVRC_00000010.JPEG"
    cut.write_bytes(cut.read_bytes()[:-300])
    (images / "n01440764" / "img_003.png").write_bytes(b"")
    (images / "n01484850" / "img_005.png").write_bytes(b"<html>no image</html>")
    assert run("val", "x.lmdb")[0] == 0
    code, out, _ = run("x.lmdb", "--verify", "--threads", "2")
    assert code == 1
    lines = out.splitlines()
    assert len(lines) == 4
    for name in (
        "ILSVRC_00000010.JPEG: ",
        "img_003.png: its 0 bytes are no image",
        "img_005.png: its 21 bytes",
    ):
        assert sum(name in line for line in lines) == 1
    assert lines[-1] == "x.lmdb: 24 images read, 3 faults"


def test_images_of_the_index_that_are_missing_are_listed(tmp_path):
    shutil.copytree(INTEROP / "dataset" / "val_faster_imagefolder.lmdb", tmp_path / "x.lmdb")
    index = scan_image_folder(INTEROP / "images" / "val")
    index.samples.append(("/dataset/val/n01440764/gone.png", 0))
    write_index(index, tmp_path / "x.lmdb.pt")
    count, bad = verify_lmdb(tmp_path / "x.lmdb", show_progress=False)
    assert count == 24
    assert bad == [("/dataset/val/n01440764/gone.png", "is in the index but not in the LMDB")]


def test_the_originals_lmdbs_are_sound():
    for split in ("train", "val"):
        path = INTEROP / "dataset" / f"{split}_faster_imagefolder.lmdb"
        assert verify_lmdb(path, show_progress=False) == (24, [])


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["x.lmdb"], "give the folder of images and the LMDB to build"),
        (["val", "x"], "must end in .lmdb"),
        (["val", "x.lmdb", "--verify"], "--verify takes the LMDB alone"),
        (["val", "x.lmdb", "--threads", "0"], "--threads 0: must be 1 or more"),
        (["none", "x.lmdb"], "none: there is no such folder of images"),
        (["--verify", "none.lmdb"], "none.lmdb: cannot be opened as an LMDB: No such file"),
    ],
)
def test_wrong_use(run, args, text):
    code, _, err = run(*args)
    assert code == 2
    assert text in err.splitlines()[-1]


def test_help_does_not_load_torch():
    """As a program of its own."""
    program = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_path({!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    for script in (SCRIPT, SCRIPT.with_name("make_photo_dataset.py")):
        command = [sys.executable, "-c", program.format(str(script))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.endswith("False\n")
