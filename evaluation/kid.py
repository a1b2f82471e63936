"""KID: the kernel inception distance (Binkowski et al. 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.image.kid import poly_mmd


def kid(first: np.ndarray, second: np.ndarray, num_subsets: int = 100, subset_size: int = 1000) -> float:
    """Mean squared maximum mean discrepancy over random subsets of two sets of features, [n1, D] and [n2, D].

    The unbiased estimate (Gretton et al. 2012, Eq. 3) with the kernel (x.y / D + 1)^3, in float64.

    subset_size: images of each set in a subset, drawn without replacement, always the same; fewer where a set has
    fewer.  The value can be a little below zero.  Not scaled: tables usually show it times 1000.
    """
    first, second = (torch.as_tensor(x).double() for x in (first, second))
    size = min(subset_size, len(first), len(second))
    if size == len(first) == len(second):
        num_subsets = 1  # all would be the same
    rng = np.random.default_rng(0)
    values = []
    for _ in range(num_subsets):
        x, y = (features[torch.from_numpy(rng.choice(len(features), size, False))] for features in (first, second))
        values.append(poly_mmd(x, y).item())
    return float(np.mean(values))
