"""From a batch of a data set to the two ends of the bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corruption.base import Corruption
from corruption.mixture import Mixture
from i2sb.errors import UserError
from i2sb.noise import Noise
from i2sb.operator_file import operator_errors
from i2sb.precision import full_float32
from i2sb.samplers import fill_hole


class Given(NamedTuple):
    """A batch of a data set: clean images x0 [B,C,H,W]; maybe degraded ones x1, labels [B], masks [B,1,H,W].

    cond: what a network with cond_x1 sees in place of the degraded images, if anything.
    """

    x0: Tensor
    x1: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    cond: Tensor | None = None

    def to(self, device: torch.device) -> Given:
        """The same on `device`; the labels stay where they are."""
        moved = (t if t is None else t.to(device, non_blocking=True) for t in self._replace(labels=None))
        return Given(*moved)._replace(labels=self.labels)


class Batch(NamedTuple):
    """x0: clean, x1: degraded, [B,C,H,W]; mask: 1 = hole, [B,1,H,W], or None; cond: [B,C,H,W] or None."""

    x0: Tensor
    x1: Tensor
    mask: Tensor | None
    cond: Tensor | None


def unpack(batch: Any) -> Given:
    """Tell apart images | (images, labels, ..) | (clean, degraded[, labels]) | (images, labels, masks).

    A second entry of four dimensions is the degraded image, a third of four is a mask.

    Raises:
        UserError: a degraded image of another shape than the clean one, or of integers.
    """
    if isinstance(batch, Tensor):
        return Given(batch)
    x0, *others = batch
    second, third = (*others, None, None)[:2]
    mask = third if isinstance(third, Tensor) and third.ndim == x0.ndim else None
    if not (isinstance(second, Tensor) and second.ndim == x0.ndim):
        return Given(x0, labels=second, mask=mask)
    if second.shape != x0.shape or not second.is_floating_point():
        raise UserError(
            f"a pair of images must have one shape and be floating point in [-1,1], got {list(x0.shape)} and "
            f"{list(second.shape)} {second.dtype}: resize the degraded one to the clean one's size"
        )
    return Given(x0, x1=second, labels=third if mask is None else None, mask=mask)


def make_batch(
    given: Given | Tensor,
    corrupt: Callable,
    *,
    cond_x1: bool = False,
    add_x1_noise: bool = False,
    index: Tensor | None = None,
    integers: Callable[[int, int], Tensor] | None = None,
    randn: Noise = torch.randn_like,
) -> Batch:
    """The two ends of the bridge: degrade clean images, unless they come in pairs.

    A hole is filled with noise; cond, if wanted, is x1 with that noise, before any other is added.

    Args:
        given: see `unpack`; x0 in [-1,1].
        corrupt: an operator of `corruption`, or any function of x0 that gives x1, or (x1, mask); not called for
            images that are given with a degraded one or with a mask.
        index: positions of the images in the evaluation order, LongTensor [B]; None in training.
        integers: (high, count) -> LongTensor [count], what operators draw from; None: torch's generator.
        randn: source of noise: first for the hole, then for `add_x1_noise`.
    """
    if isinstance(given, Tensor):
        given = Given(given)
    x0, x1, _, mask, cond = given
    if x1 is None and mask is None:
        x1, mask = degrade(x0, corrupt, index, integers, randn)
    elif x1 is None:
        x1 = x0
    x1 = x1.contiguous()  # whatever the operator's memory layout, networks and draws see one
    if mask is not None:
        mask = mask.to(x1)
        x1 = fill_hole(x1, mask, randn(x1))
    if not cond_x1 or cond is None:
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
    """(degraded image for display, mask or None); holes are white.  Arguments as those of `make_batch`.

    Raises UserError where the operator refuses the images, or a user's own has a fault.
    """
    with full_float32(), operator_errors():
        if not isinstance(corrupt, Corruption):
            shown = corrupt(x0)
        elif corrupt.draws_noise:
            shown = corrupt(x0, index, integers, randn=randn)
        else:
            shown = corrupt(x0, index, integers)
    return shown if isinstance(shown, tuple) else (shown, None)


def baseline(x1: Tensor, corrupt: Callable | None, mask: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """The classical answer to degraded images [B,C,H,W], see `Corruption.baseline`; x1 itself where there is none."""
    if not isinstance(corrupt, Corruption):
        return x1
    kinds = {"index": index} if isinstance(corrupt, Mixture) else {}
    with full_float32(), operator_errors():
        return corrupt.baseline(x1, mask, **kinds)
