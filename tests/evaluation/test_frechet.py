"""The Frechet distance against clean-fid's, and streamed statistics against NumPy's."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.frechet import RunningStatistics, frechet_distance

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())["frechet_200x64"]


def moments(features):
    return features.mean(axis=0), np.cov(features, rowvar=False)


def features(num, dim, seed, scale=1.0):
    """Correlated, with a spectrum that falls off as those of real features do, and a mean."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((dim, dim)) * np.exp(-np.arange(dim) / dim * 4)
    return scale * rng.standard_normal((num, dim)) @ mix.T + rng.standard_normal(dim)


def formula_features():
    i, j = np.arange(200.0)[:, None], np.arange(64.0)
    first = np.sin(0.7 * i * (1 + 0.1 * j) + 0.3 * j) * np.exp(-j / 20)
    second = np.cos(0.9 * i * (1 + 0.07 * j) + 0.1 * j) * np.exp(-j / 25) + 0.05
    return first, second


def cleanfid_distance(*args):
    from cleanfid.fid import frechet_distance as theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # clean-fid calls scipy's sqrtm in a way that SciPy deprecates
        return float(theirs(*args))


def test_golden_value():
    first, second = formula_features()
    assert frechet_distance(*moments(first), *moments(second)) == pytest.approx(GOLDEN["fid"], rel=1e-6)
    assert frechet_distance(*moments(first), *moments(first)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dim", [2, 17, 96])
def test_agrees_with_cleanfid(dim):
    first, second = features(400, dim, 1), features(300, dim, 2, scale=1.3)
    m1, s1 = moments(first)
    m2, s2 = moments(second)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(cleanfid_distance(m1, s1, m2, s2), rel=1e-6)


def test_diagonal_covariances_by_hand():
    a, b = np.array([4.0, 9.0, 0.0]), np.array([1.0, 0.0, 25.0])
    expected = 14 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()  # |(1, 2, 3)|^2 = 14
    got = frechet_distance([1, 2, 3], np.diag(a), [0, 0, 0], np.diag(b))
    assert got == pytest.approx(expected, rel=1e-12)


def test_fewer_images_than_dimensions():
    """Rank 9 and 14 in 60 dimensions: tr sqrt(S1 S2) is the nuclear norm of X1 X2^T / sqrt((n1-1)(n2-1))."""
    first, second = features(10, 60, 3), features(15, 60, 4)
    (m1, s1), (m2, s2) = moments(first), moments(second)
    x1, x2 = (first - m1) / 3, (second - m2) / np.sqrt(14)
    nuclear = np.linalg.svd(x1 @ x2.T, compute_uv=False).sum()
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * nuclear
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(m2, s2, m1, s1) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(m1, s1, m1, s1) == pytest.approx(0, abs=1e-6 * np.trace(s1))


def test_one_low_rank_covariance():
    low, full = features(10, 40, 5), features(500, 40, 6)
    (m1, s1), (m2, s2) = moments(low), moments(full)
    cross = ((low - m1) / 3) @ np.linalg.cholesky(s2)
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2)
    expected -= 2 * np.linalg.svd(cross, compute_uv=False).sum()
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-10)


def test_no_variance_at_all():
    zero = np.zeros((3, 3))
    assert frechet_distance([1, 2, 2], zero, [0, 0, 0], zero) == 9
    assert frechet_distance([0, 0, 0], zero, [0, 0, 0], np.eye(3)) == pytest.approx(3)


