"""Additive Gaussian noise, as denoising papers have it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .base import Corruption
from .classical import as_file
from .registry import family


@family("denoise-SIGMA", "0.1..255.0", example="denoise-25")
class GaussNoise(Corruption):
    """Noise of deviation SIGMA, in levels of 255.  [B,C,H,W] in [-1,1] -> same, beyond [-1,1]."""

    baseline_name = "non-local means"
    draws_noise = True

    def degrade(self, x: Tensor, randn: Callable[[Tensor], Tensor]) -> Tensor:
        return x + randn(x) * (self.sigma / 127.5)

    def baseline(self, x1: Tensor, mask: Tensor | None = None) -> Tensor:
        """Non-local means (Buades et al. 2005) by scikit-image, all channels together; 0.3 s for 256 px."""
        from skimage.restoration import denoise_nl_means  # slow to import

        sigma = self.sigma / 127.5
        settings = {"patch_size": 5, "patch_distance": 4, "h": 0.6 * sigma, "sigma": sigma, "channel_axis": 0}
        images = [denoise_nl_means(image, **settings) for image in as_file(x1).cpu().numpy()]
        return torch.from_numpy(np.stack(images)).reshape(x1.shape).to(x1)
