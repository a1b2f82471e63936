"""The classical answers, each by another program or another formula."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn
from skimage.data import coffee
from skimage.restoration import denoise_nl_means

from corruption import create_corruption
from corruption.registry import lookup

SIZE = (92, 121)  # multiples of neither 3 nor 4


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """[1,3,92,121] in [-1,1]."""
    return torch.from_numpy(coffee()[100:284:2, 100:342:2].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def psnr(x: torch.Tensor, clean: torch.Tensor) -> float:
    return float(-10 * torch.log10(((x - clean) / 2).square().mean()))


@pytest.mark.parametrize("task", ["sr4x-pool", "sr4x-bicubic", "sr3x-pool", "sr2x-bicubic", "sr8x-pool"])
def test_super_resolution_is_pillows_bicubic(photograph, task):
    operator, scale = create_corruption(task, SIZE), lookup(task).scale
    x1 = operator(photograph)
    small = ((x1[0, :, ::scale, ::scale].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    large = Image.fromarray(small).resize((small.shape[1] * scale, small.shape[0] * scale), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(large)[: SIZE[0], : SIZE[1]].copy()).permute(2, 0, 1)
    found = ((operator.baseline(x1)[0] + 1) * 127.5 - expected).abs()
    assert found.max() <= 2.001  # Pillow's weights have 22 bits: some halves are rounded otherwise, twice
    assert (found > 0.5).float().mean() < 0.02


@pytest.mark.parametrize("task", ["blur-gauss-2", "blur-box-5"])
def test_wiener_filter_by_cosine_transforms(photograph, task):
    """Reflected borders and a symmetric kernel: the blur is diagonal in the DCT."""
    operator = create_corruption(task, SIZE)
    x1 = operator(photograph)
    kernel = operator.weights() / operator.weights().sum()
    taps = np.arange(len(kernel)) - len(kernel) // 2
    f, g = (np.arange(n) / (2 * n) for n in SIZE)  # cycles per pixel
    h, k = (np.cos(2 * np.pi * np.outer(axis, taps)) @ kernel for axis in (f, g))
    h = np.outer(h, k)
    y = ((x1.clamp(-1, 1) + 1) * 127.5).round().double()[0].numpy()
    spectrum = dctn(y, axes=(1, 2)) * h / (h**2 + 0.003 * (f[:, None] ** 2 + g**2))
    expected = torch.from_numpy(idctn(spectrum, axes=(1, 2))) / 127.5 - 1
    torch.testing.assert_close(operator.baseline(x1)[0].double(), expected, rtol=0, atol=1e-5)
    assert psnr(operator.baseline(x1), photograph) > psnr(x1, photograph) + 2


def test_even_and_published_blurs_come_out_sharper(photograph):
    for task, gain in [("blur-box-6", 4), ("blur-uni", 8), ("blur-gauss", 12)]:
        x = photograph[..., :80, :80]
        operator = create_corruption(task, 80)
        assert psnr(operator.baseline(operator(x)), x) > psnr(operator(x), x) + gain


def test_holes_are_filled_by_the_mean_of_neighbours(photograph):
    operator = create_corruption("inpaint-freeform2030", SIZE)
    x1, mask = operator(photograph, torch.tensor([5]))
    found, hole = operator.baseline(x1, mask)[0].double().numpy(), mask[0, 0].numpy() > 0
    np.testing.assert_allclose(found[:, ~hole], x1[0].numpy()[:, ~hole], atol=1e-6)
    edged = np.pad(found, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    neighbours = [edged[:, 1 + i : 93 + i, 1 + j : 122 + j] for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    np.testing.assert_allclose(found[:, hole], np.nanmean(neighbours, axis=0)[:, hole], atol=1e-6)
    everything = torch.ones_like(mask)
    assert torch.equal(operator.baseline(x1, everything), x1)
    assert torch.equal(operator.baseline(x1), x1)


def test_noise_is_removed_by_non_local_means(photograph):
    operator, x = create_corruption("denoise-25", 48), photograph[..., :48, :48]
    x1 = operator(x, generator=torch.Generator().manual_seed(0))
    levels = ((x1[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    settings = {"patch_size": 5, "patch_distance": 4, "h": 15.0, "sigma": 25.0, "channel_axis": -1}
    expected = torch.from_numpy(denoise_nl_means(levels, **settings)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(operator.baseline(x1)[0], expected.float(), rtol=0, atol=1e-3)


def test_a_mixture_has_the_baseline_of_each_kind(photograph):
    x, index = photograph[..., :80, :80].expand(9, -1, -1, -1), torch.arange(9) + 9
    mixture = create_corruption("mixture", 80)
    x1 = mixture(x, index)
    found = mixture.baseline(x1, index=index)
    for row, operator in enumerate(mixture.operators):
        given = operator(x[:1], index[row : row + 1])
        image, mask = given if operator.has_mask else (given, None)
        torch.testing.assert_close(found[row : row + 1], operator.baseline(image, mask), rtol=0, atol=1e-5)
    assert torch.equal(mixture.baseline(x1), x1)


def test_others_stay_as_they_are():
    x1 = torch.rand(1, 3, 16, 16)
    tasks = [("jpeg-10", "the JPEG itself"), ("colorize", "the grey image"), ("paired", "the degraded image")]
    for task, name in tasks:
        operator = create_corruption(task, 16)
        assert operator.baseline(x1) is x1
        assert operator.baseline_name == name
