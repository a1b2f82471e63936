"""The one place where the bytes of an image file become an RGB image."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from i2sb.errors import one_line

# EPS would run Ghostscript; the others are not decoded by Pillow itself
_NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes of the image files that the installed Pillow reads, in lower case and with their dot."""
    formats = _formats()
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in formats))


def decode(content: bytes, *, exif_rotate: bool = False) -> Image.Image:
    """Image file -> RGB image with 8 bits per channel.

    Grey, palette and CMYK images are converted as Pillow does; transparency is dropped.  16-bit grey is divided by
    257 and rounded, so that 65535 becomes 255.

    Args:
        exif_rotate: turn the image as its EXIF orientation says, which torchvision (and so the publication) does not.

    Raises:
        ValueError: not an image, a damaged one, or one with 32-bit or floating-point pixels, whose white is undefined;
            the text is one line.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            if exif_rotate:
                ImageOps.exif_transpose(image, in_place=True)
            return _to_8_bit(image).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"its {len(content)} bytes are not an image that Pillow reads") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        raise ValueError(one_line(error, 300) or type(error).__name__) from error


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
