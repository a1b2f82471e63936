"""Bootstrap intervals: how often they hold the truth, and what they cost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.intervals import bootstrap_interval


def test_interval_of_normal_data_is_the_known_one():
    values = np.random.default_rng(0).normal(25, 3, 2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.12)
    narrow = bootstrap_interval(values, level=0.5)
    assert (narrow[1] - narrow[0]) / (high - low) == pytest.approx(0.6745 / 1.96, rel=0.15)


def test_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(400):
        low, high = bootstrap_interval(rng.normal(5, 2, 60), num=500, seed=seed)
        hits += low <= 5 <= high
    assert 0.91 <= hits / 400 <= 0.98  # 0.94 expected at 60 images, with a standard error of 0.012


def test_same_seed_same_interval():
    values = torch.rand(50)
    assert bootstrap_interval(values) == bootstrap_interval(values.tolist())
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_booleans_and_constants():
    low, high = bootstrap_interval(torch.tensor([True] * 70 + [False] * 30))
    assert (low, high) == pytest.approx((0.61, 0.79), abs=0.025)  # 0.7 +- 1.96 sqrt(0.21 / 100)
    assert bootstrap_interval([2.0] * 5) == (2, 2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([1.0],), "at least two"),
        ((np.zeros((2, 2)),), "expected"),
        (([1.0, np.inf],), "1 of 2 values are not finite"),
        (([1.0, 2.0], 95), "level 95"),
    ],
)
def test_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*args)


def test_memory_for_50000_images():
    """All 1000 resamples at once would be 400 MB, and their indices as much."""
    code = (
        "import resource, numpy as np\n"
        "from evaluation.intervals import bootstrap_interval\n"
        "values = np.random.default_rng(0).random(50_000)\n"
        "bootstrap_interval(values[:100], num=10)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "bootstrap_interval(values)\n"
        "print(peak() - before)\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200  # MiB
