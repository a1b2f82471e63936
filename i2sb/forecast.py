"""What a run will take: memory, from the network's shapes, and time, from its first iterations."""

from __future__ import annotations

import datetime
import functools
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from corruption.geometry import height_width
from guided_diffusion.memory import PARTS, saved_bytes, shapes_only
from i2sb.config import as_image_size
from i2sb.precision import LOW, has_bf16

AFTER = 20  # iterations


def before_training(opt: Any, network: Mapping[str, Any], num_images: int) -> str:
    """One line: parameters, memory of a process and its micro-batches, the images of an epoch.

    opt: options of train.py; network: arguments of `create_model`.
    """
    arguments = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in network.items())
    size = height_width(as_image_size(opt.image_size))
    count, kept = _bytes(arguments, opt.precision, opt.grad_checkpoint, size, opt.microbatch)
    whole = _amount(sum(PARTS.values()) * count)
    return (
        f"{count / 1e6:.3g} M parameters, {whole} with gradients, AdamW's moments and EMA | "
        f"about {_amount(kept)} more per micro-batch of {opt.microbatch}, computed from shapes | "
        f"{num_images} images per epoch, {num_images / opt.batch_size:.3g} iterations"
    )


def how_computed(opt: Any) -> str:
    """One line: the precision and layout that `precision.settle` has decided on."""
    layout = ", channels last" if opt.channels_last else ""
    faster = "" if opt.precision != "fp32" or not has_bf16(torch.device(opt.device)) else "; --precision bf16 is faster"
    return f"{opt.device}, {opt.precision}{layout}{faster}"


def too_many_threads(device: str) -> str | None:
    """A line where torch's threads on the CPU would wait for each other, as others keep its cores busy."""
    if device != "cpu":
        return None
    return threads_advice(torch.get_num_threads(), os.cpu_count() or 1, os.getloadavg()[0])


def threads_advice(threads: int, cores: int, load: float) -> str | None:
    """load: about how many cores were in use in the last minute.

    Two busy processes on two cores take 4 to 5 times as long with 2 threads each as with 1.
    """
    free = max(1, cores - round(load))
    if threads <= free:
        return None
    return (
        f"{threads} torch threads, and {free} of {cores} cores free (load of the last minute: {load:.1f}): this may "
        f"take several times as long as with OMP_NUM_THREADS={free}"
    )


@functools.lru_cache
def _bytes(
    arguments: tuple[tuple[str, Any], ...], precision: str, checkpointing: str, size: tuple[int, int], microbatch: int
) -> tuple[int, int]:
    """(parameters, bytes that a micro-batch keeps for the backward pass)."""
    net = shapes_only(dict(arguments), LOW.get(precision, torch.float32), checkpointing)
    return sum(p.numel() for p in net.parameters()), saved_bytes(net, *size, microbatch)


def _amount(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


class TimeLeft:
    """Says once, after 20 iterations (or network calls) with nothing else between them, how long the rest will take."""

    def __init__(self) -> None:
        self.said, self.done, self.since = False, 0, 0.0

    def restart(self) -> None:
        """What came between two iterations took time, too."""
        self.done = 0

    def after_iteration(self, result: Tensor, left: int) -> str | None:
        """The line, when it is time for it.  result: a scalar of the iteration, to wait for; left: iterations."""
        self.done += 1
        if self.said or left <= 0 or self.done not in (1, AFTER):
            return None
        result.item()
        if self.done == 1:  # the first one also compiles and looks for the fastest kernels
            self.since = time.perf_counter()
            return None
        self.said = True
        seconds = (time.perf_counter() - self.since) / (AFTER - 1) * left
        return f"about {datetime.timedelta(seconds=round(seconds))} (h:mm:ss) to the end"


def before_sampling(what: str, nfe: int, asked: bool) -> str:
    """One line: what is restored, and by how many network calls.  asked: for so many."""
    why = "" if asked else ", one less than the training's --interval; a lower --nfe takes as much less time"
    return f"{what}, NFE {nfe}{why}"
