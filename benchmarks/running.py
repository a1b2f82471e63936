"""Rows of files and processes: loading, start-up, checkpoints, ranks; and what is computed of memory and links."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from benchmarks import textbook
from benchmarks.computing import PHOTOGRAPHS, QUIET, begin
from benchmarks.timing import Row, Setting, same, seconds
from dataset.build import build_lmdb
from dataset.images import ImageDataset
from dataset.store import LmdbImages
from dataset.transforms import build_test_transform
from guided_diffusion import presets
from guided_diffusion.memory import PARTS, saved_bytes, shapes_only
from i2sb.options import parse_train_options
from i2sb.runtime.distributed import StopSignal, is_main
from i2sb.runtime.launch import launch

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
SMALL = ["--corrupt", "sr4x-pool", "--eval-every", "0", "--num-workers", "0", "--overwrite", "--dataset-dir", "data"]


def _photographs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """`count` JPEG files in a folder of one class."""
    files, folder = sorted(PHOTOGRAPHS.glob("*.jpg")), folder / "photographs"
    folder.mkdir(parents=True)
    for number in range(count):
        with Image.open(files[number % len(files)]) as image:
            image.convert("RGB").resize(size).save(folder / f"{number:03}.jpg", quality=95)
    return folder


def loading(s: Setting) -> Iterator[Row]:
    """Files of ImageNet's usual size out of an LMDB, in one process; the floor: Pillow's own decoding and resizing."""
    count, size, about = (2, 32, (50, 40)) if s.tiny else (64, 256, (500, 400))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's worker
    with tempfile.TemporaryDirectory() as folder:
        source, lmdb = _photographs(Path(folder, "images"), count, about), Path(folder, "lmdb")
        dataset = ImageDataset(LmdbImages(lmdb), build_lmdb(source.parent, lmdb, log=QUIET), build_test_transform(size))
        contents = [file.read_bytes() for file in sorted(source.iterdir())]
        found = [torch.stack([dataset[i][0] for i in range(count)])]
        found.append(torch.stack([textbook.load_image(content, size) for content in contents]))
        ours, theirs, floor = seconds(
            s,
            lambda: [dataset[i] for i in range(count)],
            lambda: [textbook.load_image(content, size) for content in contents],
            lambda: [
                textbook.decode(content).resize((size * about[0] // about[1], size), Image.Resampling.BILINEAR)
                for content in contents
            ],
        )
    torch.set_num_threads(threads)
    note = f"{same(*found, 1e-6)}; {count / ours:.0f} images/s per worker"
    yield Row(f"LMDB to image of {size} px", ours / count, theirs / count, floor / count, note)


# Its own small process: on Linux, the peak of a child begins with what its parent has when it starts.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def start_up(s: Setting) -> Iterator[Row]:
    """From the shell; the floors: Python itself, or with `import torch`."""

    def shell(*argv: str | Path, cwd: Path = ROOT) -> float:
        command = [sys.executable, *map(str, argv)]
        return seconds(s, lambda: subprocess.run(command, cwd=cwd, check=True, capture_output=True), rounds=2)[0]

    python, with_torch = shell("-c", "pass"), shell("-c", "import torch")
    for script in ("train", "sample", "compute_metrices"):
        yield Row(f"{script}.py --help", shell(ROOT / f"{script}.py", "--help"), None, python)
    without = "import i2sb, sys; assert 'torch' not in sys.modules"
    yield Row("import i2sb", shell("-c", without), None, python, "without torch")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = _photographs(folder / "data/train", 8, (32, 32) if s.tiny else (320, 240))
        device, net = ["--device", str(s.device)], ("tiny", "32") if s.tiny else ("small", "64")
        argv = ["--ckpt", "demo-jpeg-10", "--input", pictures / "000.jpg", "--output", "restored", "--nfe", "1"]
        took = shell(ROOT / "sample.py", *argv, *device, "--overwrite", cwd=folder)
        yield Row("restore one photograph, NFE 1", took, None, with_torch)
        _photographs(folder / "large", 1, (64, 48) if s.tiny else (4000, 3000))
        argv = ["--ckpt", "demo-jpeg-10", "--input", "large", "--output", "restored-large", "--nfe", "1", *device]
        command = [sys.executable, "-c", PEAK, sys.executable, ROOT / "sample.py", *argv]
        since = s.clock()
        peak = int(subprocess.check_output(command, cwd=folder)) / 2**20
        took = s.clock() - since
        yield Row("restore 12 megapixels, NFE 1", took, None, with_torch, f"{peak:.2f} GiB at its peak")
        argv = [*SMALL, "--net", net[0], "--image-size", net[1], "--batch-size", "8", "--num-itr", "1"]
        took = shell(ROOT / "train.py", *argv, *device, cwd=folder)
        yield Row(f"train.py, {net[0]}, {net[1]} px: first iteration and its checkpoint", took, None, with_torch)


def checkpoint(s: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        training, x0 = begin(s, *(("tiny", 16, 1) if s.tiny else ("medium", 64, 1)), folder=folder)
        training.step(itertools.repeat((x0,)), StopSignal())
        stands, whole = [], []
        for _ in range(4):
            since = time.perf_counter()
            training.save()
            stands.append(time.perf_counter() - since)
            training.finish_saving()
            whole.append(time.perf_counter() - since)
    yield Row("checkpoint: the loop stands still", min(stands), min(whole), None, "plain: until it is on the disk")


def all_reduce(opt: argparse.Namespace) -> None:
    """What a rank of `ranks` does: into the file `opt.took` the shortest of some all-reduces of `opt.count` numbers."""
    numbers, took = torch.ones(opt.count), []
    for _ in range(10):
        since = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        took.append(time.perf_counter() - since)
    if is_main():
        Path(opt.took).write_text(str(min(took)))


def ranks(s: Setting) -> Iterator[Row]:
    """Two processes with gloo against one, and what all-reduces of ADM-256 would take elsewhere."""
    speeds = []
    with tempfile.TemporaryDirectory() as name:
        _photographs(Path(name, "data/train"), 8, (96, 96))
        net = ["--net", "tiny", "--image-size", "16"] if s.tiny else ["--net", "small", "--image-size", "64"]
        for count in "12":
            argv = [*SMALL, *net, "--batch-size", "16", "--num-itr", "4" if s.tiny else "12", "--log-every", "2"]
            argv += ["--n-gpu-per-node", count, "--name", count, "--device", "cpu"]
            subprocess.run([sys.executable, ROOT / "train.py", *argv], cwd=name, check=True, capture_output=True)
            lines = map(json.loads, Path(name, ".log", count, "metrics.jsonl").read_text().splitlines())
            speeds.append(max(line.get("images_per_second", 0) for line in lines))
        opt = parse_train_options([*SMALL, "--n-gpu-per-node", "2", "--device", "cpu"])
        opt.count = sum(p.numel() for p in shapes_only(presets.resolve(net[1])).parameters())
        opt.took = Path(name, "took")
        launch(opt, all_reduce)
        took = float(opt.took.read_text())
    yield Row("training, 2 gloo ranks against 1", 1 / speeds[1], 1 / speeds[0], None, "seconds per image")
    note = f"measured: {4 * opt.count / 1e6:.1f} MB, {took * speeds[1] / 16:.1%} of the step"
    yield Row(f"all-reduce of {net[1]} between 2 gloo ranks", took, None, None, note)
    size = 4 * sum(p.numel() for p in shapes_only(presets.resolve("adm-256")).parameters())
    for rate in (25, 100):
        note = f"computed: {size / 1e9:.2f} GB of gradients per step, 8 ranks in a ring"
        yield Row(f"all-reduce of ADM-256 at {rate} GB/s", 2 * 7 / 8 * size / rate / 1e9, None, None, note)


def memory(s: Setting) -> Iterator[Row]:
    """A training of ADM-256 at 256 px with --microbatch 1."""
    name, size = ("tiny", 32) if s.tiny else ("adm-256", 256)
    kwargs = presets.resolve(name)
    once = sum(PARTS.values()) * sum(p.numel() for p in shapes_only(kwargs).parameters()) / GIB
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for mode in ("none", "attention", "all"):
            kept = saved_bytes(shapes_only(kwargs, dtype, mode), size, size, 1) / GIB
            fits = [f"{card}" for card in (12, 16, 24) if once + kept + 1 < card]  # 1 GiB: working memory of kernels
            note = (
                f"computed: {once:.1f} once, {kept:.2f} for an image; fits into {' '.join(fits) or 'none of 12 16 24'}"
            )
            yield Row(f"memory, {name}, {precision}, --grad-checkpoint {mode}", once + kept, None, None, note, "GiB")
