"""The same images from any batch size, number of processes, launcher, partition, precision, and after a resume."""

import contextlib
import logging
import shutil
from types import SimpleNamespace as Options

import pytest
import torch
from small_runs import FOLDER, NAME, images, interrupt, restore, sample_argv, script, train_argv
from waiting import Waits

import train
from i2sb.ckpt_util import build_ckpt_option
from i2sb.noise import ImageNoise
from i2sb.recon import find_recon
from i2sb.runner import Runner

SAME = {"rtol": 0, "atol": 2e-5}  # kernels sum in another order for another batch shape


def restored(here, *flags, fresh=True):
    if fresh:
        shutil.rmtree(here / FOLDER, ignore_errors=True)
    return images(restore(here, *flags))


def test_batch_size_and_a_resume_with_another_one(here):
    other = restored(here, "--batch-size", "5", "--seed", "1")
    whole = restored(here, "--batch-size", "24")
    small = restored(here, "--batch-size", "5")
    assert (other - small).abs().max() > 1e-3
    torch.testing.assert_close(small, whole, **SAME)
    # as a killed run leaves it: batches of 5, two of them missing
    shutil.rmtree(here / FOLDER)
    interrupt(here, "--batch-size", "5", lost=[1, 4])
    again = restored(here, "--batch-size", "3", fresh=False)
    assert torch.equal(again[10:20], small[10:20])
    torch.testing.assert_close(again, whole, **SAME)


def test_two_processes_give_the_same_bits_at_equal_batch_shape(here):
    alone = restored(here, "--batch-size", "4")
    shutil.rmtree(here / FOLDER)
    done = script("sample", sample_argv(here / "photos", NAME, "--batch-size", "4", "--n-gpu-per-node", "2"), here)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.equal(images(here / FOLDER), alone)


def test_parts_together_are_the_whole(here):
    whole = restored(here, "--batch-size", "24")
    shutil.rmtree(here / FOLDER)
    for part in range(5):  # 5 does not divide 24
        restore(here, "--partition", f"{part}_5", "--batch-size", "2")
    paths = find_recon(here / FOLDER)
    parts = torch.cat([torch.load(path, weights_only=True)["arr"] for path in paths])
    torch.testing.assert_close(parts, whole, **SAME)


def speak_up(here):
    """Large weights in the last layer: a network that hardly learned says nearly nothing, in any precision."""
    path = here / "results" / NAME / "latest.pt"
    state = torch.load(path, weights_only=False)
    state["ema"]["shadow_params"][-2].normal_(std=0.05)
    torch.save(state, path)


def test_precisions_are_close_to_fp32(here):
    """fp16 and bf16 keep 11 and 8 bits of a number; restored images are in about [-1,1] after two steps."""
    speak_up(here)
    paths = sorted((here / "photos/val").glob("*/*.png"))[::4]  # CPUs are slow at fp16
    (here / "few.txt").write_text("".join(f"{path.parent.name}/{path.name}\n" for path in paths))
    few = ["--val-list", here / "few.txt"]
    exact = restored(here, *few)
    assert len(exact) == 6
    for flags, within in (
        ("--precision tf32", 2e-5),  # on a CPU the same as fp32
        ("--precision bf16", 1e-2),
        ("--use-fp16", 2e-3),
        ("--no-channels-last", 2e-5),
    ):
        difference = (restored(here, *few, *flags.split()) - exact).abs().max().item()
        print(f"{flags}: largest difference {difference:.2e}")
        assert difference <= within, flags
        assert (difference > 1e-6) == (within > 1e-3), flags  # half precision was really at work


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_give_the_same_images(here):
    torch.testing.assert_close(restored(here, "--compile", "--batch-size", "10"), restored(here), rtol=0, atol=1e-4)


@pytest.mark.parametrize("corrupt", ["sr4x-pool", "inpaint-center"])
def test_no_step_waits_for_the_device(here, corrupt):
    assert train.main(train_argv(here / "photos", "--num-itr", "1", "--name", "waits", corrupt=corrupt)) == 0
    opt = build_ckpt_option(Options(device="cpu"), None, "results/waits")
    runner = Runner(opt, logging.getLogger("test"), save_opt=False)
    runner.keep_average_only()
    noise = ImageNoise(0, range(3))
    x1 = noise.randn_like(torch.empty(3, 3, 32, 32))
    mask = (x1[:, :1] > 0).float() if corrupt.startswith("inpaint") else None
    seen = {}
    for nfe in (2, 8):
        with Waits() as waits:
            noisy = {"randn": noise.randn_like, "redraw_hole": False}
            runner.ddpm_sampling(opt, x1, mask=mask, nfe=nfe, log_count=1, verbose=False, **noisy)
        seen[nfe] = waits.seen
    assert waits.count > 500
    assert seen[2] == seen[8]  # inputs to the device before the first step, the result to the CPU after the last
    assert set(seen[8]) <= {"to", "_to_copy"}


def test_the_probe_of_waiting_sees_a_number_that_is_read():
    with Waits() as waits, contextlib.suppress(RuntimeError):
        torch.ones(1).sum().item()
    assert "_local_scalar_dense" in waits.seen