def test_covariances_stored_in_float32():
    (m1, s1), (m2, s2) = moments(features(400, 20, 7)), moments(features(400, 20, 8))
    exact = frechet_distance(m1, s1, m2, s2)
    assert frechet_distance(np.float32(m1), np.float32(s1), m2, s2) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([0, 0], np.eye(3), [0, 0], np.eye(2)), "first mean and covariance are"),
        (([0, 0, 0], np.eye(3), [0, 0], np.eye(2)), "3 and 2 dimensions"),
        (
            ([0, np.nan], np.eye(2), [0, 0], np.eye(2)),
            "first mean or covariance has values that are not finite",
        ),
        (([0, 0], np.eye(2), [0, 0], [[1, 0.5], [0, 1]]), "second covariance is not symmetric"),
        (([0, 0], np.eye(2), [0, 0], [[1, 2], [2, 1]]), "second covariance is not positive semi-definite"),
        (([0, 0], np.diag([1.0, -1]), [0, 0], np.eye(2)), "first covariance is not positive semi-definite"),
        (([0, 0], [[0.0, 1], [1, 0]], [0, 0], np.eye(2)), "first covariance is not positive semi-definite"),
    ],
)
def test_refuses_what_is_no_gaussian(args, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(*args)


@pytest.mark.parametrize("batch", [1, 7, 64, 200])
def test_stream_equals_numpy_for_every_batch_size(batch):
    x = features(200, 24, 9) + 1000  # raw second moments would lose six digits here
    running = RunningStatistics()
    for start in range(0, len(x), batch):
        running.update(x[start : start + batch])
    mu, sigma = moments(x)
    assert running.num_images == 200
    np.testing.assert_allclose(running.mu, mu, rtol=1e-13)
    np.testing.assert_allclose(running.sigma, sigma, rtol=1e-9, atol=1e-10)


def test_merge_equals_one_stream():
    x = features(150, 12, 10)
    parts = [RunningStatistics().update(part) for part in (x[:1], x[1:40], x[40:])]
    merged = RunningStatistics().merge(RunningStatistics())  # empty parts change nothing
    for part in parts:
        merged.merge(part).merge(RunningStatistics())
    mu, sigma = moments(x)
    assert merged.num_images == 150
    np.testing.assert_allclose(merged.mu, mu, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.sigma, sigma, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts[2].sigma, moments(x[40:])[1], rtol=1e-10, atol=1e-12)  # left as it was


def test_resume_continues_where_finish_stopped():
    x = features(80, 10, 11)
    resumed = RunningStatistics.resume(RunningStatistics().update(x[:30]).finish()).update(x[30:])
    np.testing.assert_allclose(resumed.sigma, moments(x)[1], rtol=1e-10, atol=1e-12)


def test_memory_does_not_grow_with_the_stream():
    running = RunningStatistics()
    held = []
    for _ in range(2):
        for _ in range(10):
            running.update(np.random.default_rng(0).standard_normal((16, 8)))
        held.append(sum(v.nbytes for v in vars(running).values() if isinstance(v, np.ndarray)))
    assert held == [8 * 8 + 8 * 8 * 8] * 2


def test_takes_tensors_and_keeps_float64():
    x = torch.randn(30, 5)
    running = RunningStatistics().update(x.requires_grad_())
    assert running.mu.dtype == running.sigma.dtype == np.float64
    np.testing.assert_allclose(running.sigma, np.cov(x.detach().double().numpy(), rowvar=False), rtol=1e-12)


def test_handed_out_arrays_are_not_the_running_ones():
    running = RunningStatistics().update(np.eye(4))
    running.mu[:] = 7
    running.sigma[:] = 7
    np.testing.assert_allclose(running.mu, 0.25)


def test_streamed_fid_equals_cleanfids_on_the_same_features():
    from cleanfid.fid import fid_from_feats

    first, second = features(300, 40, 12), features(250, 40, 13, scale=0.8)
    running = [RunningStatistics() for _ in range(2)]
    for statistics, x in zip(running, (first, second)):
        for batch in np.array_split(x, 9):
            statistics.update(batch)
    ours = frechet_distance(running[0].mu, running[0].sigma, running[1].mu, running[1].sigma)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ours == pytest.approx(float(fid_from_feats(first, second)), rel=1e-6)


def test_stream_errors():
    running = RunningStatistics().update(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no image has been seen"):
        _ = running.mu
    with pytest.raises(ValueError, match="no image has been seen"):
        running.finish()
    running.update(np.ones((1, 3)))
    with pytest.raises(ValueError, match="1 images were seen, a covariance needs at least two"):
        running.finish()
    with pytest.raises(ValueError, match="4 dimensions, those before had 3"):
        running.update(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"\(3,\), expected"):
        running.update(np.ones(3))
    with pytest.raises(ValueError, match="1 images are not finite, the first is image 2"):
        running.update([[0, 0, 0], [0, np.inf, 0]])
    assert running.num_images == 1  # a refused batch leaves no trace
