"""Additive Gaussian noise, as denoising papers have it."""

from collections.abc import Callable

from torch import Tensor

from .base import Corruption
from .registry import family


@family("denoise-SIGMA", "0.1..255.0", example="denoise-25")
class GaussNoise(Corruption):
    """Noise of deviation SIGMA, in levels of 255.  [B,C,H,W] in [-1,1] -> same, beyond [-1,1]."""

    draws_noise = True

    def degrade(self, x: Tensor, randn: Callable[[Tensor], Tensor]) -> Tensor:
        return x + randn(x) * (self.sigma / 127.5)
