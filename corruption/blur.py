"""Uniform and Gaussian blur as the published weights saw them: in the spectrum of a separable blur matrix.

Source: the separable-SVD operators of DDRM (Kawar et al. 2022), with the quirks of the I2SB release that its weights
were trained on; each is named where it stands. Images are blurred on the [0,1] scale.

A 1-D blur is a matrix A = U diag(s) V^T [S,S]; the 2-D blur A X A^T multiplies Z = V^T X V by the gains s_i s_j.
"""

from functools import lru_cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from .base import Corruption
from .registry import corruption

SMALLEST_SINGULAR_VALUE = 0.03


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
def spectrum(kernel: tuple[float, ...], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U [S,S], V [S,S] and the gains [3,S,S] of the three channels, all float64."""
    u, s, vt = np.linalg.svd(blur_matrix(kernel, size))
    s[s < SMALLEST_SINGULAR_VALUE] = 0
    return u, vt.T, shifted_gains(np.outer(s, s))


def shifted_gains(products: np.ndarray) -> np.ndarray:
    """Gains [3,S,S] from the products s_i s_j [S,S], as the release applies them.

    Let g be the products in descending order. Coefficient p of that order is multiplied in channel c by
    g[(3p + c) mod S^2]. Quirk: the ideal blur would multiply it by g[p]; the release mixes up the layouts of channels
    and gains. Ties (s_i s_j = s_j s_i) are ordered by a stable sort, which makes this array a fixed one. The release's
    own sort was unstable: at 256 px the images agree with its own to 66-75 dB.
    """
    flat = products.ravel()
    order = np.argsort(-flat, kind="stable")
    place = 3 * np.arange(flat.size) + np.arange(3)[:, None]
    gains = np.empty((3, flat.size))
    gains[:, order] = flat[order][place % flat.size]
    return gains.reshape(3, *products.shape)


class Blur(Corruption):
    """U ((V^T X V) * gains) U^T on the [0,1] scale.  [B,3,S,S] in [-1,1] -> same, darker."""

    kernel: ClassVar[tuple[float, ...]]
    beta_max = 1.0
    ot_ode = True

    def __init__(self, image_size: int):
        super().__init__(image_size)
        u, v, gains = spectrum(self.kernel, image_size)
        self.add_table("u", u)
        self.add_table("v", v)
        self.add_table("gains", gains)

    def degrade(self, x: Tensor) -> Tensor:
        u, v, gains = self.u.to(x), self.v.to(x), self.gains.to(x)
        z = v.T @ ((x + 1) / 2 @ v)
        y = u @ ((z * gains) @ u.T)
        return y * 2 - 1


@corruption("blur-uni")
class UniformBlur(Blur):
    """Nine equal taps."""

    kernel = (1 / 9,) * 9


@corruption("blur-gauss")
class GaussBlur(Blur):
    """Five Gaussian taps of standard deviation 10."""

    taps = np.exp(-(np.arange(-2, 3) ** 2) / 200.0)
    kernel = tuple((taps / taps.sum()).tolist())
