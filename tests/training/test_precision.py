"""Every way to train in less memory or time, against plain fp32 on a small network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_runs import photos, train_argv

import train
from i2sb.ckpt_util import load_checkpoint
from i2sb.precision import LOW

# How far the mean loss of the last iterations may be from fp32's, relatively.  What is the same mathematics in
# another order of rounding stays close; half precision has 8 (bf16) or 11 (fp16) bits.
TOLERANCE = {
    "tf32": 1e-3,
    "bf16": 5e-2,
    "fp16": 2e-2,
    "grad-checkpoint attention": 1e-5,
    "grad-checkpoint all": 1e-5,
    "channels-last": 1e-2,
    "compile": 1e-2,
}
FLAGS = {
    "tf32": ["--precision", "tf32"],
    "bf16": ["--precision", "bf16"],
    "fp16": ["--precision", "fp16"],
    "grad-checkpoint attention": ["--grad-checkpoint", "attention"],
    "grad-checkpoint all": ["--grad-checkpoint", "all"],
    "channels-last": ["--channels-last"],
    "compile": ["--compile"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    photos(folder / "photos")
    return folder


def curve(place, name: str, num_itr: int, *flags: str) -> np.ndarray:
    """Loss of each iteration of a run that went through all of them."""
    argv = train_argv(place / "photos", "--num-itr", num_itr, "--lr", "3e-4", "--name", name, *flags)
    metrics = Path(f".log/{name}/metrics.jsonl")
    metrics.unlink(missing_ok=True)
    assert train.main([*argv, "--overwrite"]) == 0
    losses = {
        line["step"]: line["loss"] for line in map(json.loads, metrics.read_text().splitlines()) if "loss" in line
    }
    assert list(losses) == list(range(1, num_itr + 1))  # a signal ends a run early, and well
    return np.array(list(losses.values()))


@pytest.fixture(scope="module")
def plain(place):
    """The number of iterations -> the curve of fp32, computed once."""
    curves = {}

    def get(num_itr: int) -> np.ndarray:
        if num_itr not in curves:
            curves[num_itr] = curve(place, "plain", num_itr)
        return curves[num_itr]

    return get


def compare(place, plain: np.ndarray, case: str, tolerance: float) -> None:
    num_itr, half = len(plain), len(plain) // 2
    other = curve(place, "other", num_itr, *FLAGS[case])
    difference = abs(other[half:].mean() / plain[half:].mean() - 1)
    print(f"{case}, {num_itr} iterations: mean loss {plain[half:].mean():.5f} and {other[half:].mean():.5f}")
    assert difference < tolerance
    if case in LOW:
        assert difference > 0  # half precision was really at work
    for tensor in load_checkpoint("results/other/latest.pt")["net"].values():
        assert str(tensor.dtype) == "torch.float32"  # the weights are float32 whatever the products are


@pytest.mark.parametrize("case", [case for case in FLAGS if case != "compile"])
def test_twenty_steps(place, plain, case, monkeypatch):
    monkeypatch.chdir(place)
    num_itr = 4 if case == "fp16" else 20  # CPUs are slow at it
    compare(place, plain(num_itr), case, TOLERANCE[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", FLAGS)
def test_two_hundred_steps(place, plain, case, monkeypatch):
    if case == "compile" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    monkeypatch.chdir(place)
    compare(place, plain(200), case, 2 * TOLERANCE[case])


def test_tensorboard_gets_scalars_and_five_grids(place, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(place)
    flags = ["--log-writer", "tensorboard", "--eval-every", "2", "--eval-nfe", "3", "--name", "shown", "--num-itr", "3"]
    assert train.main(train_argv(place / "photos", *flags)) == 0
    events = EventAccumulator(".log/shown", size_guidance={"images": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    grids = {"image/clean", "image/corrupt", "image/recon", "trajectory/recon_traj", "trajectory/pred_clean_traj"}
    assert set(tags["images"]) == grids
    assert [image.step for image in events.Images("image/recon")] == [0, 2]
    assert {"loss", "grad_norm", "lr", "images_per_second", "psnr/recon", "psnr/corrupt"} <= set(tags["scalars"])
    written = [json.loads(line) for line in Path(".log/shown/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in written if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    picture = events.Images("trajectory/recon_traj")[0]
    assert picture.width > picture.height  # the states side by side, a row per image
