"""The one place where the bytes of an image file become pixels."""

from __future__ import annotations

import contextlib
import functools
import io
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from i2sb.errors import one_line
from i2sb.photographs import Photograph, ValueRange, is_deep, parse
from i2sb.runtime.picture_formats import readable_formats, readable_suffixes

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels that Pillow converts to
BANDS = (".npy", ".tif", ".tiff")  # files of any numbers, and of any number of channels
_LUMA = [[0.299], [0.587], [0.114]]  # ITU-R 601, Pillow's
_KIND = {"1": "L", "I": "L", "F": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}


@functools.cache
def image_suffixes(channels: int = 3) -> tuple[str, ...]:
    """Suffixes of the files that `decode` reads, in lower case and with their dot."""
    return tuple(sorted({*BANDS, *readable_suffixes()})) if channels in _MODES else BANDS


def decode(
    content: bytes, *, exif_rotate: bool = False, channels: int = 3, value_range: ValueRange = None
) -> Image.Image | np.ndarray:
    """Image file -> Pillow's grey (1 channel), RGB (3) or RGBA (4) where it has 8 bits per channel, as published.

    Grey, palette and CMYK images are converted as Pillow does; transparency is dropped but for 4 channels.

    All others, and all where there is a value_range, become [H,W,C] float32 in [0,1]: PNG of 16 bits, TIFF of any
    numbers, .npy files [H,W] or [H,W,C].  Grey and colour become each other; other channels are taken as they are.

    Args:
        exif_rotate: turn the image as its EXIF orientation says, which torchvision (and so the publication) does not.
        value_range: see `Photograph.of`; values outside are clipped.

    Raises:
        ValueError: not an image, a damaged one, NaN, numbers whose white is unknown, or other channels; one line.
        MemoryError: none is left; the image may be sound.
    """
    try:
        if channels not in _MODES or value_range is not None or is_deep(content):
            return _with_channels(parse(content, channels, value_range, turn=exif_rotate), channels)
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            if exif_rotate:
                ImageOps.exif_transpose(image, in_place=True)
            image.load()
            return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])  # which copies
    except UnidentifiedImageError:
        raise ValueError(f"its {len(content)} bytes are not an image that Pillow reads") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        if type(error) is MemoryError:  # not NumPy's own, of an array that claims to be huge
            raise
        raise ValueError(one_line(error, 300) or type(error).__name__) from error


def _with_channels(picture: Photograph, channels: int) -> np.ndarray:
    """[H,W,channels] float32 in [0,1]."""
    values = picture.unit()
    if (values.shape[2], channels) == (3, 1):
        values = values @ np.float32(_LUMA)
    elif values.shape[2] == 1 and channels in (3, 4):
        values = values.repeat(3, axis=2)
    if values.shape[2] == 3 and channels == 4:
        values = np.dstack([values, np.ones(values.shape[:2], np.float32)])
    if values.shape[2] != channels:
        shape = list(picture.array().shape)
        raise ValueError(f"it holds {picture.levels.dtype} {shape}, not [height, width, {channels}]")
    return values


def describe(
    file: BinaryIO, *, exif_rotate: bool = False, channels: int = 3, value_range: ValueRange = None
) -> tuple[int, int, str]:
    """(width, height, kind of pixels: "L" for grey, "RGB", "RGBA", .., or "5 bands") of an image, from its header.

    Arguments and errors as those of `decode`.
    """
    try:
        if channels in _MODES:
            with contextlib.suppress(UnidentifiedImageError), Image.open(file, formats=readable_formats()) as image:
                turned = exif_rotate and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
                width, height = image.size[::-1] if turned else image.size
                return width, height, _KIND.get(image.mode.partition(";")[0], image.mode)
            file.seek(0)
        picture = parse(file.read(), channels, (0, 1), turn=exif_rotate)  # whatever its values mean
        height, width, bands = picture.array().shape
        return width, height, _MODES.get(bands, f"{bands} bands")
    except Exception as error:  # of Pillow's plug-ins
        raise ValueError(one_line(error, 300) or type(error).__name__) from error
