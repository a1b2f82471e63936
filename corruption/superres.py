"""Super-resolution: the image is made SCALE times smaller, then shown at full size by repeating pixels.

Sources: sr4x-pool is a 4x4 mean; sr4x-bicubic is the cubic convolution of Keys (1981, a = -0.5) stretched by
4 against aliasing, applied to rows and columns as one matrix, as in DDRM (Kawar et al. 2022). Other scales likewise.
Where a side is no multiple of SCALE, the last small pixel stands for what is left of it.
"""

from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .base import Corruption
from .classical import as_file
from .geometry import Size, mirrored
from .registry import corruption, family


def bicubic_matrix(size: int, scale: int = 4) -> np.ndarray:
    """A [ceil(S/scale),S], float64, rows summing to 1: row r weights the pixels less than 2 scale from its centre.

    The centre is at scale (r + 1/2) - 1/2; pixels beyond the borders are mirrored.
    """
    taps = 4 * scale - scale % 2  # at odd scales the outermost pair would lie where the kernel ends
    t = np.abs(np.arange(taps) - (taps - 1) / 2) / scale
    kernel = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
    kernel /= kernel.sum()
    rows = -(-size // scale)
    margin = (taps - scale) // 2  # of the kernel, on either side of the row's own pixels
    pixels = mirrored(size, margin, margin + scale * rows - size)
    matrix = np.zeros((rows, size))
    for row in range(rows):
        first = scale * row
        np.add.at(matrix[row], pixels[first : first + taps], kernel)  # a mirrored tap and another one add up
    return matrix


class SuperResolution(Corruption):
    """Judged on all of ImageNet's validation set, against the statistics of its training set."""

    scale: ClassVar[int] = 4
    baseline_name = "bicubic enlargement"
    val_subset = "full"
    fid_split = "train"

    @classmethod
    def enlarge(cls, small: Tensor) -> Tensor:
        """Nearest-neighbour, as the task shows small images.  [B,C,h,w] -> [B,C,scale*h,scale*w]."""
        return F.interpolate(small, scale_factor=cls.scale, mode="nearest")

    def degrade(self, x: Tensor) -> Tensor:
        return self.enlarge(self.shrink(x))[..., : self.height, : self.width]

    def baseline(self, x1: Tensor, mask: Tensor | None = None) -> Tensor:
        """As Pillow enlarges the small image (Keys 1981, a = -0.5): rows, then columns, each rounded to 8 bits."""
        out = as_file(x1).cpu()[..., :: self.scale, :: self.scale]
        for scale in ((1, self.scale), (self.scale, 1)):
            out = as_file(F.interpolate(out, scale_factor=scale, mode="bicubic", antialias=True))  # without, a is -0.75
        return out[..., : x1.shape[2], : x1.shape[3]].to(x1)

    def shrink(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,ceil(H/scale),ceil(W/scale)]."""
        raise NotImplementedError


@corruption("sr4x-pool")
@family("srSCALEx-pool", "2|3|4|8", example="sr2x-pool")
class PoolSR(SuperResolution):
    """Mean of SCALE x SCALE pixels, at the lower and right borders of those that are there."""

    def shrink(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.scale, ceil_mode=True)


@corruption("sr4x-bicubic")
@family("srSCALEx-bicubic", "2|3|4|8", example="sr3x-bicubic")
class BicubicSR(SuperResolution):
    """A X A^T, overshooting at sharp edges."""

    def __init__(self, image_size: Size):
        super().__init__(image_size)
        self.add_table("rows", bicubic_matrix(self.height, self.scale))
        self.add_table("columns", bicubic_matrix(self.width, self.scale))

    def shrink(self, x: Tensor) -> Tensor:
        return self.rows.to(x) @ (x @ self.columns.to(x).T)
