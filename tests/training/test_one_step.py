"""What the options do to a step of training, that nothing waits for the device, and how far losses differ."""

import copy
import functools
import itertools
import logging
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import logged, train_argv
from torch import nn
from waiting import Waits

import train
from corruption import build_corruption
from guided_diffusion.unet import AttentionBlock, ResBlock
from i2sb.ckpt_util import load_checkpoint
from i2sb.meter import Meter
from i2sb.options import parse_train_options
from i2sb.runner import Runner
from i2sb.runtime.distributed import StopSignal
from i2sb.training import Training


@pytest.fixture
def begin(tmp_path):
    """begin("--flag", ...) -> a Training of the tiny network that is ready for its first step."""

    def start(*flags: str, corrupt: str = "sr4x-pool", device: str = "cpu") -> Training:
        opt = parse_train_options(train_argv(tmp_path, "--microbatch", "4", *flags, corrupt=corrupt))
        opt.device, opt.ckpt_path, opt.load, opt.global_rank, opt.global_size = device, Path("unused"), None, 0, 1
        log = logging.getLogger("test")
        runner = Runner(opt, log, save_opt=False)
        return Training(runner, opt, [], [], build_corruption(opt, log))

    return start


def images(count: int = 4):
    return itertools.repeat((torch.rand(count, 3, 32, 32) * 2 - 1,))


def blocks(training: Training, kind: type) -> list[nn.Module]:
    return [module for module in training.runner.net.modules() if isinstance(module, kind)]


def test_degradations_compute_in_full_float32(begin):
    training, seen = begin("--precision", "tf32"), []
    training.corrupt = lambda x0: seen.append(torch.get_float32_matmul_precision()) or x0
    training.step(images(), StopSignal())
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize(
    ("mode", "again"), [("none", ()), ("attention", (AttentionBlock,)), ("all", (AttentionBlock, ResBlock))]
)
def test_checkpointed_blocks_compute_twice_and_no_others(begin, mode, again):
    training = begin("--grad-checkpoint", mode)
    calls = Counter()
    for kind in (AttentionBlock, ResBlock):
        for block in blocks(training, kind):  # before, not after: the second computation may end early
            block.register_forward_pre_hook(lambda module, inputs: calls.update([module]))
    training.step(images(), StopSignal())
    for kind in (AttentionBlock, ResBlock):
        assert {calls[block] for block in blocks(training, kind)} == {2 if kind in again else 1}, kind


@pytest.mark.parametrize("flag", ["--channels-last", "--no-channels-last"])
def test_channels_last_is_the_layout_of_weights_images_and_activations(begin, flag):
    training, inputs, inner = begin(flag), [], []
    training.runner.net.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    convolution = training.runner.net.diffusion_model.middle_block[0].in_layers[2]  # of many channels and pixels
    convolution.register_forward_hook(lambda _, inputs, output: inner.append(output))
    training.step(images(), StopSignal())
    weights = [conv.weight for conv in blocks(training, nn.Conv2d) if conv.kernel_size == (3, 3)]
    last = [t.is_contiguous(memory_format=torch.channels_last) for t in (*weights, *inputs, *inner)]
    assert len(inputs) == len(inner) == 1
    assert last == [flag == "--channels-last"] * len(last)


@pytest.mark.parametrize(
    ("corrupt", "precision"), [("sr4x-pool", "fp32"), ("inpaint-freeform2030", "bf16"), ("sr4x-pool", "fp16")]
)
def test_no_step_reads_a_number(begin, corrupt, precision):
    """With all of the optimizer, fp16's scaling too.

    Not for mixture: which rows get which kind it looks up in CPU tensors, and here all tensors are on the CPU.
    The test below distinguishes them.
    """
    recipe = ["--loss-weight", "balanced", "--grad-clip", "1", "--lr-schedule", "cosine"]
    training = begin("--precision", precision, *(recipe if corrupt != "sr4x-pool" else []), corrupt=corrupt)
    batches, meter = images(1), Meter(training.runner.device, 1)
    meter.add(*training.step(batches, StopSignal()))
    with Waits() as waits:
        meter.add(*training.step(batches, StopSignal()))
    assert waits.count > 500
    assert [name for name in waits.seen if waits.reads_data(name)] == []
    assert training.optimizer.skipped() == (0, 0)


