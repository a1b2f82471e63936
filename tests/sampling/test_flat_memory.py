"""Peak memory of real processes: 64 and 512 images need the same.  Pages of mapped files do not count."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import NAME
from processes import ROOT
from small_runs import metrics_argv, sample_argv

PEAKS = """
import ast, os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import compute_metrices, sample
import corruption, dataset.imagenet, evaluation.judge, i2sb.restore, i2sb.runner, torchmetrics
def watch():
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
SIZE = 64  # pixels: 448 images more are 21 MiB as float32
GROWTH = 12  # MiB: most of a peak is torch itself, 5 % of it would let all the images hide there


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_peak_memory_does_not_grow_with_the_number_of_images(here):
    rng = np.random.default_rng(0)
    (here / "many/val/noise").mkdir(parents=True)
    names = [f"noise/{i:04d}.png" for i in range(512)]
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
