"""Rows of what this process computes: training step, network, degradations, Frechet distance, optimizer, sampler."""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import textbook
from benchmarks.timing import Row, Setting, copy_rate, operations, product_rate, same, seconds
from corruption import build_corruption, create_corruption
from evaluation.fid import frechet_distance
from guided_diffusion import presets
from guided_diffusion.script_util import create_model
from i2sb import Bridge
from i2sb.options import parse_train_options
from i2sb.photographs import encode, from_pil
from i2sb.precision import LOW, autocast, settle, slower_than_fp32
from i2sb.restore_files import restore_photograph
from i2sb.runner import Runner
from i2sb.runtime.distributed import StopSignal
from i2sb.schedule import make_betas
from i2sb.training import Training

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "examples/photographs"
QUIET = logging.Logger("benchmark")


def begin(s: Setting, net: str, size: int, batch: int, *flags: str, folder: str = "unused") -> tuple[Training, Tensor]:
    """A training that is ready for its first step, and its images; no weight is zero."""
    argv = ["--corrupt", "sr4x-pool", "--net", net, "--image-size", str(size), "--no-pretrained", "--eval-every", "0"]
    opt = parse_train_options([*argv, "--batch-size", str(batch), "--microbatch", str(batch), *flags])
    opt.device, opt.ckpt_path, opt.load, opt.global_rank, opt.global_size = str(s.device), Path(folder), None, 0, 1
    torch.manual_seed(0)
    runner = Runner(opt, QUIET, save_opt=False)
    for parameter in runner.net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    images = torch.rand(batch, 3, size, size, device=s.device) * 2 - 1
    return Training(runner, opt, [], [], build_corruption(opt, QUIET)), images


def training_step(s: Setting) -> Iterator[Row]:
    """Everything between two batches: pair, loss, gradients, AdamW, average; sr4x-pool."""
    ways = {"fp32": ("fp32", "--no-channels-last"), "fp32, channels last": ("fp32", "--channels-last")}
    ways |= {precision: (precision,) for precision in _low(s)}
    for net, batch, size in [("tiny", 2, 16)] if s.tiny else [("small", 8, 64), ("medium", 4, 64)]:
        for way, (precision, *flags) in ways.items():
            training, x0 = begin(s, net, size, batch, "--precision", precision, *flags)
            plain = textbook.TrainingStep(textbook.plain(training.runner.net), make_betas(1000, 0.3), batch)
            step = torch.arange(batch, device=s.device) * 7
            note = same(*(_with_gradients(each, x0, step) for each in (training.runner.net, plain.net)), 1e-3)
            ours = functools.partial(training.step, itertools.repeat((x0,)), StopSignal())
            floor = operations(ours) / product_rate(s, LOW.get(precision, torch.float32))
            times = seconds(s, ours, functools.partial(plain, x0), rounds=2)
            yield Row(f"training step, {net}, {batch} images of {size} px, {way}", *times, floor, note)


def _low(s: Setting) -> list[str]:
    """bf16, but not on a CPU without instructions for it."""
    return [] if slower_than_fp32(s.device, "bf16") else ["bf16"]


def _with_gradients(net: Callable, x: Tensor, step: Tensor) -> Tensor:
    """The output and the gradients of its mean square, each of length 1, as one vector."""
    out = net(x, step)
    out.square().mean().backward()
    parts = [out.detach().flatten(), *(p.grad.flatten() for p in net.parameters())]
    net.zero_grad()
    return torch.cat([part / part.norm().clamp(min=1e-6) for part in parts])


def forward(s: Setting, name: str = "medium", batch: int = 4, size: int = 64, rounds: int = 3) -> Iterator[Row]:
    if s.tiny:
        name, size = "tiny", 32
    net = create_model(**presets.resolve(name)).to(s.device, memory_format=torch.channels_last).eval()
    torch.nn.init.normal_(net.out[-1].weight, std=0.02)
    plain, t = textbook.plain(net), torch.full((batch,), 7.0, device=s.device)
    x = torch.randn(batch, 3, size, size, device=s.device)
    works = lambda: net(x.contiguous(memory_format=torch.channels_last), t), lambda: plain(x, t)
    with torch.inference_mode():
        note, count = same(works[0](), works[1](), 1e-3), operations(works[0])
        fp32, theirs = seconds(s, *works, rounds=rounds)
        item = f"forward, {name}, {batch} image{'s' * (batch > 1)} of {size} px"
        rows = [Row(f"{item}, fp32", fp32, theirs, count / product_rate(s), note)]
        for precision in _low(s):
            net.convert_torso(LOW[precision])
            (took,) = seconds(s, works[0], rounds=rounds)
            rows.append(Row(f"{item}, {precision}", took, theirs, count / product_rate(s, LOW[precision])))
    yield from rows


