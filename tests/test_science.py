"""docs/science.md: its commands as they stand there, in miniature, and the operators of examples/science."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from processes import ROOT
from test_pages import QUICK, commands

import compute_metrices
import sample
import train
from corruption.build import create_corruption
from corruption.registry import load_file
from i2sb.recon import Recon, find_recon

SCIENCE = ROOT / "examples/science"
SMALLER = {
    "train.py": [*QUICK, "--image-size", "32", "--batch-size", "2", "--microbatch", "2", "--num-itr", "1"],
    "sample.py": QUICK,
    "compute_metrices.py": QUICK,
}


@pytest.fixture
def scripts(monkeypatch):
    """The scripts by name, those of examples/science too."""
    monkeypatch.syspath_prepend(SCIENCE)
    monkeypatch.setitem(sys.modules, "operators", sys.modules["operators_of_operators"])  # loaded below
    own = {name: importlib.import_module(name) for name in ("make_data", "classical")}
    monkeypatch.setattr(own["classical"], "NUM_TUNED", 1)
    yield {"train.py": train, "sample.py": sample, "compute_metrices.py": compute_metrices} | {
        f"examples/science/{name}.py": module for name, module in own.items()
    }
    for name in own:
        sys.modules.pop(name)


@pytest.fixture(scope="module", autouse=True)
def operators():
    load_file(SCIENCE / "operators.py")


def test_the_commands_run_in_their_order(scripts, monkeypatch, capsys):
    Path("examples").symlink_to(ROOT / "examples")
    for python, script, *argv in commands(ROOT / "docs/science.md"):
        assert python == "python"
        more = SMALLER.get(script, [])
        if script.endswith("make_data.py") and "tissue" not in argv:
            more = ["--size", "32", "--num-train", "3", "--num-val", "2"]
        elif "--image-size" in argv or (script in SMALLER and "--input" not in argv):
            more = [*more, "--image-size", "32"]
        assert scripts[script].main([*argv, *more]) == 0, (script, argv)
    for name, rows in {"tissue": 3, "mri": 3, "ct": 2}.items():
        scores = json.loads(Path(f"results/{name}/samples_nfe1/metrics.json").read_text())["scores"]
        assert len({scores[row]["psnr"]["value"] for row in ("degraded", "baseline", "restored")}) == rows
    assert "total variation: " in capsys.readouterr().out
    given, restored = (tifffile.imread(f"{folder}/0000.tif") for folder in ("ct/valA", "ct-restored"))
    assert (restored.dtype, restored.shape) == (given.dtype, given.shape) == (np.int16, (32, 32))
    assert -1000 <= restored.min() < 0 < restored.max() <= 1500
    assert Recon(find_recon(Path("results/ct/samples_nfe1"))).take([0]).dtype == torch.float32
    assert Path("cell/restored/cell.png").is_file()


def test_the_same_data_every_time(scripts):
    for out in ("one", "two"):
        argv = ["ct", "--out", out, "--size", "32", "--num-train", "2", "--num-val", "1"]
        assert scripts["examples/science/make_data.py"].main(argv) == 0
    files = [path.relative_to("one") for path in Path("one").rglob("*.tif")]
    assert len(files) == 6
    for path in files:
        assert Path("one", path).read_bytes() == Path("two", path).read_bytes()


def test_undersampled_mri():
    operator = create_corruption("fourier-4", 32)
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)).cumsum(3) / 16 - 1
    x1, lines = operator(x), operator.measured.bool()
    assert int(lines.sum()) in (7, 8, 9)
    spectrum, before = torch.fft.fft(x1), torch.fft.fft(x)
    torch.testing.assert_close(spectrum[..., lines], before[..., lines], rtol=0, atol=1e-4)
    torch.testing.assert_close(spectrum[..., ~lines].abs().max(), torch.tensor(0.0), rtol=0, atol=1e-4)
    baseline = operator.baseline(x1)
    torch.testing.assert_close(torch.fft.fft(baseline)[..., lines], before[..., lines], rtol=0, atol=1e-3)
    assert (baseline - x).square().mean() < 0.8 * (x1 - x).square().mean()


def test_photons_have_the_noise_of_their_number():
    operator = create_corruption("photons-20", 64)
    for level in (-1.0, 1.0):
        x = torch.full((1, 1, 64, 64), level)
        noise = operator(x, generator=torch.Generator().manual_seed(0)) - x
        electrons = 20 * (level + 1) / 2
        assert noise.std().item() / 2 * 20 == pytest.approx((electrons + 1) ** 0.5, rel=0.05)
        smooth = operator.baseline(x + noise)
        assert (smooth - x).square().mean() < 0.1 * noise.square().mean()
