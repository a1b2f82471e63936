"""A picture of whole photographs, restored: a row each, an enlarged detail in the corner, a caption below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

GAP, MARGIN, LINE = 8, 16, 18  # pixels
INK, PAPER, FAINT = (28, 28, 30), (255, 255, 255), (110, 110, 115)
DETAIL = 1 / 6  # side of the detail over the width of its photograph; it covers the DETAIL * ZOOM of it
ZOOM = 2.5


class Cell(NamedTuple):
    """One photograph of a row: uint8 [H,W,3], what is written above it and below it."""

    image: np.ndarray
    title: str
    caption: str


class Row(NamedTuple):
    """Photographs of one size; the last is the clean one, whose liveliest place is shown enlarged in all."""

    title: str
    cells: Sequence[Cell]


def paint(rows: Sequence[Row], width: int) -> Image.Image:
    """All rows below each other, each photograph `width` pixels wide.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a picture needs at least one row")
    title, small = ImageFont.load_default(15), ImageFont.load_default(12)
    highs = [round(width * row.cells[0].image.shape[0] / row.cells[0].image.shape[1]) for row in rows]
    picture = Image.new(
        "RGB",
        (
            2 * MARGIN + max(len(row.cells) for row in rows) * (width + GAP) - GAP,
            MARGIN + sum(high + 3 * LINE + MARGIN for high in highs),
        ),
        PAPER,
    )
    draw, top = ImageDraw.Draw(picture), MARGIN
    for row, high in zip(rows, highs):
        draw.text((MARGIN, top), row.title, INK, title)
        box = detail(row.cells[-1].image)
        for column, cell in enumerate(row.cells):
            left = MARGIN + column * (width + GAP)
            draw.text((left, top + LINE + 2), cell.title, INK, small)
            picture.paste(with_detail(cell.image, box, (width, high)), (left, top + 2 * LINE))
            draw.text((left, top + 2 * LINE + high + 2), cell.caption, FAINT, small)
        top += high + 3 * LINE + MARGIN
    return picture


def detail(clean: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the square whose contrasts are strongest, away from where it will be shown."""
    height, width = clean.shape[:2]
    side = max(1, min(round(width * DETAIL), height))
    grey = clean.astype(np.float64).mean(2)
    strength = uniform_filter(np.hypot(*np.gradient(grey)) if min(grey.shape) > 1 else grey, side)
    reach = side - side // 2
    strength[: side // 2], strength[height - reach + 1 :] = -1, -1
    strength[:, : side // 2], strength[:, width - reach + 1 :] = -1, -1
    shown = round(side * ZOOM) + reach
    strength[max(0, height - shown) :, max(0, width - shown) :] -= 1e6
    y, x = np.unravel_index(strength.argmax(), strength.shape)
    left, top = int(x) - side // 2, int(y) - side // 2
    return left, top, left + side, top + side


def with_detail(image: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """`image` reduced to `size` (width, height), with `box` of it enlarged in the lower right corner."""
    picture = Image.fromarray(image)
    part = picture.crop(box)
    scale = size[0] / picture.width
    shown = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shown)
    draw.rectangle([round(edge * scale) for edge in box], outline=PAPER)
    side = min(round(part.width * ZOOM * scale), size[0] - 2, size[1] - 2)
    corner = (size[0] - side - 1, size[1] - side - 1)
    draw.rectangle((corner[0] - 2, corner[1] - 2, *size), fill=PAPER)
    shown.paste(part.resize((side, side), Image.Resampling.NEAREST), corner)
    return shown
