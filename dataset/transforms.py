"""From decoded images to tensors: resized or cut to one size, flipped, in [-1,1].

To the bit torchvision's transforms, whose import takes as long as torch's: it brings a compiler and all networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from corruption.geometry import Size, height_width

MAX_ASPECT = 8  # longer strips are cropped before they are resized

Pixels = Image.Image | Tensor
"""An image of Pillow, or [C,H,W] floating point in [0,1]."""


@dataclass(frozen=True)
class Transform:
    """Image, or array [H,W,C] float32 in [0,1] -> [C,H,W] in [-1,1]; a pair of one size is cut and flipped alike.

    Attributes:
        size: (H, W) [pixels].
        random_crop: take a window at full resolution; images that are too small are enlarged first.  False: resize
            until the image just covers H x W (bilinear), and take the centre.
        flip: mirror half of the images.

    Random draws are from torch's global generator, the window's first.
    """

    size: tuple[int, int]
    random_crop: bool = False
    flip: bool = False

    def __call__(self, *images: Image.Image | np.ndarray) -> Tensor | list[Tensor]:
        pixels = [
            torch.from_numpy(image).permute(2, 0, 1) if isinstance(image, np.ndarray) else image for image in images
        ]
        if self.random_crop:
            pixels = self._window(pixels)
        else:
            pixels = [fit(image, self.size) for image in pixels]
        tensors = [_to_tensor(x) for x in pixels]
        if self.flip and torch.rand(1) < 0.5:
            tensors = [x.flip(-1) for x in tensors]
        return tensors if len(tensors) > 1 else tensors[0]

    def _window(self, images: list[Pixels]) -> list[Pixels]:
        height, width = _size(images[0])
        if height < self.size[0] or width < self.size[1]:
            images = [cover(image, self.size) for image in images]
            height, width = _size(images[0])
        top, left = (int(torch.randint(has - needs + 1, ())) for has, needs in zip((height, width), self.size))
        return [_crop(image, top, left, *self.size) for image in images]


def _to_tensor(image: Pixels) -> Tensor:
    """[C,H,W] in [-1,1]."""
    if isinstance(image, Tensor):
        return image.mul(2).sub_(1)
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(*_size(image), -1)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32, order="C")).div_(255).mul_(2).sub_(1)


def _size(image: Pixels) -> tuple[int, int]:
    """(H, W)."""
    return tuple(image.shape[1:]) if isinstance(image, Tensor) else image.size[::-1]


def _crop(image: Pixels, top: int, left: int, height: int, width: int) -> Pixels:
    if isinstance(image, Tensor):
        return image[:, top : top + height, left : left + width]
    return image.crop((left, top, left + width, top + height))


def _center(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (round((has - needs) / 2) for has, needs in zip(_size(image), (height, width)))
    return _crop(image, top, left, height, width)


def fit(image: Pixels, size: tuple[int, int]) -> Pixels:
    """H x W image: as `cover`, then the centre.  size: (H, W)."""
    return _center(cover(image, size), *size)


def cover(image: Pixels, size: tuple[int, int]) -> Pixels:
    """The image resized (bilinear) until it just covers size (H, W).

    Of strips that are 8 times too long the middle is taken first: whole, one of 30000 x 1 would take gigabytes.
    """
    (height, width), (old_height, old_width) = size, _size(image)
    longest = MAX_ASPECT * max(size) // min(size)
    if max(old_height, old_width) > longest * min(old_height, old_width):
        old_height, old_width = min(old_height, longest * old_width), min(old_width, longest * old_height)
        image = _center(image, old_height, old_width)
    if old_width * height <= old_height * width:  # the width decides
        height = int(width * old_height / old_width)
    else:
        width = int(height * old_width / old_height)
    if isinstance(image, Tensor):
        return interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    return image.resize((width, height), Image.Resampling.BILINEAR)


def build_train_transform(image_size: Size, crop: str = "center") -> Transform:
    """What training sees; crop: "center" or "random"."""
    return Transform(height_width(image_size), random_crop=crop == "random", flip=True)


def build_test_transform(image_size: Size) -> Transform:
    """What evaluations see."""
    return Transform(height_width(image_size))
