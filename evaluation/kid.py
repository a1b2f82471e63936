"""KID: the kernel inception distance (Binkowski et al. 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def kid(first: np.ndarray, second: np.ndarray, num_subsets: int = 100, subset_size: int = 1000) -> float:
    """Mean of `squared_mmd` over random subsets of two sets of features, [n1, D] and [n2, D], in float64.

    subset_size: images of each set in a subset, drawn without replacement, always the same; fewer where a set has
    fewer.  The value can be a little below zero.  Not scaled: tables usually show it times 1000.
    """
    first, second = (torch.as_tensor(x) for x in (first, second))
    size = min(subset_size, len(first), len(second))
    if size == len(first) == len(second):
        num_subsets = 1  # all would be the same
    rng = np.random.default_rng(0)
    values = []
    for _ in range(num_subsets):
        x, y = (features[torch.from_numpy(rng.choice(len(features), size, False))] for features in (first, second))
        values.append(squared_mmd(x, y))
    return float(np.mean(values))


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3.

    x: [m, D], y: [n, D], m and n at least 2; computed in float64 (Gretton et al. 2012, Eq. 3).
    """
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_of_pairs(values: Tensor) -> Tensor:  # of two different images
        return (values.sum() - values.trace()) / (len(values) * (len(values) - 1))

    return (mean_of_pairs(kernel(x, x)) + mean_of_pairs(kernel(y, y)) - 2 * kernel(x, y).mean()).item()
