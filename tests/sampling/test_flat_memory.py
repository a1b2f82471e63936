"""Peak memory of real processes: 64 and 512 images need the same."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from places import FOLDER, NAME
from processes import ROOT
from small_runs import metrics_argv, sample_argv

PEAK = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import importlib
code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
# Not getrusage: its ru_maxrss begins with the size of the process that started this one.
print("peak", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""
SIZE = 64  # pixels: 448 images more are 21 MiB as float32
GROWTH = 12  # MiB: most of a peak is torch itself, 5 % of it would let all the images hide there


def peak_mib(here, script, argv):
    command = [sys.executable, "-c", PEAK, str(ROOT), script, *argv]
    # What malloc keeps for later differs by 20 MiB from run to run: here it gives back what is freed.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "524288"}
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=240, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split("peak ")[1]) / 1024


@pytest.fixture
def many(here):
    """512 validation images of noise on a slope, and a list that names 64 of them."""
    rng = np.random.default_rng(0)
    folder = here / "many/val/noise"
    folder.mkdir(parents=True)
    slope = np.linspace(0, 200, SIZE)[:, None, None]
    names = [f"{i:04d}.png" for i in range(512)]
    for name in names:
        pixels = slope + rng.integers(0, 50, (SIZE, SIZE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name, compress_level=0)
    (here / "few.txt").write_text("".join(f"noise/{name}\n" for name in names[:64]))
    return here / "many"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from Linux's /proc")  # noqa: PTH110
def test_peak_memory_does_not_grow_with_the_number_of_images(many, here, capsys):
    peaks = {"sample": [], "compute_metrices": []}
    size = ["--image-size", str(SIZE)]
    for limit in (["--val-list", str(here / "few.txt")], []):
        argv = sample_argv(many, NAME, "--nfe", "1", "--batch-size", "16", "--overwrite", *size, *limit)
        peaks["sample"].append(peak_mib(here, "sample", argv))
        argv = metrics_argv(many, NAME, FOLDER.rpartition("/")[2].replace("2", "1"), "--batch-size", "16")
        argv += ["--metrics", "psnr"]
        peaks["compute_metrices"].append(peak_mib(here, "compute_metrices", [*argv, *size, *limit]))
    with capsys.disabled():
        for script, (few, all_) in peaks.items():
            print(f"\n{script}.py, peak memory: 64 images {few:.0f} MiB, 512 images {all_:.0f} MiB", end="")
    for few, all_ in peaks.values():
        assert all_ <= 1.05 * few
        assert all_ <= few + GROWTH
