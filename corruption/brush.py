"""Free-form hole masks: thick brush strokes of wandering direction.  numpy only.

After the idea of Yu et al. 2019 (arXiv 1806.03589, free-form masks): a stroke has one width and visits a few vertices,
turning back and forth. It is painted as overlapping discs, one at a time, which is what makes the hole ratio certain:
painting stops with the disc that reaches the aim, and the aim keeps one disc's distance from the upper bound.
"""

from functools import lru_cache

import numpy as np

from .geometry import Size, height_width

RADIUS = (0.025, 0.07)  # of the image's shorter side: strokes 13 to 36 px thick at 256
LENGTH = (0.08, 0.25)  # from vertex to vertex, of the side
VERTICES = (4, 12)
TURN = (0.3 * np.pi, 0.55 * np.pi)  # less than a right angle on average: strokes wander rather than fill


def draw_mask(size: Size, low: float, high: float, seed: int) -> np.ndarray:
    """uint8 [H,W], 1 = hole, with low <= share of holes <= high.  The same arguments give the same mask.

    Raises ValueError if the range is too narrow for a disc of the thickest brush (about 0.02).
    """
    rng = np.random.default_rng([seed, round(1000 * low), round(1000 * high)])
    height, width = height_width(size)
    area = height * width
    thickest = _disc(_half_pixels(RADIUS[1] * min(height, width))).sum()
    least, most = low * area, high * area - thickest
    if most < least:
        raise ValueError(f"hole ratio {low} .. {high}: too narrow, {thickest / area:.3f} is least at {size} px")
    aim = rng.uniform(least, most)
    mask = np.zeros((height, width), dtype=bool)
    holes = 0
    while holes < aim:
        holes = _paint_stroke(mask, holes, aim, rng)
    return mask.astype(np.uint8)


def _paint_stroke(mask: np.ndarray, holes: int, aim: float, rng: np.random.Generator) -> int:
    """Paint one stroke into `mask` until it ends or `aim` is reached.  Returns the new count of holes."""
    size = min(mask.shape)
    half_pixels = _half_pixels(rng.uniform(*RADIUS) * size)
    disc, spacing = _disc(half_pixels), half_pixels / 4  # half a radius apart: the edge looks smooth
    here = rng.uniform(0, mask.shape, 2)
    heading = rng.uniform(0, 2 * np.pi)
    side = rng.choice([-1, 1])
    for _ in range(rng.integers(VERTICES[0], VERTICES[1] + 1)):
        step = rng.uniform(*LENGTH) * size * np.array([np.sin(heading), np.cos(heading)])
        outside = (here + step < 0) | (here + step >= mask.shape)
        step[outside] *= -1  # turned back at the border, else strokes would run along it
        there = here + step
        steps = max(1, round(np.hypot(*step) / spacing))
        for point in np.linspace(here, there, steps, endpoint=False):
            holes += _stamp(mask, disc, int(point[0]), int(point[1]))
            if holes >= aim:
                return holes
        here = there
        heading = np.arctan2(*step) + side * rng.uniform(*TURN)
        side = -side
    return holes


def _stamp(mask: np.ndarray, disc: np.ndarray, row: int, col: int) -> int:
    """Paint `disc` centred at a pixel, cut off at the borders.  Returns the count of new holes."""
    r = len(disc) // 2
    top, left = max(row - r, 0), max(col - r, 0)
    window = mask[top : row + r + 1, left : col + r + 1]
    height, width = window.shape
    part = disc[top - row + r : top - row + r + height, left - col + r : left - col + r + width]
    fresh = part & ~window
    window |= part
    return np.count_nonzero(fresh)


def _half_pixels(radius: float) -> int:
    """A radius in half pixels, at least one pixel."""
    return max(2, round(2 * radius))


@lru_cache
def _disc(half_pixels: int) -> np.ndarray:
    """bool [2r+1, 2r+1]: the pixels within half_pixels / 2 of the centre."""
    radius = half_pixels / 2
    offset = np.arange(-int(radius), int(radius) + 1)
    return offset[:, None] ** 2 + offset**2 <= radius**2
