"""Statistics of image streams and the files they are kept in."""

import numpy as np
import pytest
import torch

from evaluation.fid import (
    cached_statistics,
    distance,
    feature_statistics,
    load_statistics,
    save_statistics,
    uses_training_statistics,
    validation_statistics_path,
)
from evaluation.frechet import Statistics
from i2sb.errors import UserError


def mean_colours(images):
    """A feature network small enough to check by hand: [B, 3, H, W] -> [B, 3]."""
    return images.float().mean(dim=(2, 3))


def batches(num=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (num, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return list(images.split(6))


def test_stream_of_images():
    seen = []
    statistics = feature_statistics(iter(batches()), mean_colours, seen.append)
    features = torch.cat(batches()).float().mean(dim=(2, 3)).double().numpy()
    assert seen == [6, 6, 6, 2]
    assert statistics.num_images == 20
    np.testing.assert_allclose(statistics.mu, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.sigma, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-6)
    assert distance(statistics, statistics) == pytest.approx(0, abs=1e-8)
    assert distance(statistics, feature_statistics(batches(seed=1), mean_colours)) > 0.1


def test_round_trip_through_a_file(tmp_path):
    statistics = feature_statistics(batches(), mean_colours)
    path = tmp_path / "data" / "stats.npz"
    save_statistics(path, statistics, source="here")
    back = load_statistics(path)
    np.testing.assert_array_equal(back.mu, statistics.mu)
    np.testing.assert_array_equal(back.sigma, statistics.sigma)
    assert back.num_images == 20
    assert [p.name for p in path.parent.iterdir()] == ["stats.npz"]  # nothing temporary is left


def test_reads_files_that_hold_mu_and_sigma_only(tmp_path):
    np.savez(tmp_path / "other.npz", mu=np.zeros(2, np.float32), sigma=np.eye(2), arr_0=np.zeros(3))
    statistics = load_statistics(tmp_path / "other.npz")
    assert statistics.num_images is None
    assert statistics.mu.dtype == np.float64


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(2)},
        {"mu": np.zeros(2), "sigma": np.eye(3)},
        {"mu": np.array([{}, {}], dtype=object), "sigma": np.eye(2)},
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


def test_cache_computes_once(tmp_path):
    path = tmp_path / "data" / "fid.npz"
    calls = []

    def compute():
        calls.append(1)
        return feature_statistics(batches(), mean_colours)

    first = cached_statistics(path, compute, "20 images")
    second = cached_statistics(path, compute, "20 images")
    assert len(calls) == 1
    np.testing.assert_array_equal(first.sigma, second.sigma)


def test_cache_of_other_images_is_not_taken(tmp_path):
    path = tmp_path / "fid.npz"
    cached_statistics(path, lambda: feature_statistics(batches(), mean_colours), "a")
    before = path.read_bytes()
    with pytest.raises(UserError, match="comes from other images"):
        cached_statistics(path, lambda: pytest.fail("must not compute"), "b")
    assert path.read_bytes() == before


def test_a_file_that_tells_no_source_is_trusted(tmp_path):
    path = tmp_path / "fid.npz"
    save_statistics(path, Statistics(np.zeros(2), np.eye(2)))
    assert cached_statistics(path, lambda: pytest.fail("must not compute"), "b").num_images is None


def test_a_failed_computation_leaves_no_file(tmp_path):
    def compute():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_statistics(tmp_path / "fid.npz", compute)
    assert not list(tmp_path.iterdir())


def test_published_names_and_references(tmp_path):
    assert str(validation_statistics_path(256)) == "data/fid_imagenet_256_val.npz"
    assert validation_statistics_path(64, "clean", tmp_path) == tmp_path / "fid_imagenet_64_val_clean.npz"
    assert [t for t in ("sr4x-pool", "sr4x-bicubic", "jpeg-5", "mixture") if uses_training_statistics(t)] == [
        "sr4x-pool",
        "sr4x-bicubic",
    ]
