"""From images in [-1, 1] to 8-bit pixels and back."""

import torch
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Reconstructions as the published scores see them: (x + 1) * 127.5, clamped to [0, 255], *truncated*.

    x: any shape, floating point, about [-1, 1]; uint8 is handed through.  Returns uint8 of the same shape.
    Truncation is the published convention (FID depends on it); `nearest_uint8` is the unbiased one.
    Raises ValueError where a value is not finite.
    """
    return to_levels(x).to(torch.uint8)


def nearest_uint8(x: Tensor) -> Tensor:
    """The same with rounding to the nearest level; undoes u / 255 * 2 - 1 exactly for all 256 levels.

    For images that come from 8-bit files (truncation would lower 63 of the 256 levels by one, for rounding
    in float32), and for image quality.  Shapes, ranges and errors as `to_uint8`.
    """
    return to_levels(x).round_().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]; floating point images are handed through."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images


def shown_channels(images: Tensor) -> Tensor:
    """What pictures show of images [..,C,H,W]: grey, RGB, RGB and alpha as they are; the first of 2, 3 of more."""
    return images[..., : {1: 1, 2: 1, 4: 4}.get(images.shape[-3], 3), :, :]


def to_levels(x: Tensor) -> Tensor:
    """[0, 255] in (at least) float32, not rounded; uint8 stays as it is.  Errors as `to_uint8`."""
    if x.dtype == torch.uint8:
        return x.clone()
    if not x.is_floating_point():
        raise ValueError(f"images are {x.dtype}, expected uint8 in [0, 255] or floating point in [-1, 1]")
    if not x.isfinite().all():
        raise ValueError(f"{(~x.isfinite()).sum().item()} of {x.numel()} pixel values are not finite (NaN or inf)")
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return ((x + 1) * 127.5).clamp_(0, 255)
