"""Two names that scripts of the original import from here."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from i2sb.schedule import space_indices

__all__ = ["space_indices", "unsqueeze_xdim"]


def unsqueeze_xdim(z: Tensor, xdim: Sequence[int]) -> Tensor:
    """z [B] -> [B,1,..] with one 1 per entry of `xdim`, to go with images [B,*xdim]."""
    return z.reshape(*z.shape, *[1] * len(xdim))
