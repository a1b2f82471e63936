"""4x super-resolution: the image is made four times smaller, then shown at full size by repeating pixels.

Sources: sr4x-pool is a 4x4 mean; sr4x-bicubic is the cubic convolution of Keys (1981, a = -0.5) stretched by
4 against aliasing, applied to rows and columns as one matrix, as in DDRM (Kawar et al. 2022).
"""

from functools import lru_cache

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .base import Corruption
from .registry import corruption

FACTOR = 4
TAPS = 4 * FACTOR


@lru_cache
def bicubic_matrix(size: int) -> np.ndarray:
    """A [S/4,S], float64, rows summing to 1: row r weights pixels 4r-6 .. 4r+9, mirrored at the borders."""
    t = np.abs(np.arange(TAPS) - (TAPS - 1) / 2) / FACTOR  # less than 2, where Keys' kernel ends
    kernel = np.where(t <= 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
    kernel /= kernel.sum()
    matrix = np.zeros((size // FACTOR, size))
    pixels = np.pad(np.arange(size), TAPS // 2, mode="symmetric")
    for row in range(size // FACTOR):
        first = FACTOR * row + FACTOR // 2
        np.add.at(matrix[row], pixels[first : first + TAPS], kernel)  # a mirrored tap and another one add up
    return matrix


def show_at_full_size(small: Tensor) -> Tensor:
    """Nearest-neighbour x4.  [B,C,s,s] -> [B,C,4s,4s]."""
    return F.interpolate(small, scale_factor=FACTOR, mode="nearest")


class SuperResolution(Corruption):
    """Judged on all of ImageNet's validation set, against the statistics of its training set."""

    val_subset = "full"
    fid_split = "train"


@corruption("sr4x-pool")
class PoolSR(SuperResolution):
    """4x4 mean, shown at full size.  [B,3,S,S] in [-1,1] -> same."""

    def degrade(self, x: Tensor) -> Tensor:
        return show_at_full_size(F.avg_pool2d(x, FACTOR))


@corruption("sr4x-bicubic")
class BicubicSR(SuperResolution):
    """A X A^T, shown at full size.  [B,3,S,S] in [-1,1] -> same, overshooting at sharp edges."""

    def __init__(self, image_size: int):
        super().__init__(image_size)
        self.add_table("matrix", bicubic_matrix(image_size))

    def degrade(self, x: Tensor) -> Tensor:
        a = self.matrix.to(x)
        return show_at_full_size(a @ (x @ a.T))
