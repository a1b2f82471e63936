"""KID against its definition, clean-fid and torchmetrics; the reservoir against what a uniform sample must be."""

import numpy as np
import pytest
import torch

from evaluation.kid import FeatureReservoir, kid, squared_mmd


def features(num, dim=16, seed=0, shift=0.0):
    return np.random.default_rng(seed).standard_normal((num, dim)) + shift


def by_definition(x, y):
    """Sums over pairs, written out."""
    m, n, dim = len(x), len(y), x.shape[1]
    kernel = lambda a, b: (float(a @ b) / dim + 1) ** 3  # noqa: E731
    same_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    same_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return same_x + same_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_definition():
    x, y = features(13), features(9, seed=1, shift=0.3)
    expected = by_definition(x, y)
    assert squared_mmd(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-12)
    assert kid(x[:9], y) == (pytest.approx(by_definition(x[:9], y), rel=1e-12), 0)


def test_three_points_by_hand():
    """D = 1: k(0, 0) = 1, k(0, 1) = 1, k(1, 1) = 8, k(1, 2) = 27, k(0, 2) = 1."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    assert squared_mmd(x, y) == 1 + 27 - 2 * (1 + 1 + 8 + 27) / 4


def test_equals_cleanfid_and_torchmetrics_on_one_subset():
    from cleanfid.fid import kernel_distance
    from torchmetrics.image.kid import poly_mmd

    x, y = features(60, 64), features(60, 64, seed=1, shift=0.2)
    mean, std = kid(x, y)
    assert mean == pytest.approx(kernel_distance(x, y, num_subsets=3), rel=1e-10)
    assert mean == pytest.approx(poly_mmd(torch.tensor(x), torch.tensor(y)).item(), rel=1e-10)
    assert std == 0


def test_agrees_with_cleanfid_on_random_subsets():
    from cleanfid.fid import kernel_distance

    x, y = features(400, 32), features(300, 32, seed=1, shift=0.3)
    mean, std = kid(x, y, num_subsets=200, subset_size=50)
    np.random.seed(0)  # noqa: NPY002 - clean-fid draws from the global generator
    theirs = kernel_distance(x, y, num_subsets=200, max_subset_size=50)
    assert std > 0
    assert abs(mean - theirs) < 4 * std * np.sqrt(2 / 200)
    assert kid(x, y, 200, 50) == (mean, std)
    assert kid(x, y, 200, 50, seed=1) != (mean, std)


def test_unbiased_where_both_sets_are_alike():
    """The biased estimate is about 0.06 here; ours is 0 within its standard error."""
    values = [kid(features(20, 8, seed=2 * i), features(20, 8, seed=2 * i + 1))[0] for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert np.min(values) < 0


def test_float32_features_are_computed_in_float64():
    x, y = features(50, 2048).astype(np.float32), features(50, 2048, seed=1).astype(np.float32)
    assert kid(x, y)[0] == kid(x.astype(np.float64), y.astype(np.float64))[0]
    assert kid(torch.tensor(x), torch.tensor(y))[0] == kid(x, y)[0]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (features(5, 3), features(5, 4), "3 and 4 features"),
        (features(1), features(5), "100 subsets of 1 images"),
        (features(5), features(5) * np.nan, "not finite"),
        (features(5)[0], features(5), "expected"),
    ],
)
def test_refuses_what_has_no_kid(first, second, message):
    with pytest.raises(ValueError, match=message):
        kid(first, second)


def stream(num):
    """Features that are their own index, so that it can be seen which images were kept."""
    return np.arange(num, dtype=np.float32)[:, None] * np.ones(2, np.float32)


def sampled(num, capacity, seed=0, batch=7):
    reservoir = FeatureReservoir(capacity, seed)
    for start in range(0, num, batch):
        reservoir.update(torch.from_numpy(stream(num)[start : start + batch]))
    return reservoir


def test_reservoir_keeps_all_of_a_short_stream_in_order():
    assert sampled(20, 30).features.dtype == np.float32
    np.testing.assert_array_equal(sampled(20, 30).features, stream(20))
    np.testing.assert_array_equal(sampled(30, 30).features, stream(30))


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_reservoir_is_the_same_for_every_batch_size(batch):
    kept = sampled(300, 20, seed=3).features
    np.testing.assert_array_equal(sampled(300, 20, seed=3, batch=batch).features, kept)
    assert len(set(kept[:, 0])) == 20  # no image twice
    assert set(sampled(300, 20, seed=4).features[:, 0]) != set(kept[:, 0])


def test_reservoir_is_uniform():
    """Each of 40 images is kept with probability 1/4: chi-square over their counts."""
    counts = np.zeros(40)
    for seed in range(2000):
        counts[sampled(40, 10, seed, batch=13).features[:, 0].astype(int)] += 1
    assert counts.sum() == 20_000
    chi_square = ((counts - 500) ** 2 / (500 * (1 - 0.25))).sum() * 39 / 40
    assert 15 < chi_square < 75  # 39 degrees of freedom: outside with probability below 1e-3


def test_reservoir_memory_is_constant():
    held = [sampled(num, 50)._kept.nbytes for num in (60, 2000)]
    assert held == [50 * 2 * 4] * 2


def test_tap_sees_what_passes():
    reservoir = FeatureReservoir(100)
    features = reservoir.tap(lambda images: images.float().mean(dim=(2, 3)))
    out = features(torch.full((3, 2, 4, 4), 7, dtype=torch.uint8))
    assert out.tolist() == [[7, 7]] * 3
    np.testing.assert_array_equal(reservoir.features, out.numpy())


def test_reservoir_refuses():
    reservoir = FeatureReservoir(5)
    with pytest.raises(ValueError, match="no image"):
        _ = reservoir.features
    reservoir.update(np.zeros((0, 3))).update(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="4 dimensions, those before had 3"):
        reservoir.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="not finite"):
        reservoir.update(np.full((2, 3), np.inf))
    assert reservoir.num_images == 2
    with pytest.raises(ValueError, match="capacity is 0"):
        FeatureReservoir(0)
