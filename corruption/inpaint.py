"""Inpainting: a part of the image is missing and filled with white.

Sources: the centre hole and the two ranges of free-form holes are those of Palette (Saharia et al. 2022), whose 10,000
evaluation masks are the published bank; without it, brush.py draws masks.
Holes of another size, or from files of one's own, are tasks by parameter.
What stands in the hole later (noise) is the bridge's business, not this package's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .base import Corruption, Source, check_index, draw_integers
from .classical import as_file, harmonic
from .geometry import Size
from .mask_bank import (
    KINDS,
    PUBLISHED_FILE,
    PUBLISHED_SIZE,
    BrushMasks,
    FolderMasks,
    MaskBank,
    StoredMasks,
    stored_bank,
)
from .registry import corruption, family


def get_center_mask(size: Sequence[int]) -> Tensor:
    """uint8 [1,h,w] for `size` = [h, w]: 1 in the middle half of the rows and of the columns."""
    h, w = size
    mask = torch.zeros(1, h, w, dtype=torch.uint8)
    mask[:, h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = 1
    return mask


def load_freeform_masks(kind: str) -> np.ndarray:
    """The published masks of "freeform1020" or "freeform2030" in data/: uint8 [10000,1,256,256], 1 = hole.

    Raises FileNotFoundError if they are not there, ValueError as `mask_bank.stored_bank`.
    """
    bits = stored_bank(kind)
    if bits is None:
        raise FileNotFoundError(f"data/{PUBLISHED_FILE}: not there; `dataset.freeform.fetch_bank()` fetches it")
    return np.unpackbits(bits, axis=1).reshape(-1, 1, PUBLISHED_SIZE, PUBLISHED_SIZE)


class Inpainting(Corruption):
    """x (1 - m) + m, so that the hole is white.

    A subclass says where the holes are: `masks(batch, index, generator)` gives [B,1,H,W] of zeros and ones.
    """

    baseline_name = "harmonic filling"
    has_mask = True
    beta_max = 1.0
    ot_ode = True

    def forward(self, x: Tensor, index: Tensor | None = None, generator: Source | None = None) -> tuple[Tensor, Tensor]:
        """x [B,C,H,W] in [-1,1] -> (image [B,C,H,W], mask [B,1,H,W] of x's dtype and device, 1 = hole)."""
        self.check(x)
        mask = self.masks(len(x), index, generator).to(x)
        return x * (1 - mask) + mask, mask

    def baseline(self, x1: Tensor, mask: Tensor | None = None) -> Tensor:
        """`classical.harmonic`; without a mask the degraded images.

        On 17 photographs of 256 px with holes of 20 to 30 % it gives 24.5 dB in 0.2 s each; cv2.inpaint 23.5 dB (both
        its methods, radius 3), biharmonic filling as scikit-image has it 23.2 dB.
        """
        if mask is None:
            return x1
        pairs = zip(as_file(x1).cpu().numpy(), (mask[:, 0] > 0.5).cpu().numpy())
        return torch.from_numpy(np.stack([harmonic(*pair) for pair in pairs])).to(x1)


@corruption("inpaint-center")
class CenterHole(Inpainting):
    """The middle half of rows and columns, see `get_center_mask`."""

    def __init__(self, image_size: Size):
        super().__init__(image_size)
        self.add_table("mask", self.hole()[None])

    def hole(self) -> Tensor:
        """[1,H,W], 1 = hole."""
        return get_center_mask(self.image_size)

    def masks(self, batch: int, index: Tensor | None, generator: Source | None) -> Tensor:
        return self.mask.repeat(batch, 1, 1, 1)


@family("inpaint-center-PX", "1..9999", example="inpaint-center-8")
class SquareHole(CenterHole):
    """PX x PX pixels in the middle.  Raises ValueError where the image is smaller."""

    def hole(self) -> Tensor:
        if self.px > min(self.image_size):
            raise ValueError(f"{self.name}: the hole does not fit into images of {self.height}x{self.width}")
        top, left = (self.height - self.px) // 2, (self.width - self.px) // 2
        mask = torch.zeros(1, *self.image_size, dtype=torch.uint8)
        mask[:, top : top + self.px, left : left + self.px] = 1
        return mask


class NumberedHoles(Inpainting):
    """Holes from a numbered `source`: in training one at random, in evaluation number index[i] for image i."""

    source: BrushMasks | StoredMasks | FolderMasks

    def masks(self, batch: int, index: Tensor | None, generator: Source | None) -> Tensor:
        if index is None:
            numbers = draw_integers(self.source.count, batch, generator)
        else:
            numbers = check_index(index, batch)
        return torch.from_numpy(self.source.take(numbers.numpy())).unsqueeze(1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.source}"


@family("inpaint-masks=DIR", "path", example="inpaint-masks=masks")
class HolesOfFolder(NumberedHoles):
    """The PNG files in the folder DIR, in the order of their names and over again: white = hole; see `FolderMasks`."""

    def __init__(self, image_size: Size):
        super().__init__(image_size)
        self.source = FolderMasks(self.dir, self.image_size)


class FreeformHoles(NumberedHoles):
    """Brush-stroke holes.

    `mask_bank`: a bank of any size, see `MaskBank`; None, or a function that gives None for `kind`: the brush draws
    masks whose hole ratio lies within the range of KINDS.

    Raises ValueError as `StoredMasks` and, when called, if an index lies beyond the bank.
    """

    uses_mask_bank = True
    kind: ClassVar[str]

    def __init__(self, image_size: Size, mask_bank: MaskBank | None = None):
        super().__init__(image_size)
        stored = mask_bank(self.kind) if callable(mask_bank) else mask_bank
        _, *ratios = KINDS[self.kind]
        size = self.image_size
        self.source = BrushMasks(size, *ratios) if stored is None else StoredMasks(stored, size, *ratios)


@corruption("inpaint-freeform1020")
class Freeform1020(FreeformHoles):
    """Holes over 10 to 20 % of the image."""

    kind = "freeform1020"


@corruption("inpaint-freeform2030")
class Freeform2030(FreeformHoles):
    """Holes over 20 to 30 % of the image."""

    kind = "freeform2030"
