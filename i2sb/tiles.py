"""A network on images of any size: in overlapping windows, padded by reflection, blended with smooth weights.

Only the network sees windows; samplers, noise and masks see the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

OVERLAP = 4  # neighbouring windows share at least a quarter of their side


class Window(NamedTuple):
    """A window along one axis: the pixels it shows [S], in which part of the image they lie, and their weights."""

    shown: np.ndarray
    inside: slice
    weight: np.ndarray


def cover(length: int, multiple: int, tile: int | None = None) -> list[Window]:
    """Windows that cover 0 .. length - 1, starts and sizes multiples of `multiple`; their weights add up to 1.

    One window where `tile` is None or the length fits into it.  Pixels beyond the end are reflections, however short
    the image.  Weights fall to 0 well before a border that another window covers: a network's outermost pixels there
    lack their surroundings.

    Raises:
        ValueError: tile is below 2 * multiple.
    """
    padded = -(-length // multiple) * multiple
    size = padded if tile is None else min(padded, tile // multiple * multiple)
    starts = [0]
    if size < padded:
        if size < 2 * multiple:
            raise ValueError(f"tile {tile}: this network needs at least {2 * multiple} pixels")
        overlap = max(multiple, size // OVERLAP // multiple * multiple)
        last = -(-(padded - size) // (size - overlap))
        starts = [round(i * (padded - size) / last / multiple) * multiple for i in range(last + 1)]
    weights = np.zeros((len(starts), length))
    for i, start in enumerate(starts):
        rising = _ramp(start, starts[i - 1] + size, length) if i else 1.0
        falling = _ramp(starts[i + 1], start + size, length) if i + 1 < len(starts) else 0.0
        weights[i] = rising * (1.0 - falling)
    weights /= weights.sum(axis=0)
    pixels = np.pad(np.arange(length), (0, padded - length), mode="reflect")
    found = []
    for start, weight in zip(starts, weights):
        inside = slice(start, min(start + size, length))
        found.append(Window(pixels[start : start + size], inside, weight[inside]))
    return found


def _ramp(begin: int, end: int, length: int) -> np.ndarray:
    """[length]: from 0 to 1 as a raised cosine over the middle half of begin .. end."""
    share = (np.arange(length) + 0.5 - begin) / (end - begin)
    return np.sin(np.pi / 2 * np.clip(2 * share - 0.5, 0, 1)) ** 2


def in_windows(
    predict: Callable[..., Tensor], images: Sequence[Tensor], multiple: int, tile: int | None = None
) -> Tensor:
    """predict(*images) [B,C,H,W], for a `predict` that takes only multiples of `multiple`, evaluated window by window.

    Args:
        predict: takes as many images [B,C,h,w] as are given, and gives [B,C,h,w].
        images: [B,C,H,W] each, of any H and W.
        tile: side of the largest window [pixels]; None: the whole image is one.

    Raises:
        ValueError: tile is below 2 * multiple and the image above it.
    """
    first = images[0]
    height, width = first.shape[2:]
    rows, columns = cover(height, multiple, tile), cover(width, multiple, tile)
    if len(rows) == len(columns) == 1 and len(rows[0].shown) == height and len(columns[0].shown) == width:
        return predict(*images)
    blended = torch.zeros_like(first)
    for row in rows:
        for column in columns:
            part = predict(*(_part(image, row, column) for image in images))
            part = part[..., : len(row.weight), : len(column.weight)]
            part = part * torch.as_tensor(row.weight[:, None] * column.weight).to(part)
            blended[..., row.inside, column.inside] += part
    return blended


def _part(image: Tensor, row: Window, column: Window) -> Tensor:
    rows, columns = (torch.as_tensor(window.shown, device=image.device) for window in (row, column))
    return image[..., rows[:, None], columns]
