"""PSNR by its formula and SSIM by scikit-image."""

import math

import numpy as np
import pytest
import torch
from golden.formulas import image

from evaluation.image_quality import psnr, ssim
from i2sb.pixels import nearest_uint8


def pair(size=64, batch=3, noise=0.2):
    clean = torch.from_numpy(image(size, batch, "hidden"))
    return clean + noise * torch.randn_like(clean), clean


def test_psnr_by_hand():
    images, clean = pair()
    a, b = nearest_uint8(images).double(), nearest_uint8(clean).double()
    expected = [10 * math.log10(255**2 / ((x - y) ** 2).mean().item()) for x, y in zip(a, b)]
    got = psnr(images, clean)
    assert got.shape == (3,)
    assert got.tolist() == pytest.approx(expected, rel=1e-5)
    assert psnr(clean, clean).tolist() == [math.inf] * 3


@pytest.mark.parametrize("size", [11, 33, 64])
@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_ssim_as_scikit_image(size, noise):
    from skimage.metrics import structural_similarity

    images, clean = pair(size, noise=noise)
    expected = [
        structural_similarity(
            *(nearest_uint8(z).permute(1, 2, 0).numpy().astype(np.float64) / 255 for z in (x, y)),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=2,
        )
        for x, y in zip(images, clean)
    ]
    assert ssim(images, clean).tolist() == pytest.approx(expected, abs=1e-4)


def test_refuses_what_does_not_match():
    images, clean = pair(16)
    with pytest.raises(ValueError, match="must be the same"):
        psnr(images, clean[:2])
    with pytest.raises(ValueError, match="SSIM needs at least 11 pixels"):
        ssim(images[..., :10, :10], clean[..., :10, :10])
