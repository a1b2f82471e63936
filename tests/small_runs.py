"""Small real runs for tests: a data set of photographs, and the three scripts called as a user calls them."""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NET = ["--net", "tiny", "--channel-mult", "1,1"]
SIZE = ["--image-size", "32"]


def photos(folder: Path, train: int = 40, val: int = 4, size: int = 32) -> Path:
    """An ordinary data set folder with `train` training crops and `val` validation crops per photograph."""
    import logging

    from dataset.bundled import build_bundled_photos

    return build_bundled_photos(folder, logging.getLogger("test"), size=size, num_train=train, num_val=val)


def train_argv(dataset: Path, *more: str, corrupt: str = "sr4x-pool") -> list[str]:
    """Arguments of train.py for a run of seconds; later ones win."""
    fixed = ["--corrupt", corrupt, "--dataset-dir", str(dataset), *SIZE, *NET, "--device", "cpu"]
    sizes = ["--batch-size", "4", "--microbatch", "2", "--num-itr", "4", "--interval", "10", "--lr", "1e-3"]
    return [*fixed, *sizes, "--eval-every", "0", "--num-workers", "0", "--log-every", "1", *map(str, more)]


def sample_argv(dataset: Path, name: str, *more: str) -> list[str]:
    """Arguments of sample.py."""
    fixed = ["--ckpt", name, "--dataset-dir", str(dataset), "--device", "cpu", "--num-workers", "0"]
    return [*fixed, "--nfe", "2", *map(str, more)]


def metrics_argv(dataset: Path, name: str, folder: str, *more: str) -> list[str]:
    """Arguments of compute_metrices.py, without metrics that need weights from elsewhere; `more`: folders first."""
    fixed = ["--ckpt", name, "--dataset-dir", str(dataset), "--device", "cpu", "--num-workers", "0"]
    return [*fixed, "--metrics", "psnr", "ssim", "--sample-dir", folder, *map(str, more)]


def logged(name: str, key: str = "loss") -> dict[int, float]:
    """step -> value, from the metrics.jsonl of a training in the current folder."""
    lines = [json.loads(line) for line in Path(f".log/{name}/metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def script(name: str, argv: list[str], cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run an entry script in a process of its own."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **options)


def wait_until_said(text: str, said: Path, process: subprocess.Popen) -> None:
    """Until the file that takes a process's lines has this text."""
    deadline = time.monotonic() + 90
    while text not in said.read_text():
        assert process.poll() is None, said.read_text()[-2000:]
        assert time.monotonic() < deadline, said.read_text()[-2000:]
        time.sleep(0.05)
