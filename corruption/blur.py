"""Blur: as the published weights saw it, for squares of one size, and as textbooks have it, for any image.

The published one works in the spectrum of a separable blur matrix; the other is at the end of the file.

Source: the separable-SVD operators of DDRM (Kawar et al. 2022), with the quirks of the I2SB release that its weights
were trained on; each is named where it stands. Images are blurred on the [0,1] scale.

A 1-D blur is a matrix A = U diag(s) V^T [S,S]; the 2-D blur A X A^T multiplies Z = V^T X V by the gains s_i s_j.
"""

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .base import Corruption
from .classical import NOISE_TO_SIGNAL, as_file, wiener
from .geometry import Size, mirrored
from .registry import corruption, family

SMALLEST_SINGULAR_VALUE = 0.03
STRIP = 64  # pixels that the textbook blur computes at a time, at least


def blur_matrix(kernel: tuple[float, ...], size: int) -> np.ndarray:
    """A [S,S], float64, zero padding: A[i,j] = kernel[j - i + K//2].

    Quirk: j ends one short of i + K//2, so the kernel's last tap is missing and the image darkens.
    """
    matrix = np.zeros((size, size))
    half = len(kernel) // 2
    for offset in range(-half, half):
        matrix += kernel[offset + half] * np.eye(size, k=offset)
    return matrix


@lru_cache
def spectrum(kernel: tuple[float, ...], size: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U [S,S], V [S,S] and the gains [C,S,S] of the channels, all float64."""
    u, s, vt = np.linalg.svd(blur_matrix(kernel, size))
    s[s < SMALLEST_SINGULAR_VALUE] = 0
    return u, vt.T, shifted_gains(np.outer(s, s), channels)


def shifted_gains(products: np.ndarray, channels: int = 3) -> np.ndarray:
    """Gains [C,S,S] from the products s_i s_j [S,S], as the release applies them to C = 3 channels.

    Let g be the products in descending order. Coefficient p of that order is multiplied in channel c by
    g[(C p + c) mod S^2]. Quirk: the ideal blur would multiply it by g[p]; the release mixes up the layouts of channels
    and gains. Ties (s_i s_j = s_j s_i) are ordered by a stable sort, which makes this array a fixed one. The release's
    own sort was unstable: at 256 px the images agree with its own to 66-75 dB.
    """
    flat = products.ravel()
    order = np.argsort(-flat, kind="stable")
    place = channels * np.arange(flat.size) + np.arange(channels)[:, None]
    gains = np.empty((channels, flat.size))
    gains[:, order] = flat[order][place % flat.size]
    return gains.reshape(channels, *products.shape)


class Blur(Corruption):
    """U ((V^T X V) * gains) U^T on the [0,1] scale.  [B,C,S,S] in [-1,1] -> same, darker."""

    kernel: ClassVar[tuple[float, ...]]
    baseline_name = "Wiener filter"
    any_size = False
    beta_max = 1.0
    ot_ode = True

    def __init__(self, image_size: Size):
        try:
            super().__init__(image_size)
        except ValueError as error:
            raise ValueError(f"{error}; blur-gauss-SIGMA and blur-box-SIZE blur images of any size") from None
        u, v, gains = spectrum(self.kernel, self.height)
        self.add_table("u", u)
        self.add_table("v", v)
        self.add_table("gains", gains)

    def degrade(self, x: Tensor) -> Tensor:
        u, v, gains = self._tables(x)
        z = v.T @ ((x + 1) / 2 @ v)
        y = u @ ((z * gains) @ u.T)
        return y * 2 - 1

    def baseline(self, x1: Tensor, mask: Tensor | None = None) -> Tensor:
        """Wiener's filter in the spectrum above; f^2 is what the differences of a column of V tell of it."""
        y = as_file(x1)
        u, v, gains = self._tables(y)
        squares = v.diff(dim=0).square().sum(0) / (2 * torch.pi) ** 2
        z = u.T @ ((y + 1) / 2 @ u) * gains / (gains**2 + NOISE_TO_SIGNAL * (squares[:, None] + squares))
        return (v @ (z @ v.T) * 2 - 1).to(x1)

    def _tables(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U, V and the gains for as many channels as x has."""
        gains = self.gains
        if x.shape[1] != len(gains):
            gains = torch.as_tensor(spectrum(self.kernel, self.height, x.shape[1])[2])
        return self.u.to(x), self.v.to(x), gains.to(x)


@corruption("blur-uni")
class UniformBlur(Blur):
    """Nine equal taps."""

    kernel = (1 / 9,) * 9


@corruption("blur-gauss")
class GaussBlur(Blur):
    """Five Gaussian taps of standard deviation 10."""

    taps = np.exp(-(np.arange(-2, 3) ** 2) / 200.0)
    kernel = tuple((taps / taps.sum()).tolist())


class TextbookBlur(Corruption):
    """Convolution of rows and columns with a whole kernel that sums to 1, reflected at the borders (c b a | a b c).

    [B,C,H,W] in [-1,1] -> same, as bright.
    """

    baseline_name = "Wiener filter"
    beta_max = 1.0
    ot_ode = True

    def __init__(self, image_size: Size):
        super().__init__(image_size)
        kernel = self.weights() / self.weights().sum()
        taps = len(kernel)
        strip = max(STRIP, taps)
        band = np.zeros((strip, strip + taps - 1))
        for row in range(strip):
            band[row, row : row + taps] = kernel
        self.add_table("band", band)
        for axis, length in (("rows", self.height), ("columns", self.width)):
            pixels = mirrored(length, taps // 2, (taps - 1) // 2 + -length % strip)
            self.register_buffer(axis, torch.from_numpy(pixels), persistent=False)

    def weights(self) -> np.ndarray:
        """[K], float64: of the pixels i - K//2 and on, for pixel i."""
        raise NotImplementedError

    def degrade(self, x: Tensor) -> Tensor:
        x = self._convolve(x, self.columns)[..., : self.width].mT
        return self._convolve(x, self.rows)[..., : self.height].mT.contiguous()

    def baseline(self, x1: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `classical.wiener`."""
        return wiener(as_file(x1), self.weights() / self.weights().sum()).to(x1)

    def _convolve(self, x: Tensor, pixels: Tensor) -> Tensor:
        """The last axis, continued by `pixels`, strip after strip times one banded matrix: [..,L] -> [..,L or more].

        As a product it is fast on every device, and takes little memory (oneDNN's convolution takes 18 times the
        image's).
        """
        strip, reach = self.band.shape
        windows = x[..., pixels.to(x.device)].unfold(-1, reach, strip)
        return (windows @ self.band.to(x).T).flatten(-2)


@family("blur-gauss-SIGMA", "0.3..100.0", example="blur-gauss-1.5")
class GaussTextbookBlur(TextbookBlur):
    """Gaussian of deviation SIGMA pixels, cut off at four deviations."""

    def weights(self) -> np.ndarray:
        reach = int(4 * self.sigma + 0.5)
        return np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * self.sigma**2))


@family("blur-box-SIZE", "2..999", example="blur-box-7")
class BoxTextbookBlur(TextbookBlur):
    """Mean of SIZE x SIZE pixels; an even SIZE reaches one pixel further up and to the left."""

    def weights(self) -> np.ndarray:
        return np.ones(self.size)
