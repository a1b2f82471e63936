"""Restoring through the published Python names gives the release's images at the same seed."""

import logging
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.formulas import image, weight

from corruption import build_corruption
from i2sb import Runner
from i2sb.ema import ExponentialMovingAverage

TESTS = Path(__file__).parents[1]
GOLDEN = np.load(TESTS / "golden/runner.npz")
NETWORKS = TESTS / "interop/data"
LOG = logging.getLogger(__name__)


def options(task: str, ot_ode: bool, cond_x1: bool, folder: Path) -> Namespace:
    """The original's options and nothing of ours."""
    training = {"lr": 5e-5, "l2_norm": 0.0, "lr_gamma": 0.99, "lr_step": 1000, "ema": 0.99, "use_fp16": False}
    bridge = {"interval": 100, "beta_max": 0.3, "ot_ode": ot_ode, "t0": 1e-4, "T": 1.0, "clip_denoise": False}
    run = {"device": "cpu", "distributed": False, "load": None, "ckpt_path": folder}
    return Namespace(corrupt=task, image_size=64, cond_x1=cond_x1, add_x1_noise=False, **training, **bridge, **run)


@pytest.fixture
def restore(tmp_path, monkeypatch):
    """(task, ot_ode, cond_x1, nfe) -> final images [2,3,64,64] of `image(64, 2, "x0")`, as a script of users would."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(NETWORKS, "data")

    def run(task: str, ot_ode: bool, cond_x1: bool, nfe: int) -> torch.Tensor:
        opt = options(task, ot_ode, cond_x1, tmp_path)
        runner = Runner(opt, LOG, save_opt=False)
        shapes = {key: tuple(value.shape) for key, value in runner.net.state_dict().items()}
        weights = {key: torch.from_numpy(weight(key, shape, "hash")) for key, shape in shapes.items()}
        runner.net.load_state_dict(weights)
        runner.ema = ExponentialMovingAverage(runner.net.parameters(), decay=0.99)

        x1, mask, cond = build_corruption(opt, LOG)(torch.from_numpy(image(64, 2, "x0"))), None, None
        if isinstance(x1, tuple):
            x1, mask = x1
        if cond_x1:
            torch.manual_seed(7)
            x1 = cond = x1 if mask is None else (1 - mask) * x1 + mask * torch.randn_like(x1)
        torch.manual_seed(0)
        xs, _ = runner.ddpm_sampling(opt, x1, mask=mask, cond=cond, clip_denoise=False, nfe=nfe, verbose=False)
        return xs[:, 0]

    return run


@pytest.mark.parametrize("key", sorted(GOLDEN))
def test_final_images_equal_the_published_ones(restore, key):
    task, ot, cond, nfe = key.split("/")
    found = restore(task, ot == "ot1", cond == "cond1", int(nfe.removeprefix("nfe")))
    np.testing.assert_allclose(found[:, :, ::3, ::3].numpy(), GOLDEN[key], rtol=0, atol=1e-4)
