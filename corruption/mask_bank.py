"""Where free-form masks come from: a stored bank, or the brush.

Both answer to a mask's number, so that training (a random number) and evaluation (the image's number) ask
alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .brush import draw_mask

NUM_MASKS = 10_000  # size of the published bank; the brush offers as many in training
CHECKED = 64  # a published bank is 655 MB: a sample tells whether it is the right one
TOLERANCE = 0.01  # of the hole ratio, for banks made by others
KEPT_BYTES = 128 * 2**20

MaskBank = np.ndarray | Callable[[str], np.ndarray | None]
"""A stored bank [n,S,S], or a function from its kind ("freeform1020", "freeform2030") to one, or to None."""


class StoredMasks:
    """A bank uint8 or bool [n,S,S], 1 = hole; may be memory-mapped: only the masks asked for are read.

    Raises ValueError if the shape is not [n,S,S], or if a sample of 64 masks holds other values than 0 and 1
    or hole ratios outside low .. high (by more than 0.01).
    """

    def __init__(self, masks: np.ndarray, size: int, low: float, high: float):
        self.masks = np.asarray(masks)  # a memory map stays one
        if self.masks.ndim != 3 or self.masks.shape[1:] != (size, size) or not len(self.masks):
            raise ValueError(f"mask bank: expected shape [n, {size}, {size}], got {list(self.masks.shape)}")
        self.count = len(self.masks)
        sample = np.linspace(0, self.count - 1, min(CHECKED, self.count)).astype(int)
        for number in sample:
            self._check(number, low, high)

    def _check(self, number: int, low: float, high: float) -> None:
        mask = self.masks[number]
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(f"mask bank: mask {number} holds other values than 0 (keep) and 1 (hole)")
        ratio = mask.mean()
        if not low - TOLERANCE <= ratio <= high + TOLERANCE:
            raise ValueError(
                f"mask bank: mask {number} has a hole ratio of {ratio:.3f}, not within {low} .. {high}"
            )

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Masks [B,S,S] of the given numbers [B].  Raises ValueError beyond the end of the bank."""
        if len(numbers) and numbers.max() >= self.count:
            raise ValueError(
                f"mask bank: it has {self.count} masks, none for image {numbers.max()} (counted from 0)"
            )
        return self.masks[numbers]

    def __str__(self) -> str:
        return f"{self.count} stored masks"


class BrushMasks:
    """Brush strokes in place of a bank: mask number k is drawn with seed k, for any k.

    Training picks among the first 10,000, as from the published bank, and each is drawn once: they are kept
    as bits (82 MB for all of them at 256 px) up to 128 MB, so a mask costs milliseconds at first and
    microseconds later.
    """

    count = NUM_MASKS

    def __init__(self, size: int, low: float, high: float):
        self.size, self.low, self.high = size, low, high
        self._room = KEPT_BYTES // (size * size // 8)
        self._drawn: dict[int, np.ndarray] = {}

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Masks uint8 [B,S,S] of the given numbers [B]."""
        masks = [np.unpackbits(self._bits(int(k))) for k in numbers]
        return np.array(masks, dtype=np.uint8).reshape(-1, self.size, self.size)

    def _bits(self, number: int) -> np.ndarray:
        bits = self._drawn.get(number)
        if bits is None:
            bits = np.packbits(draw_mask(self.size, self.low, self.high, number))
            if len(self._drawn) < self._room:
                self._drawn[number] = bits
        return bits

    def __str__(self) -> str:
        return "brush strokes in place of a mask bank"
