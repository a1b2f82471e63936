"""Operators of docs/science.md: photon noise of a camera, and MRI with too few phase-encoding lines.

The settings of the baselines were the best on training images (classical.py).
"""

import numpy as np
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from corruption import Corruption, family


def each(denoise, images, *settings):
    """[B,C,H,W] through a function of [H,W] arrays."""
    flat = images.reshape(-1, *images.shape[2:]).cpu().numpy()
    return torch.from_numpy(np.stack([denoise(image, *settings) for image in flat])).reshape(images.shape).to(images)


@family("photons-PEAK", "1..100000", example="photons-20")
class Photons(Corruption):
    """PEAK photons where the image is white, and read noise of one electron.  [B,C,H,W] in [-1,1] -> same, beyond.

    The Poisson distribution is taken as a Gaussian one of the same variance.
    """

    baseline_name = "total variation"
    draws_noise = True

    def degrade(self, x, randn):
        electrons = (x + 1) / 2 * self.peak
        return x + randn(x) * (electrons.clamp(min=0) + 1).sqrt() * 2 / self.peak

    def baseline(self, x1, mask=None, denoise=denoise_tv_chambolle, *settings):
        """Anscombe's transform, which makes the deviation 1; a denoiser; and back."""
        stable = 2 * ((x1 + 1) / 2 * self.peak + 3 / 8 + 1).clamp(min=0).sqrt()
        smooth = each(denoise, stable, *settings or [1.6])
        return ((smooth / 2) ** 2 - 1 / 8 - 1) / self.peak * 2 - 1


@family("fourier-FACTOR", "2..8", example="fourier-4")
class Fourier(Corruption):
    """Of W phase-encoding lines (columns of k-space) W / FACTOR are measured: the middle ones and, the further out the
    fewer, others at random.  [B,C,H,W] in [-1,1] -> the zero-filled image.

    The lines lie symmetrically, so that the zero-filled image is real.
    """

    baseline_name = "plug-and-play non-local means"

    def __init__(self, image_size):
        super().__init__(image_size)
        half, rng = self.width // 2, np.random.default_rng(0)
        middle, lines = max(1, self.width // 25), max(2, self.width // (2 * self.factor))
        outer = np.arange(middle + 1, half)
        density = (1 - outer / half) ** 2
        chosen = rng.choice(outer, max(0, lines - middle), replace=False, p=density / density.sum())
        frequency = np.abs(np.fft.fftfreq(self.width, 1 / self.width))
        self.add_table("measured", (frequency <= middle) | np.isin(frequency, chosen))

    def degrade(self, x):
        return torch.fft.ifft(torch.fft.fft(x) * self.measured.to(x)).real

    def baseline(self, x1, mask=None):
        """Non-local means as the prior (Venkatakrishnan et al. 2013): better than total variation here."""
        return self.in_turn(x1, non_local_means, 0.07)

    def in_turn(self, x1, denoise, strength, steps=50, momentum=0):
        """A denoiser, weaker from step to step until `strength`, and the lines as measured.

        With total variation and a momentum of 1 it is the compressed sensing of Lustig et al. 2007, solved by FISTA.
        """
        x, last = x1, x1
        for step, weight in enumerate(np.geomspace(0.2, strength, steps)):
            ahead = x + momentum * step / (step + 3) * (x - last)
            last, x = x, each(denoise, ahead + x1 - self.degrade(ahead), weight)
        return x + x1 - self.degrade(x)


def non_local_means(image, strength, sigma=0.0, patch=5):
    return denoise_nl_means(image, patch_size=patch, patch_distance=6, h=strength, sigma=sigma)
