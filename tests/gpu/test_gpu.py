"""What only a GPU can show: `bash scripts/test.sh -m gpu`.

On other machines `I2SB_TEST_DEVICE=cpu bash scripts/test.sh -m gpu` runs what does not need CUDA's own tools.
"""

import contextlib
import copy
import itertools
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from golden.formulas import image, weight
from small_runs import train_argv
from torch.nn.parallel import DistributedDataParallel

from corruption import TASKS, build_corruption, create_corruption
from guided_diffusion.memory import PARTS, saved_bytes, shapes_only
from guided_diffusion.script_util import create_model
from i2sb.batch import unpack
from i2sb.loader import training_loader
from i2sb.noise import TrainingDraws
from i2sb.options import parse_train_options
from i2sb.precision import set_float32_products
from i2sb.runner import Runner
from i2sb.runtime.distributed import StopSignal
from i2sb.training import Training

DEVICE = torch.device(os.environ.get("I2SB_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "mps"))
IS_CUDA = DEVICE.type == "cuda"
pytestmark = pytest.mark.gpu
cuda_only = pytest.mark.skipif(not IS_CUDA, reason="needs CUDA")

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = json.loads((GOLDEN / "unet_small_meta.json").read_text())
LOG = logging.getLogger("test")


def begin(*flags: str, net: str = "tiny", size: int = 32, batch: int = 4) -> tuple[Training, torch.Tensor]:
    """A training on the device that is ready for its first step, and its images; no weight is zero."""
    torch.manual_seed(0)
    sizes = ["--net", net, "--image-size", str(size), "--batch-size", str(batch), "--microbatch", str(batch)]
    opt = parse_train_options(train_argv(Path("unused"), *sizes, "--no-pretrained", *flags))
    opt.device, opt.ckpt_path, opt.load, opt.global_rank, opt.global_size = str(DEVICE), Path("unused"), None, 0, 1
    runner = Runner(opt, LOG, save_opt=False)
    torch.nn.init.normal_(runner.net.diffusion_model.out[-1].weight, std=0.02)
    runner.ema.follow()
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Training(runner, opt, [], [], build_corruption(opt, LOG)), images.to(DEVICE)


@contextlib.contextmanager
def no_waiting():
    """What waits for the GPU inside the block is an error."""
    if IS_CUDA:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if IS_CUDA:
            torch.cuda.set_sync_debug_mode("default")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_golden_values_in_fp32(name, layout):
    set_float32_products("fp32")
    model = create_model(**SMALL[name]["cfg"])
    keys = SMALL[name]["keys"].items()
    model.load_state_dict({key: torch.from_numpy(weight(key, shape, "hash")) for key, shape in keys})
    model.to(DEVICE, memory_format=layout)
    with torch.inference_mode():
        x = torch.from_numpy(image(64, 2, "open")).to(DEVICE).contiguous(memory_format=layout)
        out = model(x, torch.tensor([0.1, 777.25], device=DEVICE))
    every97 = torch.from_numpy(np.load(GOLDEN / "unet_small.npz")[f"{name}/hash/every97"])
    assert relative(out.cpu().contiguous().reshape(-1)[::97], every97) < 1e-4


@pytest.mark.parametrize("task", [task for task in TASKS[:9] if "freeform" not in task])
def test_degradations_equal_those_of_the_cpu(task):
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    here, there = (create_corruption(task, 64).to(place)(x.to(place)) for place in ("cpu", DEVICE))
    pairs = zip(here, there) if isinstance(here, tuple) else [(here, there)]
    for a, b in pairs:
        off = (a - b.cpu()).abs() > 1e-4
        assert off.float().mean() <= (0.01 if task.startswith("jpeg") else 0)  # a coefficient on a rounding edge


# tf32 has 11 bits of a number, as fp16; bf16 has 8.
@pytest.mark.parametrize(("precision", "within"), [("tf32", 1e-2), ("bf16", 5e-2), ("fp16", 1e-2)])
def test_step_and_restored_images_are_close_to_fp32(precision, within):
    results = {}
    for each in ("fp32", precision):
        training, x0 = begin("--precision", each)
        runner = training.runner
        torch.manual_seed(2)
        loss = runner.training_loss(unpack((x0,)), training.corrupt, TrainingDraws(), runner.forward)
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in runner.net.parameters()])
        runner.net.zero_grad()
        runner.keep_average_only()
        _, xs, _ = runner.restore(unpack((x0,)), training.corrupt, range(len(x0)), seed=0, nfe=3)
        results[each] = loss, gradients, xs[:, 0]
    for name, ours, exact in zip(("loss", "gradients", "images"), results[precision], results["fp32"]):
        print(f"{precision}: {name} differ by {relative(ours, exact):.1e}")
        assert relative(ours, exact) < within, name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_steps_with_nan_are_skipped_and_none_waits(precision):
    training, x0 = begin("--precision", precision, "--grad-clip", "1")
    good, bad, stop = itertools.repeat((x0,)), itertools.repeat((x0 * float("nan"),)), StopSignal()
    for _ in range(4):  # the first steps also allocate, and fp16 looks for its scale
        training.step(good, stop)
    skipped, _ = training.optimizer.skipped()
    before = [p.detach().clone() for p in training.runner.net.parameters()]
    with no_waiting():
        training.step(bad, stop)
    assert all(torch.equal(a, b) for a, b in zip(before, training.runner.net.parameters()))
    assert training.optimizer.skipped()[0] == skipped + 1
    with no_waiting():
        training.step(good, stop)
    assert not all(torch.equal(a, b) for a, b in zip(before, training.runner.net.parameters()))
    assert all(p.isfinite().all() for p in training.runner.net.parameters())


