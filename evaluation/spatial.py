"""FD spatial: the Frechet distance of features at all positions of restored and of clean images.

FID has one vector per image and needs thousands of images; here every position of EfficientNet-Lite0's block 4 (40
features for each 8x8 pixels) is one, so that a few photographs are enough.  It tells whether textures are as frequent
as in clean images, not whether they are in the right place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evaluation.fid import frechet_distance
from i2sb.features import Features
from i2sb.pixels import nearest_uint8, to_float

BLOCK = 4
NUM_RESAMPLED = 1000  # sets of up to so many images have an interval
NUM_RESAMPLES = 200


class Moments:
    """Number, sum and sum of products of the features of a set of images; of few images also one by one."""

    def __init__(self) -> None:
        self.total: np.ndarray | float = 0.0  # [1 + D + D*D]
        self.num_images = 0
        self.each: list[np.ndarray] = []

    def add(self, features: Tensor) -> None:
        """features [B,D,h,w]."""
        x = features.flatten(2).double()  # [B,D,P]
        count = torch.full((len(x), 1), x.shape[2], dtype=x.dtype, device=x.device)
        moments = torch.cat([count, x.sum(2), (x @ x.mT).flatten(1)], 1).cpu().numpy()
        self.total = self.total + moments.sum(0)
        self.num_images += len(x)
        if len(self.each) <= NUM_RESAMPLED:
            self.each.extend(moments)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Frechet distance of two `Moments.total`."""
    return frechet_distance(*_gaussian(one), *_gaussian(other))


def _gaussian(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean [D], covariance [D,D])."""
    size = round(len(total) ** 0.5 - 0.5)  # 1 + D + D^2
    count, mean = total[0], total[1 : 1 + size] / total[0]
    return mean, total[1 + size :].reshape(size, size) / count - np.outer(mean, mean)


def score(restored: Moments, clean: Moments) -> tuple[float, tuple[float, float] | None]:
    """(distance, its 95 % bootstrap interval over images, None for one image or for very many)."""
    value, count = distance(restored.total, clean.total), clean.num_images
    if not 2 <= count <= NUM_RESAMPLED:
        return value, None
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), NUM_RESAMPLES)
    pairs = zip(draws @ np.array(restored.each), draws @ np.array(clean.each))  # the same images in both
    low, high = np.percentile([distance(*pair) for pair in pairs], (2.5, 97.5))
    return value, (float(low), float(high))


def build_features(device: str) -> Callable[[Tensor], Tensor]:
    """A function of images [B,3,H,W], uint8 or float in about [-1,1], as 8-bit pixels -> [B,40,H/8,W/8]."""
    network = Features((BLOCK,)).to(device)
    return lambda images: network(to_float(nearest_uint8(images.to(device))))[0]
