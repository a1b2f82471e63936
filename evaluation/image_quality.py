"""PSNR and SSIM of images against the clean ones, per image.

Both are measured on 8-bit pixels (rounded to nearest, as an image file would hold them) mapped to [0, 1],
with a data range of 1, over all pixels and all channels together.  `deep`: images whose files hold more than 8 bits are
clipped to the same range, which is that of their values (0 to 65535, --value-range), and not rounded at all.
"""

import torch
from torch import Tensor

from i2sb.pixels import nearest_uint8, to_levels

SSIM_WINDOW = 11  # pixels: a Gaussian of sigma 1.5 cut at 3.5 sigma (Wang et al. 2004)


def psnr(images: Tensor, clean: Tensor, deep: bool = False) -> Tensor:
    """10 log10(1 / mean squared error) in dB, [B] float32; inf where an image equals the clean one.

    images, clean: [B, C, H, W], float in about [-1, 1] (clamped) or uint8.  Raises ValueError where they
    differ in shape or hold NaN or inf.
    """
    images, clean = _as_seen(images, clean, deep)
    return -10 * torch.log10((images - clean).square().mean(dim=(1, 2, 3)))


def psnr_y(images: Tensor, clean: Tensor, border: int = 0) -> Tensor:
    """PSNR [dB] of the luma alone, [B] float32, as super-resolution papers report it.

    images, clean: as `psnr`, of 3 channels.  border: pixels at each side that do not count, the scale in those papers.
    """
    inside = slice(border, -border or None)
    return psnr(*(luma(x)[..., inside, inside] for x in (images, clean)))


def luma(images: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in 16..235, as MATLAB's rgb2ycbcr rounds it: RGB [B,3,H,W] as for `psnr` -> uint8 [B,1,H,W].

    16 + (65.481 R + 128.553 G + 24.966 B) / 255 of 8-bit pixels, here in whole numbers.
    """
    weights = torch.tensor([65_481, 128_553, 24_966], device=images.device).view(3, 1, 1)
    thousands = (nearest_uint8(images).long() * weights).sum(dim=1, keepdim=True)
    return (16 + (thousands + 127_500) // 255_000).to(torch.uint8)


def ssim(images: Tensor, clean: Tensor, deep: bool = False) -> Tensor:
    """Structural similarity, at most 1, [B] float32; Gaussian window of 11 pixels, sigma 1.5.

    The mean is taken where the window lies inside the image, as its authors and scikit-image do.
    Inputs and errors as `psnr`; also ValueError for images smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(images.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"images are {list(images.shape)}, SSIM needs at least {SSIM_WINDOW} pixels")
    _, similarity = structural_similarity_index_measure(
        *_as_seen(images, clean, deep), sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    border = SSIM_WINDOW // 2  # torchmetrics reflects the images there, and averages over the reflections as well
    return similarity[..., border:-border, border:-border].mean(dim=(1, 2, 3))


def _as_seen(images: Tensor, clean: Tensor, deep: bool) -> tuple[Tensor, Tensor]:
    if images.shape != clean.shape:
        raise ValueError(f"images {list(images.shape)} and clean {list(clean.shape)} must be the same [B, C, H, W]")
    levels = to_levels if deep else nearest_uint8
    return levels(images).float() / 255, levels(clean.to(images.device)).float() / 255
