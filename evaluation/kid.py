"""KID: the kernel inception distance, and a fair sample of a stream of features to compute it from.

sample = FeatureReservoir(capacity=10_000)
statistics = feature_statistics(batches, sample.tap(features))  # FID and KID from one pass
mean, std = kid(sample.features, reference.features)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

NUM_SUBSETS = 100
SUBSET_SIZE = 1000


class FeatureReservoir:
    """A uniform random subset of a stream of features; memory does not grow with the stream.

    Algorithm R (Vitter 1985): image number t (from 0) takes the place of a random one of `capacity` kept images
    with probability capacity / (t + 1).  The same seed keeps the same images, however they are batched.
    """

    def __init__(self, capacity: int = 10_000, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity is {capacity}, it must be at least 1")
        self.capacity = capacity
        self.num_images = 0  # seen, not kept
        self._rng = np.random.default_rng(seed)
        self._kept: np.ndarray | None = None  # [capacity, D]

    def update(self, features: ArrayLike | Tensor) -> FeatureReservoir:
        """Offers features [n, D]: a numpy array or a torch tensor on any device; n may be 0.

        They are kept in the floating point type that the first ones have.
        Raises ValueError where the shape does not fit or a value is not finite.
        """
        features = _as_array(features)
        if not np.isfinite(features).all():
            raise ValueError("the features of an image are not finite")
        if not len(features):
            return self
        if self._kept is None:
            self._kept = np.empty((self.capacity, features.shape[1]), features.dtype)
        elif features.shape[1] != self._kept.shape[1]:
            raise ValueError(f"features have {features.shape[1]} dimensions, those before had {self._kept.shape[1]}")
        order = np.arange(self.num_images, self.num_images + len(features))
        slots = order.copy()
        late = order >= self.capacity
        slots[late] = self._rng.integers(order[late] + 1)
        chosen = np.flatnonzero(slots < self.capacity)
        self._kept[slots[chosen]] = features[chosen]  # NumPy: of equal slots the last one stays, as in a loop
        self.num_images += len(features)
        return self

    def tap(self, features: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`features` itself, with all that comes out of it offered to this reservoir in passing."""

        def tapped(images: Tensor) -> Tensor:
            out = features(images)
            self.update(out)
            return out

        return tapped

    @property
    def features(self) -> np.ndarray:
        """What is kept, [min(capacity, num_images), D].  Raises ValueError before the first image."""
        if self._kept is None:
            raise ValueError("no image has been seen yet")
        return self._kept[: self.num_images].copy()


def kid(
    features1: ArrayLike | Tensor,
    features2: ArrayLike | Tensor,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of `squared_mmd` (Binkowski et al. 2018).

    features: [n1, D] and [n2, D], computed in float64 on `device`.  subset_size: images of each set in a subset,
    drawn without replacement; less where a set has less, and where both sets are no larger, there is only one
    subset.  The mean can be a little below zero.  Subsets overlap, so that the deviation tells how much one
    subset varies, and not how uncertain the mean is.  Not scaled: tables often show it times 1000.

    Raises ValueError for sets that do not match, below two images, and for values that are not finite.
    """
    first, second = (torch.as_tensor(_as_array(x), device=device) for x in (features1, features2))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the two sets have {first.shape[1]} and {second.shape[1]} features per image")
    size = min(subset_size, len(first), len(second))
    if size < 2 or num_subsets < 1:
        raise ValueError(f"{num_subsets} subsets of {size} images, KID needs at least one of at least two images")
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("the features of an image are not finite")
    if size == len(first) == len(second):
        num_subsets = 1  # all would be the same
    rng = np.random.default_rng(seed)
    values = [squared_mmd(_subset(first, size, rng), _subset(second, size, rng)) for _ in range(num_subsets)]
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

    x: [m, D], y: [n, D], m and n at least 2; computed in float64 (Gretton et al. 2012, Eq. 3).
    """
    x, y = x.double(), y.double()
    return (_mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _kernel(x, y).mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.mm(x, y.T).div_(x.shape[1]).add_(1).pow_(3)


def _mean_of_pairs(x: Tensor) -> Tensor:
    """The kernel's mean over all pairs of two different images."""
    values = _kernel(x, x)
    return (values.sum() - values.trace()) / (len(x) * (len(x) - 1))


def _subset(x: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    return x[torch.from_numpy(rng.choice(len(x), size, replace=False)).to(x.device)]


def _as_array(features: ArrayLike | Tensor) -> np.ndarray:
    if isinstance(features, Tensor):
        features = features.detach().cpu()
        features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"features are {features.shape}, expected [n, D]")
    return features if np.issubdtype(features.dtype, np.floating) else features.astype(np.float64)
