"""FD spatial and the perceptual distance: against formulas of their own, and on degraded photographs."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from small_runs import photos, pictures

from evaluation import spatial
from evaluation.metrics import build_judges
from evaluation.spatial import Moments, score


def textbook(x, y):
    """Frechet distance of two sets of vectors [n,D], straight from the definition, in float64."""
    mu_x, mu_y = x.mean(0), y.mean(0)
    cov_x, cov_y = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    return ((mu_x - mu_y) ** 2).sum() + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y).real)


def vectors(maps):
    """[B,D,h,w] -> [B*h*w,D]."""
    return np.moveaxis(maps.double().numpy(), 1, 3).reshape(-1, maps.shape[1])


def test_the_distance_is_the_textbook_s_whatever_the_batches():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 7, 4, generator=generator)
    y = 0.7 * torch.randn(6, 5, 7, 4, generator=generator) + torch.arange(5.0).view(5, 1, 1) / 3 + 20
    x += 20
    one, other = Moments(), Moments()
    for batch in (slice(0, 1), slice(1, 4), slice(4, 6)):
        one.add(x[batch])
        other.add(y[batch])
    value, (low, high) = score(one, other)
    expected = textbook(vectors(x), vectors(y))
    print("largest relative difference:", abs(value / expected - 1))
    assert value == pytest.approx(expected, rel=1e-9)
    assert low < value < high
    assert score(one, one)[0] == pytest.approx(0, abs=1e-9)


def test_the_interval_is_that_of_resampled_images(monkeypatch):
    """Whole images are drawn, the same ones on both sides; not positions."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 8, 3, 5, 5, generator=generator).unbind()
    x = x + 3 * torch.arange(8.0).view(8, 1, 1, 1)  # images differ more than their positions do
    one, other = Moments(), Moments()
    one.add(x)
    other.add(y)
    _, (low, high) = score(one, other)
    rng, values = np.random.default_rng(1), []
    for _ in range(200):
        drawn = torch.tensor(rng.integers(0, 8, 8))
        values.append(textbook(vectors(x[drawn]), vectors(y[drawn])))
    assert (low, high) == pytest.approx(np.percentile(values, (2.5, 97.5)), rel=0.25)
    monkeypatch.setattr(spatial, "NUM_RESAMPLED", 7)
    assert score(one, other)[1] is None


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `perceptual` brings it")
    folder = photos(tmp_path_factory.mktemp("photos") / "set", train=11, val=4, size=64)
    return pictures(folder / "val")


def test_both_grow_with_blur_and_are_0_for_clean_images(clean):
    judges = build_judges(["perceptual", "fd_spatial"], [], "cpu")
    assert judges.unavailable == {}
    found = {"perceptual": [], "fd_spatial": []}
    reference = Moments()
    reference.add(judges.to_clean["fd_spatial"](clean))
    for size in (1, 3, 7):
        blurred = torch.nn.functional.avg_pool2d(clean, size, 1, size // 2, count_include_pad=False)
        moments = Moments()
        moments.add(judges.to_clean["fd_spatial"](blurred))
        found["fd_spatial"].append(score(moments, reference)[0])
        found["perceptual"].append(judges.per_image["perceptual"](blurred, clean, None).mean().item())
    print(found)
    for name, values in found.items():
        assert values[0] == pytest.approx(0, abs=1e-6), name
        assert values[0] < values[1] < values[2], name
