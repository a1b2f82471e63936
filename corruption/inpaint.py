"""Inpainting: a part of the image is missing and shown white.

Sources: the centre hole and the two ranges of free-form holes are those of Palette (Saharia et al. 2022),
whose 10,000 evaluation masks are the published bank; without it, or at other sizes, brush.py draws masks.
What stands in the hole later (noise) is the bridge's business, not this package's.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .base import Corruption, Source, check_index, draw_integers
from .mask_bank import BrushMasks, MaskBank, StoredMasks
from .registry import corruption


class Inpainting(Corruption):
    """x (1 - m) + m, so that the hole is white.  A subclass says where the holes are."""

    has_mask = True
    beta_max = 1.0
    ot_ode = True

    def forward(
        self, x: Tensor, index: Tensor | None = None, generator: Source | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B,3,S,S] in [-1,1] -> (image [B,3,S,S], mask [B,1,S,S] of x's dtype and device, 1 = hole)."""
        self.check(x)
        mask = self.masks(len(x), index, generator).to(x)
        return x * (1 - mask) + mask, mask

    def masks(self, batch: int, index: Tensor | None, generator: Source | None) -> Tensor:
        """Masks [B,1,S,S] of zeros and ones, of any dtype, on any device."""
        raise NotImplementedError


@corruption("inpaint-center")
class CenterHole(Inpainting):
    """A square hole: rows and columns S/4 .. 3S/4."""

    def __init__(self, image_size: int):
        super().__init__(image_size)
        inside = np.zeros(image_size)
        inside[image_size // 4 : 3 * image_size // 4] = 1
        self.add_table("mask", np.outer(inside, inside)[None, None])

    def masks(self, batch: int, index: Tensor | None, generator: Source | None) -> Tensor:
        return self.mask.repeat(batch, 1, 1, 1)


class FreeformHoles(Inpainting):
    """Brush-stroke holes: in training a mask at random, in evaluation mask number index[i] for image i.

    Args:
        image_size: S.
        mask_bank: masks [n,S,S] of zeros and ones, a function from `kind` to such an array or None, or None:
            then
            the brush draws masks whose hole ratio lies within low .. high.

    Raises ValueError if the bank's shape or hole ratio is wrong and, when called, if an index lies beyond the
    bank.
    """

    uses_mask_bank = True
    kind: ClassVar[str]
    low: ClassVar[float]
    high: ClassVar[float]

    def __init__(self, image_size: int, mask_bank: MaskBank | None = None):
        super().__init__(image_size)
        stored = mask_bank(self.kind) if callable(mask_bank) else mask_bank
        limits = (image_size, self.low, self.high)
        self.source = BrushMasks(*limits) if stored is None else StoredMasks(stored, *limits)

    def masks(self, batch: int, index: Tensor | None, generator: Source | None) -> Tensor:
        if index is None:
            numbers = draw_integers(self.source.count, batch, generator)
        else:
            numbers = check_index(index, batch)
        return torch.from_numpy(self.source.take(numbers.numpy())).unsqueeze(1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.source}"


@corruption("inpaint-freeform1020")
class Freeform1020(FreeformHoles):
    """Holes over 10 to 20 % of the image."""

    kind, low, high = "freeform1020", 0.10, 0.20


@corruption("inpaint-freeform2030")
class Freeform2030(FreeformHoles):
    """Holes over 20 to 30 % of the image."""

    kind, low, high = "freeform2030", 0.20, 0.30
