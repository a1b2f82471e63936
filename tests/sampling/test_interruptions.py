"""Runs that are killed, and places that cannot be written to: real processes, real limits."""

import contextlib
import io
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from places import FOLDER, NAME, refusal, restore
from processes import ROOT, as_child
from small_runs import sample_argv

import sample
from i2sb.runtime.files import lock

FLAGS = ["--nfe", "9", "--batch-size", "2"]  # 12 batches of about 0.1 s


def kill_after_a_batch(here, *flags):
    """Start sample.py, and kill -9 it soon after one more batch is there."""
    parts = here / "results" / NAME / "samples_nfe9/.recon.parts"

    def done():
        return sum(path.stat().st_size for path in parts.glob("rows.*"))

    before, deadline = done(), time.monotonic() + 60
    command = [sys.executable, str(ROOT / "sample.py"), *sample_argv(here / "photos", NAME, *flags)]
    process = subprocess.Popen(command, cwd=here, stderr=subprocess.DEVNULL)
    while done() <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_resumes_to_the_same_bits(here):
    folder = restore(here, *FLAGS).with_name("samples_nfe9")
    expected = (folder / "recon.pt").read_bytes()
    shutil.rmtree(folder)
    pictures = ["--save-images", "png", "--save-trajectory", "3"]
    for _ in range(2):
        kill_after_a_batch(here, *FLAGS, *pictures)
    restore(here, *FLAGS, *pictures)
    assert (folder / "recon.pt").read_bytes() == expected
    assert len(list((folder / "images").rglob("*.png"))) == 24
    assert len(list((folder / "trajectories").glob("*.webp"))) == 3
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".recon.parts").exists()


def test_a_second_run_on_the_same_folder_is_refused(here, capsys):
    (here / FOLDER).mkdir(parents=True)
    with lock(here / FOLDER / ".recon.lock"):
        line = refusal(capsys, sample, sample_argv(here / "photos", NAME))
    assert "another process is restoring images into it" in line
    assert sample.main(sample_argv(here / "photos", NAME)) == 0


@pytest.mark.parametrize(("size", "where"), [(20_000, ".recon.parts/arr"), (295_000, "recon.pt")])
def test_a_full_disk_is_one_line_and_the_run_resumes_later(here, capsys, size, where):
    """A limit on the size of files stands for the full disk."""
    argv = sample_argv(here / "photos", NAME, "--batch-size", "4")  # batches of 49 KiB, recon.pt of 288 KiB
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        line = refusal(capsys, sample, argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert where in line
    assert "cannot be written" in line
    assert not (here / FOLDER / "recon.pt").exists()
    assert sample.main(argv) == 0
    assert len(torch.load(here / FOLDER / "recon.pt", weights_only=True)["arr"]) == 24


def test_a_folder_that_cannot_be_written_to_is_one_line(trained, monkeypatch):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "run"
        shutil.copytree(trained, place)
        for folder in (Path(name), place):
            folder.chmod(0o755)
        monkeypatch.chdir(place)

        def run():
            with contextlib.redirect_stderr(io.StringIO()) as said:
                code = sample.main(sample_argv(place / "photos", NAME))
            return code, said.getvalue().strip().splitlines()[-1]

        answer = as_child(run, no_root=True)
    path = "results/sr4x-pool/samples_nfe2/log.txt"
    assert answer.startswith(f"(2, 'sample.py: error: {path}: cannot be written: "), answer


def test_nan_stops_the_run(here, capsys):
    path = here / "results" / NAME / "latest.pt"
    state = torch.load(path, weights_only=False)
    state["ema"]["shadow_params"][-1].fill_(float("nan"))
    torch.save(state, path)
    assert "image 0: restored to NaN or inf" in refusal(capsys, sample, sample_argv(here / "photos", NAME))
