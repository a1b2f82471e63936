"""How the rows are measured: shortest times in turns, and the rates that bound them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


class Row(NamedTuple):
    """ours, baseline, floor: in `unit`; None where there is none."""

    item: str
    ours: float
    baseline: float | None = None
    floor: float | None = None
    note: str = ""
    unit: str = "s"


class Setting(NamedTuple):
    """device: where; tiny: sizes that only show that everything works; clock: what times are differences of."""

    device: torch.device
    tiny: bool = False
    clock: Callable[[], float] = time.perf_counter


def cpu_time() -> float:
    """Seconds of this process, and of its children that have ended."""
    import resource  # not on Windows

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def seconds(s: Setting, *works: Callable, rounds: int = 5) -> list[float]:
    """The shortest of some calls of each, in turns; the first calls do not count."""
    best = [float("inf")] * len(works)
    for turn in range(1 if s.tiny else 1 + rounds):
        for i, work in enumerate(works):
            since = s.clock()
            work()
            if s.device.type == "cuda":
                torch.cuda.synchronize(s.device)
            best[i] = min(best[i], s.clock() - since) if turn or s.tiny else best[i]
    return best


def same(ours: Tensor, theirs: Tensor, within: float) -> str:
    """Both have to give the same before anything is timed."""
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    assert error <= within, f"ours and the plain version differ by {error:.1e}, more than {within:.0e}"
    return f"equal to {error:.0e}"


@functools.cache
def product_rate(s: Setting, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a matrix product, or of a 3x3 convolution where that is faster."""
    side, channels = (128, 32) if s.tiny else (2048, 256)
    a = torch.randn(side, side, device=s.device, dtype=dtype)
    x = torch.randn(4, channels, side // 32, side // 32, device=s.device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weights = torch.randn(channels, channels, 3, 3, device=s.device, dtype=dtype)
    weights = weights.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        product, convolution = seconds(s, lambda: a @ a, lambda: torch.nn.functional.conv2d(x, weights, padding=1))
    return max(2 * side**3 / product, 2 * 9 * channels * x.numel() / convolution)


@functools.cache
def copy_rate(s: Setting) -> float:
    """Bytes per second, read and written."""
    a = torch.zeros(2 ** (16 if s.tiny else 25), device=s.device)
    b = torch.zeros_like(a)
    return 2 * a.nbytes / seconds(s, lambda: b.copy_(a))[0]


def operations(work: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
