"""KID against its definition, clean-fid and torchmetrics."""

import numpy as np
import pytest
import torch

from evaluation.kid import kid, squared_mmd


def features(num, dim=16, seed=0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((num, dim)) + shift


def by_definition(x, y):
    """Sums over pairs in float64, written out."""
    m, n, dim = len(x), len(y), x.shape[1]
    kernel = lambda a, b: (float(a @ b) / dim + 1) ** 3  # noqa: E731
    same_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    same_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return same_x + same_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_definition():
    x, y = features(13), features(9, seed=1, shift=0.3)
    expected = by_definition(x, y)
    assert squared_mmd(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-12)
    assert kid(x[:9], y) == pytest.approx(by_definition(x[:9], y), rel=1e-12)


def test_mean_over_seeded_subsets():
    x, y = features(13), features(9, seed=1, shift=0.3)
    rng = np.random.default_rng(0)
    draws = [[rng.choice(len(z), 4, replace=False) for z in (x, y)] for _ in range(6)]
    expected = np.mean([by_definition(x[i], y[j]) for i, j in draws])
    assert kid(x, y, num_subsets=6, subset_size=4) == pytest.approx(expected, rel=1e-12)


def test_equals_cleanfid_and_torchmetrics_on_one_subset():
    from cleanfid.fid import kernel_distance
    from torchmetrics.image.kid import poly_mmd

    x, y = features(60, 64), features(60, 64, seed=1, shift=0.2)
    assert kid(x, y) == pytest.approx(kernel_distance(x, y, num_subsets=3), rel=1e-10)
    assert kid(x, y) == pytest.approx(poly_mmd(torch.tensor(x), torch.tensor(y)).item(), rel=1e-10)
