"""JPEG at a quality factor, in tensors: no file, no entropy coding, differentiable except for the rounding.

Sources: ITU-T T.81 (1992) Annex A.3 for the DCT, Annex K tables K.1 and K.2 for the quantisation; the JFIF colour
transform, with the coefficients the published weights saw; the usual scaling of the tables by a quality factor.
Steps: [-1,1] -> [0,255] -> YCbCr -> chroma at half size -> 8x8 DCT, divide by the table, round, and all the way back.
Images of other than three channels have no chroma: each channel is stored as JPEG stores a grey image. Sides that are
no multiple of a block are continued by their last pixel, as libjpeg does.
"""

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Corruption
from .geometry import Size
from .registry import corruption, family

BLOCK = 8

# Annex K, tables K.1 and K.2
LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA_TABLE = np.full((BLOCK, BLOCK), 99)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

RGB_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
# Columns Cb, Cr (Y enters each channel with weight 1). Quirk: the inverse of the rounded matrix above, not JFIF's own
# four-digit one, hence the tiny Cb share of red and Cr share of blue.
CHROMA_TO_RGB = np.array([[-0.0000368199903, 1.40198758], [-0.344113281, -0.714103821], [1.77197812, -0.000134583413]])


@lru_cache
def dct_matrix() -> np.ndarray:
    """D [8,8], orthonormal DCT-II: row k is c_k cos((2n+1) k pi / 16).  Y = D X D^T and X = D^T Y D."""
    k, n = np.arange(BLOCK)[:, None], np.arange(BLOCK)[None]
    matrix = np.sqrt(2 / BLOCK) * np.cos((2 * n + 1) * k * np.pi / (2 * BLOCK))
    matrix[0] /= np.sqrt(2)
    return matrix


def scaled_table(table: np.ndarray, quality: int) -> np.ndarray:
    """Annex K table [8,8] at a quality factor 1..100: floor((s q + 50) / 100), within 1..255."""
    s = 5000 // quality if quality < 50 else 200 - 2 * quality  # whole numbers, as in libjpeg
    return np.clip(np.floor((s * table + 50) / 100), 1, 255)


@family("jpeg-QF", "1..100", example="jpeg-37")
class JPEG(Corruption):
    """JPEG there and back.  [B,C,H,W] in [-1,1] -> same shape, beyond [-1,1] where blocks overshoot."""

    baseline_name = "the JPEG itself"
    qf: ClassVar[int]

    def __init__(self, image_size: Size):
        super().__init__(image_size)
        self.add_table("dct", dct_matrix())
        self.add_table("to_ycc", RGB_TO_YCC)
        self.add_table("to_rgb", CHROMA_TO_RGB)
        self.add_table("luma", scaled_table(LUMA_TABLE, self.qf))
        self.add_table("chroma", scaled_table(CHROMA_TABLE, self.qf))

    def degrade(self, x: Tensor) -> Tensor:
        C, H, W = x.shape[1:]
        block = 2 * BLOCK if C == 3 else BLOCK
        x = (x + 1) * 127.5
        if H % block or W % block:
            x = F.pad(x, (0, -W % block, 0, -H % block), mode="replicate")
        if C == 3:
            x = self._colour(x)
        else:
            x = self._quantise((x - 128).flatten(0, 1), self.luma.to(x)).reshape(x.shape) + 128
        x = x[..., :H, :W] / 127.5 - 1
        # Quirk: channels last in memory. `torch.randn_like` fills memory in its order, so a sampler that starts from
        # here gives the release's images at the same seed only in the release's layout.
        return x.contiguous(memory_format=torch.channels_last)

    def _colour(self, x: Tensor) -> Tensor:
        """[B,3,H,W] in [0,255], sides multiples of 16 -> same."""
        B, _, H, W = x.shape
        h, w = H // 2, W // 2
        to_ycc, to_rgb = self.to_ycc.to(x), self.to_rgb.to(x)
        y = torch.einsum("c,bchw->bhw", to_ycc[0], x) - 128
        # Quirk: chroma is every second pixel (the top left of four), not their mean. Its +128 of the colour transform
        # and the -128 before the DCT cancel, here and on the way back.
        corners = x[..., ::2, ::2].reshape(B, 3, h * w)
        chroma = (to_ycc[1:] @ corners).reshape(B * 2, h, w)

        y = self._quantise(y, self.luma.to(x)) + 128
        chroma = self._quantise(chroma, self.chroma.to(x)).reshape(B, 2, h * w)
        # Colours at half size first, then each is added to the 2x2 pixels of luma above it.
        colour = (to_rgb @ chroma).reshape(B, 3, h, 1, w, 1)
        return (y.reshape(B, 1, h, 2, w, 2) + colour).reshape(B, 3, H, W)

    def _quantise(self, planes: Tensor, table: Tensor) -> Tensor:
        """DCT, rounding to multiples of `table` [8,8], inverse DCT of all 8x8 blocks.  [N,H,W] -> [N,H,W].

        No block is cut out: an 8-row strip [8,W] takes the vertical transform at once, and the plane seen as rows of 8
        pixels the horizontal one.
        """
        N, H, W = planes.shape
        dct = self.dct.to(planes)
        table = table.repeat(1, W // BLOCK)
        coefficients = dct @ (planes.reshape(-1, BLOCK) @ dct.T).reshape(-1, BLOCK, W)
        coefficients = (coefficients / table).round() * table  # round: half to even
        return ((dct.T @ coefficients).reshape(-1, BLOCK) @ dct).reshape(N, H, W)


@corruption("jpeg-5")
class JPEG5(JPEG):
    """Quality factor 5."""

    qf = 5


@corruption("jpeg-10")
class JPEG10(JPEG):
    """Quality factor 10."""

    qf = 10
