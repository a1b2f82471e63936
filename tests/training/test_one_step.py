"""A step of training seen from inside: what the options do to the network, and that nothing waits for the device."""

import itertools
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_runs import train_argv
from torch import nn
from waiting import Waits

from corruption import build_corruption
from guided_diffusion.unet import AttentionBlock, ResBlock
from i2sb.meter import Meter
from i2sb.optimizer import Optimizer
from i2sb.options import parse_train_options
from i2sb.runner import Runner
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


def inner_convolution(training: Training) -> nn.Conv2d:
    """The first convolution of the middle block, whose activations have more than one channel and pixel."""
    return training.runner.net.diffusion_model.middle_block[0].in_layers[2]


def seen_at(module: nn.Module) -> list[torch.Tensor]:
    """What will come out of the module, call by call."""
    outputs = []
    module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    return outputs


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_torso_computes_in_the_precision_asked_for(begin, precision, dtype):
    training = begin("--precision", precision)
    convolution = inner_convolution(training)
    outputs = seen_at(convolution)
    training.step(images(1))  # CPUs are slow at fp16
    assert [output.dtype for output in outputs] == [dtype]
    assert convolution.weight.dtype == torch.float32


def test_degradations_compute_in_full_float32(begin):
    training, seen = begin("--precision", "tf32"), []
    training.corrupt = lambda x0: seen.append(torch.get_float32_matmul_precision()) or x0
    training.step(images())
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
    training.step(images())
    for kind in (AttentionBlock, ResBlock):
        assert {calls[block] for block in blocks(training, kind)} == {2 if kind in again else 1}, kind


@pytest.mark.parametrize("flag", ["--channels-last", "--no-channels-last"])
def test_channels_last_is_the_layout_of_weights_images_and_activations(begin, flag):
    training = begin(flag)
    inputs, inner = [], seen_at(inner_convolution(training))
    training.runner.net.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    training.step(images())
    weights = [conv.weight for conv in blocks(training, nn.Conv2d) if conv.kernel_size == (3, 3)]
    last = [t.is_contiguous(memory_format=torch.channels_last) for t in (*weights, *inputs, *inner)]
    assert len(inputs) == len(inner) == 1
    assert last == [flag == "--channels-last"] * len(last)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The optimizer as on a GPU: AdamW's fused kernel, which reads on the device whether to skip."""
    always = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(Optimizer, "_on_gpu", always, raising=False)


@pytest.mark.parametrize(
    ("corrupt", "precision"), [("sr4x-pool", "fp32"), ("inpaint-freeform2030", "bf16"), ("sr4x-pool", "fp16")]
)
def test_no_step_reads_a_number(begin, as_on_a_gpu, corrupt, precision):
    """With all of the optimizer, fp16's scaling too.

    Not for mixture: which rows get which kind it looks up in CPU tensors, and here all tensors are on the CPU.
    The test below distinguishes them.
    """
    training = begin("--precision", precision, corrupt=corrupt)
    assert training.optimizer.adamw.param_groups[0]["fused"]
    batches, meter = images(1), Meter(training.runner.device, 1)
    meter.add(*training.step(batches))
    with Waits() as waits:
        meter.add(*training.step(batches))
    assert waits.count > 500
    assert [name for name in waits.seen if waits.reads_data(name)] == []
    assert training.optimizer.skipped() == (0, 0)


@pytest.mark.parametrize("corrupt", ["sr4x-pool", "jpeg-10", "blur-uni", "inpaint-freeform2030", "mixture"])
def test_no_step_takes_anything_from_the_device(begin, as_on_a_gpu, monkeypatch, corrupt):
    """On the meta device, which holds no data: whatever asks a tensor there for its numbers is an error.

    So item, float(), tolist, cpu, nonzero and `if` fail on what would lie on a GPU, and are free on the CPU's
    own tensors.  Only AdamW's kernel is left out: torch has none for this device.
    """
    monkeypatch.setattr("i2sb.optimizer.AdamW", NoKernel)
    training = begin(corrupt=corrupt, device="meta")
    batches, meter = images(40), Meter(training.runner.device, 40)  # 40: most kinds of mixture are among them
    for _ in range(2):
        meter.add(*training.step(batches))
    with pytest.raises((RuntimeError, NotImplementedError)):  # the probe works
        meter.read()


class NoKernel(torch.optim.AdamW):
    """AdamW that steps nowhere."""

    def __init__(self, parameters, **options):
        super().__init__(parameters, **{**options, "fused": None})

    def step(self, closure=None):
        return None
