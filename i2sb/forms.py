"""The forms in which Python code hands over pictures: PIL images, arrays and tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2sb.photographs import Photograph, ValueRange, clipped, from_pil

_LARGEST = 16  # of a tensor in [-1,1] with much noise: beyond, it is in 0..255

Picture = Image.Image | np.ndarray | Tensor
"""A PIL image; an array [H,W] or [H,W,C], uint8, uint16, floating point in [0,1], or any numbers in the bridge's
value_range; a tensor [B,C,H,W] in [-1,1]."""


def opened(image: Picture, channels: int, value_range: ValueRange = None) -> tuple[Tensor, Callable[[Tensor], Picture]]:
    """(batch [B,C,H,W] float32 for a network of `channels`, what makes a picture of the same form of such a batch).

    Values outside `value_range` are clipped, and a warning is logged.

    Raises:
        ValueError: no picture.
    """
    if isinstance(image, Tensor):
        if image.ndim != 4 or not image.is_floating_point():
            raise ValueError(f"a tensor is [B,C,H,W] in [-1,1]; got {image.dtype} {list(image.shape)}")
        if not (found := image.abs().max() if image.numel() else np.nan) <= _LARGEST:
            raise ValueError(f"a tensor lies in [-1,1], give or take noise; this one has {found:g}")
        return image.detach().float(), lambda x: x.to(image)
    if isinstance(image, np.ndarray):
        picture = Photograph.of(image, channels, value_range)
    elif isinstance(image, Image.Image):
        picture = from_pil(image.copy(), channels, value_range)
    else:
        raise ValueError(f"a picture is a PIL image, an array or a tensor; got {type(image).__name__}")

    if count := picture.outside():
        logging.getLogger("i2sb").warning(clipped(count, picture.levels.size, picture.value_range))

    def back(x: Tensor) -> Picture:
        array = picture.with_colours(x[0]).array()
        if isinstance(image, np.ndarray):
            return array.reshape(*array.shape[:2], *image.shape[2:])
        made = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        if picture.icc:
            made.info["icc_profile"] = picture.icc
        return made

    return picture.tensor()[None], back


def fit_channels(x: Tensor, channels: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """([B,C,H,W] for a network of `channels`, what makes C channels of its result): grey and RGB fit most networks.

    A 1-channel network gets each channel as a picture, [B*C,1,H,W]; of grey all channels are the same; what has no
    transparency is opaque.

    Raises:
        ValueError: other numbers of channels.
    """
    count, given, *size = x.shape
    if given == channels:
        return x, lambda y: y
    if channels == 1:
        return x.reshape(count * given, 1, *size), lambda y: y.reshape(count, given, *y.shape[2:])
    if channels == 4 and given == 3:
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1), lambda y: y[:, :3]
    if channels == 4 and given == 1:
        return fit_channels(x.expand(-1, 3, -1, -1), 4)[0], lambda y: y[:, :3].mean(1, keepdim=True)
    if given == 1:
        return x.expand(-1, channels, -1, -1), lambda y: y.mean(1, keepdim=True)
    raise ValueError(f"it has {given} channels, this bridge restores pictures of {channels}")


def mask_tensor(mask: Picture) -> Tensor:
    """A mask as float32 [B,1,H,W] with 1 = hole: all that is at least half white.  Whole numbers 0 and 1 are one, too.

    Raises:
        ValueError: no mask.
    """
    if isinstance(mask, Tensor):
        if mask.ndim < 2 or (mask.ndim > 2 and mask.shape[-3] != 1):
            raise ValueError(f"a mask is a tensor [B,1,H,W]; got {list(mask.shape)}")
        return (mask.reshape(-1, 1, *mask.shape[-2:]) >= 0.5).float()
    if isinstance(mask, Image.Image):
        picture = from_pil(mask.copy(), 3)
    elif isinstance(mask, np.ndarray):
        picture = Photograph.of(mask.astype(np.uint8) if mask.dtype == bool else mask, 3)
    else:
        raise ValueError(f"a mask is a PIL image, an array or a tensor; got {type(mask).__name__}")
    white = picture.value_range[1] if picture.levels.max() > 1 else 1
    return torch.from_numpy((picture.levels.mean(axis=2) >= white / 2).astype(np.float32))[None, None]


def mask_like(image: Picture, mask: Tensor) -> Picture:
    """A mask [B,1,H,W], 1 = hole, in the form of `image`."""
    if isinstance(image, Tensor):
        return mask.to(image)
    holes = mask[0, 0].numpy() > 0.5
    return holes if isinstance(image, np.ndarray) else Image.fromarray(holes.astype(np.uint8) * 255)
