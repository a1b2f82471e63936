"""Sizes and borders.  numpy only."""

import numpy as np

Size = int | tuple[int, int]
"""Of images: S for S x S pixels, or (H, W)."""


def height_width(size: Size) -> tuple[int, int]:
    """(H, W) of either form."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def mirrored(length: int, before: int, after: int) -> np.ndarray:
    """Pixel numbers of a row of `length` pixels, continued by reflection: c b a | a b c | c b a, as often as needed."""
    return np.pad(np.arange(length), (before, after), mode="symmetric")