@pytest.mark.skipif(not (IS_CUDA or shutil.which("g++")), reason="torch.compile needs a compiler")
def test_a_compiled_network_computes_the_same():
    (plain, x0), (compiled, _) = begin(), begin("--compile")
    step = torch.arange(4, device=DEVICE)
    assert relative(compiled.runner.forward(x0, step), plain.runner.forward(x0, step)) < 1e-4


def test_images_come_through_pinned_memory():
    data = torch.utils.data.TensorDataset(torch.zeros(8, 3, 8, 8))
    opt = parse_train_options(train_argv(Path("unused"), "--num-workers", "1"))
    opt.global_rank, opt.global_size = 0, 1
    given = unpack(next(training_loader(data, opt, 0, DEVICE)))
    assert given.x0.is_pinned() == IS_CUDA
    with no_waiting():
        assert given.to(DEVICE).x0.device.type == DEVICE.type


def test_one_rank_of_the_gpus_own_collectives():
    training, x0 = begin()
    alone = copy.deepcopy(training.runner.net)
    dist.init_process_group("nccl" if IS_CUDA else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(training.runner.net, device_ids=[0] if IS_CUDA else None)
        for net in (alone, wrapped):
            net(x0, torch.arange(4, device=DEVICE)).square().mean().backward()
        pairs = [(p.grad, q.grad) for p, q in zip(alone.parameters(), training.runner.net.parameters())]
    finally:
        dist.destroy_process_group()
    assert all(relative(b, a) < 1e-5 for a, b in pairs if a.any())


@cuda_only
@pytest.mark.parametrize(("precision", "mode"), [("fp32", "all"), ("bf16", "none"), ("bf16", "all")])
def test_memory_of_adm_256_is_what_docs_scale_says(precision, mode):
    """Computed from shapes; kernels take some working memory besides."""
    if torch.cuda.get_device_properties(DEVICE).total_memory < 20 * 2**30:
        pytest.skip("needs 20 GB")
    training, x0 = begin("--precision", precision, "--grad-checkpoint", mode, net="adm-256", size=256, batch=1)
    kwargs = training.runner.net.kwargs
    net = shapes_only(kwargs, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision], mode)
    computed = sum(PARTS.values()) * sum(p.numel() for p in net.parameters()) + saved_bytes(net, 256, 256, 1)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    for _ in range(2):
        training.step(itertools.repeat((x0,)), StopSignal())
    measured = torch.cuda.max_memory_allocated(DEVICE)
    print(f"{precision}, {mode}: computed {computed / 2**30:.2f} GiB, measured {measured / 2**30:.2f}")
    assert 0.8 * computed < measured < 1.3 * computed
