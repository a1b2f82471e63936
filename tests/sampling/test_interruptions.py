"""Runs that are killed, and places that cannot be written to: peak memory; real processes, real limits."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT, as_child, largest_file, until
from small_runs import FOLDER, NAME, metrics_argv, refusal, restore, sample_argv
from warm import two_ranks

import sample
from i2sb.runtime.files import lock

FLAGS = ["--nfe", "9", "--batch-size", "2"]  # 12 batches of about 0.1 s
SIZE = 64  # pixels: 448 images more are 21 MiB as float32
GROWTH = 12  # MiB: most of a peak is torch itself, 5 % of it would let all the images hide there


def kill_after_a_batch(here, warm, *flags):
    """Start sample.py, and kill -9 it soon after one more batch is there."""
    parts = here / "results" / NAME / "samples_nfe9/.recon.parts"

    def done():
        return sum(path.stat().st_size for path in parts.glob("rows.*"))

    before, run = done(), warm("sample", sample_argv(here / "photos", NAME, *flags))
    until(lambda: done() > before)
    assert run.kill(signal.SIGKILL, 0.05)
    run.wait()


def test_a_killed_run_resumes_to_the_same_bits(here, warm):
    folder = restore(here, *FLAGS).with_name("samples_nfe9")
    expected = (folder / "recon.pt").read_bytes()
    shutil.rmtree(folder)
    pictures = ["--save-images", "png", "--save-trajectory", "3"]
    kill_after_a_batch(here, warm, *FLAGS, *pictures)
    restore(here, *FLAGS, *pictures)
    assert (folder / "recon.pt").read_bytes() == expected
    assert len(list((folder / "images").rglob("*.png"))) == 24
    assert len(list((folder / "trajectories").glob("*.webp"))) == 3
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".recon.parts").exists()


def test_nodes_without_a_shared_folder_are_told_why(here, warm, tmp_path):
    shutil.copytree(here, tmp_path / "other")
    change = f"if os.environ['RANK'] == '1': os.chdir({str(tmp_path / 'other')!r})"
    for rank in two_ranks(warm, "sample", sample_argv(here / "photos", NAME), change):
        code, last = rank.wait()
        assert code == 2
        assert last.startswith(f"sample.py: error: rank 1 does not see what rank 0 writes into {FOLDER}: start all")


def test_a_second_run_on_the_same_folder_is_refused(here, capsys):
    (here / FOLDER).mkdir(parents=True)
    with lock(here / FOLDER / ".recon.lock"):
        line = refusal(capsys, sample, sample_argv(here / "photos", NAME))
    assert "another process is restoring images into it" in line
    assert sample.main(sample_argv(here / "photos", NAME)) == 0


@pytest.mark.parametrize(("size", "where"), [(20_000, ".recon.parts/arr"), (295_000, "recon.pt")])
def test_a_full_disk_is_one_line_and_the_run_resumes_later(here, capsys, size, where):
    argv = sample_argv(here / "photos", NAME, "--batch-size", "4")  # batches of 49 KiB, recon.pt of 288 KiB
    with largest_file(size):
        line = refusal(capsys, sample, argv)
    assert where in line
    assert "cannot be written" in line
    assert not (here / FOLDER / "recon.pt").exists()
    assert sample.main(argv) == 0
    assert len(torch.load(here / FOLDER / "recon.pt", weights_only=True)["arr"]) == 24


def test_a_folder_that_cannot_be_written_to_is_one_line(place, monkeypatch):
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "run"
        shutil.copytree(place, copy)
        for folder in (Path(name), copy):
            folder.chmod(0o755)
        monkeypatch.chdir(copy)

        def run():
            with contextlib.redirect_stderr(io.StringIO()) as said:
                code = sample.main(sample_argv(copy / "photos", NAME))
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


# --- peak memory


PEAKS = """
import ast, os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import compute_metrices, sample
import corruption, dataset.imagenet, evaluation.judge, i2sb.network, i2sb.restore, i2sb.runner, torchmetrics
i2sb.network.BridgeNet.forward = lambda net, xt, step, cond=None: xt / 2  # the network's takes long
def watch():  # pages of mapped files do not count
    while True:
        sizes.append(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")))
        time.sleep(0.003)
for script, argv in ast.literal_eval(sys.argv[2]):
    if os.fork() == 0:  # a child's peak begins with what the libraries use
        sizes = []
        threading.Thread(target=watch, daemon=True).start()
        assert globals()[script].main(argv) == 0
        print("peak", max(sizes), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("count", [512, pytest.param(1000, marks=pytest.mark.slow)])
def test_peak_memory_does_not_grow_with_the_number_of_images(here, count):
    rng = np.random.default_rng(0)
    (here / "many/val/noise").mkdir(parents=True)
    names = [f"noise/{i:04d}.png" for i in range(count)]
    for name in names:
        pixels = np.linspace(0, 200, SIZE)[:, None, None] + rng.integers(0, 50, (SIZE, SIZE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(here / "many/val" / name, compress_level=0)
    (here / "few.txt").write_text("\n".join(names[:64]))
    calls = []
    for limit in (["--val-list", str(here / "few.txt")], []):
        flags = ["--batch-size", "16", "--image-size", str(SIZE), *limit]
        calls.append(("sample", sample_argv(here / "many", NAME, "--nfe", "1", "--overwrite", *flags)))
        judge = metrics_argv(here / "many", NAME, "samples_nfe1", "--metrics", "psnr", *flags)
        calls.append(("compute_metrices", judge))
    # What malloc keeps for later differs by 20 MiB from run to run: here it gives back what is freed.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "524288"}
    command = [sys.executable, "-c", PEAKS, str(ROOT), repr(calls)]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=240, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    peaks = [int(each.split()[0]) / 1024 for each in done.stdout.split("peak ")[1:]]
    sample_few, judge_few, sample_all, judge_all = peaks
    assert sample_all <= sample_few + GROWTH
    assert judge_all <= judge_few + GROWTH
