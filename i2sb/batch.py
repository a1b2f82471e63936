"""From clean images and a degradation to the two ends of the bridge: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from corruption.base import Corruption
from i2sb.diffusion import Noise, fill_hole


class Batch(NamedTuple):
    """x0: clean, x1: degraded, [B,3,S,S]; mask: 1 = hole, [B,1,S,S], or None; cond: [B,3,S,S] or None."""

    x0: Tensor
    x1: Tensor
    mask: Tensor | None
    cond: Tensor | None


def make_batch(
    x0: Tensor,
    corrupt: Callable,
    *,
    cond_x1: bool = False,
    add_x1_noise: bool = False,
    index: Tensor | None = None,
    integers: Callable[[int, int], Tensor] | None = None,
    randn: Noise = torch.randn_like,
) -> Batch:
    """Degrade clean images and get everything ready that training and sampling need.

    A hole is filled with noise; cond, if wanted, is x1 with that noise, before any other is added.

    Args:
        x0: [B,3,S,S] in [-1,1].
        corrupt: an operator of `corruption`, or any function of x0 that gives x1, or (x1, mask).
        index: positions of the images in the evaluation order, LongTensor [B]; None in training.
        integers: (high, count) -> LongTensor [count], what operators draw from; None: torch's generator.
        randn: source of noise: first for the hole, then for `add_x1_noise`.
    """
    x1, mask = degrade(x0, corrupt, index, integers, randn)
    x1 = x1.contiguous()  # whatever the operator's memory layout, networks and draws see one
    if mask is not None:
        x1 = fill_hole(x1, mask, randn(x1))
    cond = x1 if cond_x1 else None
    if add_x1_noise:
        x1 = x1 + randn(x1)
    return Batch(x0, x1, mask, cond)


def degrade(
    x0: Tensor,
    corrupt: Callable,
    index: Tensor | None = None,
    integers: Callable[[int, int], Tensor] | None = None,
    randn: Noise = torch.randn_like,
) -> tuple[Tensor, Tensor | None]:
    """(degraded image as people see it, mask or None); holes are white.  Arguments as those of `make_batch`."""
    if not isinstance(corrupt, Corruption):
        shown = corrupt(x0)
    elif corrupt.draws_noise:
        shown = corrupt(x0, index, integers, randn=randn)
    else:
        shown = corrupt(x0, index, integers)
    return shown if isinstance(shown, tuple) else (shown, None)
