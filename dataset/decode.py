"""The one place where the bytes of an image file become pixels."""

from __future__ import annotations

import functools
import io
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from i2sb.errors import one_line
from i2sb.runtime.picture_formats import readable_formats, readable_suffixes

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels that Pillow converts to
_NPY = b"\x93NUMPY"
_BANDS = (".npy", ".tif", ".tiff")  # files of any number of channels
_KIND = {"1": "L", "I": "L", "F": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB"}


@functools.cache
def image_suffixes(channels: int = 3) -> tuple[str, ...]:
    """Suffixes of the files that `decode` reads, in lower case and with their dot."""
    more = () if channels in (1, 3) else _BANDS
    return tuple(sorted({*more, *readable_suffixes()})) if channels in _MODES else more


def decode(content: bytes, *, exif_rotate: bool = False, channels: int = 3) -> Image.Image | np.ndarray:
    """Image file -> image with 8 bits per channel: grey (1 channel), RGB (3), or RGBA (4).

    Grey, palette and CMYK images are converted as Pillow does; transparency is dropped but for 4 channels.  16-bit grey
    is divided by 257 and rounded, so that 65535 becomes 255.  .npy files [H,W,C] of uint8 or uint16, where there may be
    any (see `image_suffixes`), and TIFF of other channels than Pillow's become such an array, with all their bits.

    Args:
        exif_rotate: turn the image as its EXIF orientation says, which torchvision (and so the publication) does not.

    Raises:
        ValueError: not an image, a damaged one, one with 32-bit or floating-point pixels, whose white is undefined, or
            an array of other channels; the text is one line.
    """
    try:
        if channels not in (1, 3) and (channels not in _MODES or content.startswith(_NPY)):
            return _bands(content, channels)
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            if exif_rotate:
                ImageOps.exif_transpose(image, in_place=True)
            return _to_8_bit(image).convert(_MODES[channels])
    except UnidentifiedImageError:
        raise ValueError(f"its {len(content)} bytes are not an image that Pillow reads") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        raise ValueError(one_line(error, 300) or type(error).__name__) from error


def describe(file: BinaryIO, *, exif_rotate: bool = False, channels: int = 3) -> tuple[int, int, str]:
    """(width, height, kind of pixels: "L" for grey, "RGB", "RGBA", .., or "5 bands") of an image, from its header.

    Raises ValueError as `decode`.
    """
    try:
        is_array = channels not in _MODES or (channels == 4 and file.read(len(_NPY)) == _NPY)
        file.seek(0)
        if is_array:
            height, width, bands = _bands(file.read(), channels).shape
            return width, height, f"{bands} bands"
        with Image.open(file, formats=readable_formats()) as image:
            turned = exif_rotate and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            width, height = image.size[::-1] if turned else image.size
            return width, height, _KIND.get(image.mode.partition(";")[0], image.mode)
    except UnidentifiedImageError:
        raise ValueError("it is not an image that Pillow reads") from None
    except Exception as error:
        raise ValueError(one_line(error, 300) or type(error).__name__) from error


def _bands(content: bytes, channels: int) -> np.ndarray:
    """[H,W,C] uint8 or uint16 of a .npy file, or a TIFF with its bands last or first."""
    if content.startswith(_NPY):
        pixels = np.load(io.BytesIO(content), allow_pickle=False)
    else:
        import tifffile

        pixels = tifffile.imread(io.BytesIO(content))
        if pixels.ndim == 3 and pixels.shape[2] != channels == pixels.shape[0]:
            pixels = np.moveaxis(pixels, 0, 2)
    if (
        pixels.ndim != 3
        or pixels.shape[2] != channels
        or 0 in pixels.shape
        or pixels.dtype not in (np.uint8, np.uint16)
    ):
        raise ValueError(
            f"it holds {pixels.dtype} {list(pixels.shape)}, not uint8 or uint16 [height, width, {channels}]"
        )
    return np.ascontiguousarray(pixels)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Pillow's own conversion clips the values of deeper grey at 255: nearly all of it would be white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # 12-bit TIFF has this mode, too; older versions of Pillow give 16-bit PNG and PGM as mode I
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
        white = 2**bits - 1
        pixels = (np.asarray(image).astype(np.int64) * 255 + white // 2) // white
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is zero
            pixels = 255 - pixels
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise ValueError(f"it has {kind} pixels, whose white is undefined: save it with 8 or 16 bits")
    return image
