"""How far the mean over images could be from the mean over all such images: bootstrap intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

LEVEL = 0.95
_BATCH_BYTES = 32 * 2**20  # of resampled values held at a time; their indices take as much again


def bootstrap_interval(values: Any, level: float = LEVEL, num: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean of per-image values [n] (Efron and Tibshirani 1993, ch. 13).

    values: array or list of numbers or booleans, finite, n at least 2.  `num` resamples are drawn, a few at a
    time, so that memory stays at a few copies of the values.  The same values and seed give the same interval.
    """
    from scipy.stats import bootstrap  # takes a second to import

    values = np.asarray(values, dtype=np.float64)
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=num,
        batch=max(1, _BATCH_BYTES // values.nbytes),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),  # SciPy 1.15 calls it rng, and knows this name too
    )
    low, high = result.confidence_interval
    return float(low), float(high)
