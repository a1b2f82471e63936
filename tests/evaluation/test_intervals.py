"""Bootstrap intervals against the known ones of normal and binomial data."""

import numpy as np
import pytest

from evaluation.table import bootstrap_interval


def test_interval_of_normal_data_is_the_known_one():
    values = np.random.default_rng(0).normal(25, 3, 2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.12)
    narrow = bootstrap_interval(values, level=0.5)
    assert (narrow[1] - narrow[0]) / (high - low) == pytest.approx(0.6745 / 1.96, rel=0.15)


def test_95_of_100_intervals_hold_the_true_mean():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(rng.normal(5, 2, 60), num=500, seed=seed) for seed in range(200)]
    assert 0.90 <= np.mean([low <= 5 <= high for low, high in intervals]) <= 0.985


def test_same_seed_same_interval():
    values = np.random.default_rng(2).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values.tolist())
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_booleans_and_constants():
    assert bootstrap_interval([True] * 70 + [False] * 30) == pytest.approx((0.61, 0.79), abs=0.025)
    assert bootstrap_interval([2.0] * 5) == (2, 2)