@pytest.mark.parametrize("corrupt", ["sr4x-pool", "jpeg-10", "blur-uni", "inpaint-freeform2030", "mixture"])
def test_no_step_takes_anything_from_the_device(begin, monkeypatch, corrupt):
    """On the meta device, which holds no data: whatever asks a tensor there for its numbers is an error.

    So item, float(), tolist, cpu, nonzero and `if` fail on what would lie on a GPU, and are free on the CPU's
    own tensors.  Only AdamW's kernel is left out: torch has none for this device.
    """
    monkeypatch.setattr("i2sb.optimizer.AdamW", NoKernel)
    training = begin(corrupt=corrupt, device="meta")
    batches, meter = images(40), Meter(training.runner.device, 40)  # 40: most kinds of mixture are among them
    for _ in range(2):
        meter.add(*training.step(batches, StopSignal()))
    with pytest.raises((RuntimeError, NotImplementedError)):  # the probe works
        meter.read()


class NoKernel(torch.optim.AdamW):
    """AdamW that steps nowhere."""

    def __init__(self, parameters, **options):
        super().__init__(parameters, **{**options, "fused": None})

    def step(self, closure=None):
        return None


def test_a_checkpoint_holds_the_moment_of_saving(begin, monkeypatch):
    """It is written beside the next steps, and none of them is in it."""
    training, go = begin(), threading.Event()
    training.step(images(), StopSignal())
    write = training._write
    monkeypatch.setattr(training, "_write", lambda content: go.wait(60) and write(content))
    before = copy.deepcopy(training._content([]))
    training.save()
    training.step(images(), StopSignal())
    go.set()
    training.finish_saving()
    saved = load_checkpoint(training.latest)
    for mine, now in ((saved["net"], before["net"]), (saved["optimizer"]["state"], before["optimizer"]["state"])):
        torch.testing.assert_close(dict(mine), dict(now), rtol=0, atol=0)
    after = training.runner.net.state_dict()
    assert any(not torch.equal(saved["net"][key], after[key]) for key in after)


# --- curves

# How far the mean loss of the last iterations may be from fp32's, relatively.  What is the same mathematics in
# another order of rounding stays close; half precision has 8 (bf16) or 11 (fp16) bits.
TOLERANCE = {"--precision tf32": 1e-3, "--precision bf16": 5e-2, "--precision fp16": 2e-2, "--no-channels-last": 1e-2}


@functools.cache
def curve(dataset: Path, num_itr: int, flags: str = "") -> tuple[np.ndarray, float]:
    """Loss of each iteration of a run that went through all of them, and the sum of its weights' absolute values."""
    Path(".log/a/metrics.jsonl").unlink(missing_ok=True)
    more = ["--num-itr", num_itr, "--lr", "3e-4", "--name", "a", "--overwrite", *flags.split()]
    assert train.main(train_argv(dataset, *more)) == 0
    losses = logged("a")
    assert list(losses) == list(range(1, num_itr + 1))  # a signal ends a run early, and well
    weights = load_checkpoint("results/a/latest.pt")["net"].values()
    for tensor in weights:
        assert tensor.dtype == torch.float32  # the weights are float32 whatever the products are
    return np.array(list(losses.values())), sum(tensor.double().abs().sum().item() for tensor in weights)


def compare(dataset: Path, num_itr: int, flags: str, tolerance: float) -> None:
    usual = "--channels-last" if flags == "--no-channels-last" else ""
    losses, weights = zip(*(curve(dataset, num_itr, each) for each in (usual, flags)))
    plain, other = (each[num_itr // 2 :].mean() for each in losses)
    print(f"{flags}, {num_itr} iterations: mean loss {plain:.5f} and {other:.5f}")
    assert abs(other / plain - 1) < tolerance
    if "16" in flags:
        assert weights[0] != weights[1]  # half precision was really at work


@pytest.mark.parametrize("flags", TOLERANCE)
def test_twenty_steps(dataset, flags):
    compare(dataset, 2 if "fp16" in flags else 20, flags, TOLERANCE[flags])  # CPUs are slow at fp16


@pytest.mark.slow
@pytest.mark.parametrize("flags", [*TOLERANCE, "--compile"])
def test_two_hundred_steps(dataset, flags):
    if flags == "--compile" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    compare(dataset, 200, flags, 2 * TOLERANCE.get(flags, 1e-2))