def adm(s: Setting) -> Iterator[Row]:
    """The published network, one image of 256 px.  Two trainings of it would not fit into 24 GB: gradients alone."""
    yield from forward(s, "adm-256", 1, 256, 2)
    name, size = ("tiny", 32) if s.tiny else ("adm-256", 256)
    net = create_model(**presets.resolve(name)).to(s.device)
    torch.nn.init.normal_(net.out[-1].weight, std=0.02)
    plain, t = textbook.plain(net), torch.full((1,), 7.0, device=s.device)
    x = torch.randn(1, 3, size, size, device=s.device)

    def gradient(net: Callable, precision: str = "fp32") -> Tensor:
        if net is not plain:
            net.to(memory_format=_layout(s, precision))
        with autocast(s.device, precision):
            out = net(x, t)
        out.float().square().mean().backward()
        first = net.input_blocks[0][0].weight.grad
        net.zero_grad()
        return first

    works = lambda: gradient(net), lambda: gradient(plain)
    note, count = same(works[0](), works[1](), 1e-3), operations(works[0])
    fp32, theirs = seconds(s, *works, rounds=1)
    item = f"forward and backward, {name}, 1 image of {size} px"
    yield Row(f"{item}, fp32", fp32, theirs, count / product_rate(s), note)
    for precision in _low(s):
        (took,) = seconds(s, lambda precision=precision: gradient(net, precision), rounds=1)
        yield Row(f"{item}, {precision}", took, theirs, count / product_rate(s, LOW[precision]))


def _layout(s: Setting, precision: str) -> torch.memory_format:
    """What a training takes."""
    opt = argparse.Namespace(device=str(s.device), precision=precision, channels_last=None)
    settle(opt)
    return torch.channels_last if opt.channels_last else torch.contiguous_format


def corruptions(s: Setting) -> Iterator[Row]:
    batch, size = (2, 32) if s.tiny else (8, 256)
    x = torch.randint(256, (batch, 3, size, size), device=s.device) / 127.5 - 1
    for task, plain in textbook.CORRUPTIONS.items():
        operator = create_corruption(task, size, s.device)
        works = lambda operator=operator: operator(x), functools.partial(plain, x)
        degraded = works[0]()
        off = ((degraded[0] if isinstance(degraded, tuple) else degraded) - works[1]()).abs() > 1e-4
        share = off.float().mean()  # jpeg rounds: a coefficient on the edge may fall to either side
        assert share <= (0.01 if task.startswith("jpeg") else 0), f"{task}: not the same images"
        floor = 2 * x.nbytes / copy_rate(s)
        if task.startswith("blur"):
            floor = 4 * 2 * batch * 3 * size**3 / product_rate(s)
        note = "equal to 1e-4" + (f" but for {share:.0e} of the pixels" if share else "")
        yield Row(f"{task}, {batch} images of {size} px", *seconds(s, *works), floor, note)


def frechet(s: Setting) -> Iterator[Row]:
    dimensions = 32 if s.tiny else 1024
    draw = np.random.default_rng(0)
    sets = [draw.normal(size=(3 * dimensions, dimensions)) * draw.uniform(0.5, 2, dimensions) for _ in range(2)]
    statistics = [part for each in sets for part in (each.mean(0), np.cov(each, rowvar=False))]
    works = [functools.partial(f, *statistics) for f in (frechet_distance, textbook.frechet_distance)]
    note = same(*(torch.tensor(work()) for work in works), 1e-6)
    yield Row(f"Frechet distance, {dimensions} features", *seconds(s, *works, rounds=1), None, note)


def optimizer(s: Setting) -> Iterator[Row]:
    training, _ = begin(s, *(("tiny", 16, 1) if s.tiny else ("medium", 64, 1)))
    plain = textbook.TrainingStep(textbook.plain(training.runner.net), make_betas(1000, 0.3), 1)
    nets = training.runner.net, plain.net

    def give_gradients(net: torch.nn.Module) -> None:
        for parameter in net.parameters():
            parameter.grad = parameter.detach()

    def ours() -> None:
        give_gradients(nets[0])
        training.optimizer.step()
        training.runner.ema.update()

    def theirs() -> None:
        give_gradients(nets[1])
        plain.optimize()

    ours(), theirs()
    note = same(*(torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets), 1e-5)
    count = sum(p.numel() for p in nets[0].parameters())
    floor = 11 * 4 * count / copy_rate(s)  # gradient for its norm; weight, gradient, moments; weight and average
    yield Row(f"optimizer step and EMA, {count / 1e6:.3g} M parameters", *seconds(s, ours, theirs), floor, note)


def sampling(s: Setting) -> Iterator[Row]:
    """As sample.py --input --degrade; the floor is what the network takes of it."""
    bridge, inside, size = Bridge.from_pretrained("demo-jpeg-10", str(s.device)), [], 32 if s.tiny else 256
    network = bridge.runner.forward

    def timed(*args: Any, **kwargs: Any) -> Tensor:
        since = s.clock()
        out = network(*args, **kwargs)
        if s.device.type == "cuda":
            torch.cuda.synchronize(s.device)
        inside.append(s.clock() - since)
        return out

    bridge.runner.forward = timed
    whole = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4):
            since = s.clock()
            with Image.open(PHOTOGRAPHS / "dog.jpg") as image:
                photograph = from_pil(image.convert("RGB").resize((size, size)), 3)
            *_, restored = restore_photograph(bridge, photograph, None, 0, degrade_as=0, nfe=5)
            Path(folder, "restored.png").write_bytes(encode(restored))
            whole.append((s.clock() - since, sum(inside[-5:])))
    ours, floor = min(whole)
    note = f"{1 - floor / ours:.1%} outside the network"
    yield Row(f"load, degrade, restore at NFE 5, write, {size} px", ours, None, floor, note)
