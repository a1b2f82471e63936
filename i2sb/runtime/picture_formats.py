"""Which image files are opened."""

import functools

from PIL import Image

# EPS would run Ghostscript; the others are not decoded by Pillow itself
_NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Formats of the installed Pillow."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of their files, in lower case and with their dot."""
    formats = readable_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)
