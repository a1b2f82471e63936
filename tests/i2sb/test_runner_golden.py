"""Training and restoring through the published names give the release's own values at the same seed."""

import json
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

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {k: v for k, v in json.loads((GOLDEN / "train5.json").read_text()).items() if "microbatch_losses" in v}
NETWORK = json.loads((GOLDEN / "unet_small_meta.json").read_text())["tiny_uncond"]
LOG = logging.getLogger("test")
RUNNER = np.load(GOLDEN / "runner.npz")
NETWORKS = GOLDEN.parent / "interop/data"


class Degraded:
    """x1 = its own formula image (or x0 with a white hole); seeds torch before the very first draw."""

    def __init__(self, clean: torch.Tensor, hole: bool):
        self.clean, self.hole, self.called = clean, hole, False
        self.degraded = torch.from_numpy(image(64, len(clean), "x1"))

    def __call__(self, x0: torch.Tensor):
        if not self.called:
            torch.manual_seed(0)
            self.called = True
        if self.hole:
            mask = torch.zeros(1, 1, 64, 64)
            mask[..., 16:48, 16:48] = 1
            return x0 * (1 - mask) + mask, mask
        rows = [int((self.clean == x).flatten(1).all(1).nonzero()) for x in x0]
        return self.degraded[rows]


class Losses:
    """Collects what a writer is given."""

    def __init__(self):
        self.scalars = []

    def add_scalars(self, step, values):
        self.scalars.append(values)

    def add_image(self, *_):
        pass


class InOrder:
    """No shuffling: the golden batches are the rows in order."""

    def __init__(self, num_images: int, seed: int):
        self.num_images = num_images

    def __getitem__(self, position: int) -> int:
        return position % self.num_images


def checksum(tensors) -> tuple[float, float]:
    flat = torch.cat([t.detach().double().flatten() for t in tensors])
    return flat.sum().item(), (flat**2).sum().item()


@pytest.mark.parametrize("name", sorted(CASES))
def test_five_steps_equal_the_published_ones(name, tmp_path, monkeypatch):
    """Losses, weights, averages and moments."""
    golden = CASES[name]
    asked = golden["opt"]
    monkeypatch.setattr("i2sb.loader.EpochOrder", InOrder)
    count = asked.get("batch_size", 2)
    opt = Namespace(
        **{"image_size": 64, "corrupt": "jpeg-10", "interval": 100, "batch_size": 2, "microbatch": 2, **asked},
        **{"cond_x1": False, "t0": 1e-4, "T": 1.0, "beta_max": 0.3, "ot_ode": False, "num_itr": 5, "lr": 5e-5},
        **{"lr_gamma": 0.99, "lr_step": 1000, "ema": 0.99, "l2_norm": 0.0, "network": NETWORK["cfg"], "seed": 0},
        **{"device": "cpu", "ckpt_path": tmp_path, "load": None, "log_every": 1, "eval_every": 0, "num_workers": 0},
    )
    runner = Runner(opt, LOG, save_opt=False)
    state = {key: torch.from_numpy(weight(key, shape, "hash")) for key, shape in NETWORK["keys"].items()}
    runner.net.diffusion_model.load_state_dict(state)
    runner.ema.shadow_params = [p.detach().clone() for p in runner.net.parameters()]
    images, losses = torch.from_numpy(image(64, count, "x0")), Losses()
    clean = [(row, 0) for row in images]
    seen = []
    loss_of = runner.training_loss
    monkeypatch.setattr(runner, "training_loss", lambda *a: seen.append(loss_of(*a)) or seen[-1])
    corrupt = Degraded(images, hole=asked.get("corrupt") == "inpaint-center")

    assert runner.train(opt, clean, clean, corrupt, writer=losses)

    np.testing.assert_allclose([loss.item() for loss in seen], golden["microbatch_losses"], rtol=1e-4)
    per_step = np.reshape(golden["microbatch_losses"], (5, -1)).mean(1)
    np.testing.assert_allclose([values["loss"] for values in losses.scalars], per_step, rtol=1e-4)
    saved = torch.load(tmp_path / "latest.pt", weights_only=True)
    moments = saved["optimizer"]["state"].values()
    for key, tensors in {
        "params": saved["net"].values(),
        "ema": saved["ema"]["shadow_params"],
        "exp_avg": [m["exp_avg"] for m in moments],
        "exp_avg_sq": [m["exp_avg_sq"] for m in moments],
    }.items():
        tolerance = 1e-5 if key in ("params", "ema") else 1e-3
        want = golden[key]["sum"], golden[key]["sumsq"]
        np.testing.assert_allclose(checksum(tensors), want, rtol=tolerance, err_msg=key)
    first = golden["first_param"]
    np.testing.assert_allclose(saved["net"][first["name"]].flatten()[::97].numpy(), first["every97"], rtol=0, atol=1e-6)
    assert saved["ema"]["num_updates"] == golden["ema_num_updates"]
    assert saved["optimizer"]["param_groups"][0]["lr"] == pytest.approx(golden["final_lr"])


# --- restoring


def options(task: str, ot_ode: bool, cond_x1: bool, folder: Path) -> Namespace:
    """The original's options and nothing of ours."""
    training = {"lr": 5e-5, "l2_norm": 0.0, "lr_gamma": 0.99, "lr_step": 1000, "ema": 0.99, "use_fp16": False}
    bridge = {"interval": 100, "beta_max": 0.3, "ot_ode": ot_ode, "t0": 1e-4, "T": 1.0, "clip_denoise": False}
    run = {"device": "cpu", "distributed": False, "load": None, "ckpt_path": folder}
    return Namespace(corrupt=task, image_size=64, cond_x1=cond_x1, add_x1_noise=False, **training, **bridge, **run)


@pytest.fixture
def restore(tmp_path):
    """(task, ot_ode, cond_x1, nfe) -> final images [2,3,64,64] of `image(64, 2, "x0")`, as a script of users would."""
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


@pytest.mark.parametrize("key", sorted(RUNNER))
def test_final_images_equal_the_published_ones(restore, key):
    task, ot, cond, nfe = key.split("/")
    found = restore(task, ot == "ot1", cond == "cond1", int(nfe.removeprefix("nfe")))
    np.testing.assert_allclose(found[:, :, ::3, ::3].numpy(), RUNNER[key], rtol=0, atol=1e-4)
