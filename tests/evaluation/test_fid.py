"""FID and KID against golden values and definitions, collected statistics against NumPy's, and their files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.fid import FeatureSums, distance, frechet_distance, load_statistics, save_statistics
from evaluation.kid import kid
from evaluation.metrics import MetricUnavailable
from i2sb.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())["frechet_200x64"]


def moments(features):
    return features.mean(axis=0), np.cov(features, rowvar=False)


def features(num, dim, seed, scale=1.0):
    """Correlated, with a spectrum that falls off as those of real features do, and a mean."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((dim, dim)) * np.exp(-np.arange(dim) / dim * 4)
    return scale * rng.standard_normal((num, dim)) @ mix.T + rng.standard_normal(dim)


def collected(x, batch=32, num_kept=0):
    sums = FeatureSums(len(x), num_kept)
    for part in torch.as_tensor(x).split(batch):
        sums.add(part)
    return sums.finish()


def test_golden_value():
    i, j = np.arange(200.0)[:, None], np.arange(64.0)
    first = np.sin(0.7 * i * (1 + 0.1 * j) + 0.3 * j) * np.exp(-j / 20)
    second = np.cos(0.9 * i * (1 + 0.07 * j) + 0.1 * j) * np.exp(-j / 25) + 0.05
    assert distance(collected(first), collected(second)) == pytest.approx(GOLDEN["fid"], rel=1e-6)
    assert frechet_distance(*moments(first), *moments(first)) == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_dimensions():
    """Rank 9 and 14 in 60 dimensions: tr sqrt(S1 S2) is the nuclear norm of X1 X2^T / sqrt((n1-1)(n2-1))."""
    first, second = features(10, 60, 3), features(15, 60, 4)
    (m1, s1), (m2, s2) = moments(first), moments(second)
    nuclear = np.linalg.svd((first - m1) / 3 @ ((second - m2) / np.sqrt(14)).T, compute_uv=False).sum()
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * nuclear
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(m1, s1, m1, s1) == pytest.approx(0, abs=1e-6 * np.trace(s1))
    zero = np.zeros((3, 3))
    assert frechet_distance([1, 2, 2], zero, [0, 0, 0], np.eye(3)) == pytest.approx(9 + 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([0, 0], np.eye(3), [0, 0], np.eye(2)), "mean and covariance are"),
        (([0, 0, 0], np.eye(3), [0, 0], np.eye(2)), "must be the same"),
        (([0, np.nan], np.eye(2), [0, 0], np.eye(2)), "NaN or inf"),
        (([0, 0], np.eye(2), [0, 0], [[1, 0.5], [0, 1]]), "not symmetric positive"),
        (([0, 0], np.eye(2), [0, 0], [[1, 2], [2, 1]]), "not symmetric positive"),
    ],
)
def test_refuses_what_is_no_gaussian(args, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(*args)


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_collected_statistics_equal_numpys(batch):
    x = features(200, 24, 9) + 1000  # raw second moments would lose six digits here
    found = collected(x, batch)
    mu, sigma = moments(x)
    assert found.mu.dtype == np.float64
    np.testing.assert_allclose(found.mu, mu, rtol=1e-12)
    np.testing.assert_allclose(found.sigma, sigma, rtol=1e-9, atol=1e-9)


def test_a_fixed_random_subset_of_the_features_is_kept():
    x = np.arange(300.0)[:, None] * np.ones(2)  # each feature is the number of its image
    kept = collected(x, 7, num_kept=20).sample
    assert kept.shape == (20, 2)
    assert len(set(kept[:, 0])) == 20
    np.testing.assert_array_equal(collected(x, 64, 20).sample, kept)
    assert sorted(kept[:, 0]) != list(range(20))
    np.testing.assert_array_equal(collected(x, 7, num_kept=1000).sample, x)
    assert collected(x).sample is None


def test_too_few_images_and_nan_have_no_statistics():
    with pytest.raises(MetricUnavailable, match="at least two images"):
        collected(np.ones((1, 3)))
    with pytest.raises(ValueError, match="NaN or inf, after 1 images"):
        collected(np.array([[0.0], [np.inf]]), batch=1)


def test_round_trip_through_a_file(tmp_path):
    statistics = collected(features(20, 3, 0))
    path = tmp_path / "data" / "stats.npz"
    save_statistics(path, statistics, source="here")
    back, source = load_statistics(path)
    assert source == "here"
    np.testing.assert_array_equal(back.mu, statistics.mu)
    np.testing.assert_array_equal(back.sigma, statistics.sigma)
    np.savez(path, mu=np.zeros(2, np.float32), sigma=np.eye(2), arr_0=np.zeros(3))  # of other programs
    assert load_statistics(path)[0].mu.dtype == np.float64


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(2)},
        {"mu": np.zeros(2), "sigma": np.eye(3)},
        {"mu": np.array(["a", "b"]), "sigma": np.eye(2)},
        None,
    ],
)
def test_other_files_are_named(tmp_path, arrays):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"PK\x03\x04 cut short") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"bad\.npz") as caught:
        load_statistics(path)
    assert "\n" not in str(caught.value)


# --- KID


def drawn(num, dim=16, seed=0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((num, dim)) + shift


def by_definition(x, y):
    """Sums over pairs in float64, written out."""
    m, n, dim = len(x), len(y), x.shape[1]
    kernel = lambda a, b: (float(a @ b) / dim + 1) ** 3  # noqa: E731
    same_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    same_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return same_x + same_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_mean_over_seeded_subsets():
    x, y = drawn(13), drawn(9, seed=1, shift=0.3)
    rng = np.random.default_rng(0)
    draws = [[rng.choice(len(z), 4, replace=False) for z in (x, y)] for _ in range(6)]
    expected = np.mean([by_definition(x[i], y[j]) for i, j in draws])
    assert kid(x, y, num_subsets=6, subset_size=4) == pytest.approx(expected, rel=1e-12)


def test_equals_cleanfid_on_one_subset():
    from cleanfid.fid import kernel_distance

    x, y = drawn(60, 64), drawn(60, 64, seed=1, shift=0.2)
    assert kid(x, y) == pytest.approx(kernel_distance(x, y, num_subsets=3), rel=1e-10)
