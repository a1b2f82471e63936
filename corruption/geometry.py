"""Sizes and borders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Size = int | tuple[int, int]
"""Of images: S for S x S pixels, or (H, W)."""


def height_width(size: Size) -> tuple[int, int]:
    """(H, W) of either form."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def mirrored(length: int, before: int, after: int) -> np.ndarray:
    """Pixel numbers of a row of `length` pixels, continued by reflection: c b a | a b c | c b a, as often as needed."""
    import numpy as np  # which `--help` does not need

    return np.pad(np.arange(length), (before, after), mode="symmetric")
