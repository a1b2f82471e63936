"""Where numbered masks come from: a stored bank, the brush, or a folder of the user's.

All answer to a mask's number, so that training (a random number) and evaluation (the image's number) ask alike.

The published bank is one file, `imagenet_freeform_masks.npz`: for each kind the packed bits of 10,000 masks of 256 px.
The release unpacks it into `imagenet_freeform1020_masks.npz` and so on (key `mask`, uint8 [10000,256,256], 1 = hole).
Either will do; here masks stay bits (82 MB), and only those asked for are unpacked.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from .brush import draw_mask
from .geometry import Size, height_width

PUBLISHED_FILE = "imagenet_freeform_masks.npz"
PUBLISHED_SIZE = 256
KINDS = {  # kind -> (key in the published file, least and largest hole ratio)
    "freeform1020": ("10-20% freeform", 0.10, 0.20),
    "freeform2030": ("20-30% freeform", 0.20, 0.30),
}
NUM_MASKS = 10_000  # size of the published bank; the brush offers as many in training
SMALLEST = 16  # pixels: for smaller sides, masks of this size are resized, as no stroke would fit
LARGEST_KEPT = 512**2  # pixels of a drawn mask that is kept
CHECKED = 64  # masks of a bank whose mean hole ratio is checked: enough to tell kinds apart, and holes from the rest

MaskBank = np.ndarray | Callable[[str], np.ndarray | None]
"""Masks [n,s,s] of zeros and ones, their packed bits [n,s*s/8], or a function from a kind to one of these or None."""


def stored_bank(kind: str) -> np.ndarray | None:
    """Packed bits [n,8192] of the masks of a kind (a key of KINDS) in data/; None where there is no file of them.

    Raises ValueError for another kind, and for a file that is damaged or holds something else.
    """
    if kind not in KINDS:
        raise ValueError(f"no free-form masks of kind '{kind}'; choose one of: {', '.join(KINDS)}")
    key, low, high = KINDS[kind]
    unpacked, published = Path(f"data/imagenet_{kind}_masks.npz"), Path("data", PUBLISHED_FILE)
    if unpacked.is_file():
        return packed(_read(unpacked, "mask"), low, high, str(unpacked))
    if not published.is_file():
        return None
    bits, row = _read(published, key), PUBLISHED_SIZE**2 // 8
    if bits.dtype != np.uint8 or bits.size % row:
        raise ValueError(f"{published}: '{key}' is {bits.dtype} {list(bits.shape)}, not packed bits of 256 px masks")
    return packed(bits.reshape(-1, row), low, high, str(published))


def _read(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except KeyError:
        raise ValueError(f"{path}: holds no '{key}': put the right file there") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole npz file ({error}): copy or fetch it again") from error


def packed(masks: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    """Masks [n,s,s] as packed bits [n,ceil(s*s/8)]; packed ones are only checked.  `name` is for messages.

    Raises ValueError if these are no masks, or the mean hole ratio of a sample of them lies outside low .. high.
    """
    square = masks.ndim == 3 and masks.shape[1] == masks.shape[2]
    shaped = (square or masks.ndim == 2) and masks.dtype in (np.uint8, bool) and masks.size
    if not shaped or (square and masks.max() > 1):
        wanted = "masks [n, s, s] of 0 (keep) and 1 (hole)"
        raise ValueError(f"{name}: expected {wanted}, got {masks.dtype} {list(masks.shape)}, or other values")
    bits = np.packbits(masks.reshape(len(masks), -1), axis=1) if square else masks
    sample = bits[np.linspace(0, len(bits) - 1, CHECKED).astype(int)]
    ratio = np.unpackbits(sample).sum() / (CHECKED * (masks[0].size if square else 8 * masks[0].size))
    if not low - 0.01 <= ratio <= high + 0.01:
        raise ValueError(f"{name}: holes cover {ratio:.1%} of the masks on average, not {low:.0%} to {high:.0%}")
    return bits


class StoredMasks:
    """A bank, see `packed`; of another size than the images, resized (nearest neighbour)."""

    def __init__(self, masks: np.ndarray, size: Size, low: float, high: float):
        self.bits = packed(masks, low, high, "mask bank")
        self.count = len(self.bits)
        self.size = height_width(size)
        self.stored_size = masks.shape[1] if masks.ndim == 3 else math.isqrt(8 * masks.shape[1])

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Masks uint8 [B,H,W] of the given numbers [B].  Raises ValueError beyond the end of the bank."""
        if len(numbers) and numbers.max() >= self.count:
            raise ValueError(f"mask bank: it has {self.count} masks, none for image {numbers.max()} (counted from 0)")
        s = self.stored_size
        masks = np.unpackbits(self.bits[numbers], axis=1, count=s * s).reshape(-1, s, s)
        return nearest(masks, self.size)

    def __str__(self) -> str:
        resized = "" if (self.stored_size,) * 2 == self.size else f", resized from {self.stored_size} px"
        return f"{self.count} stored masks{resized}"


class BrushMasks:
    """Brush strokes in place of a bank: mask number k is drawn with seed k, for any k."""

    count = NUM_MASKS

    def __init__(self, size: Size, low: float, high: float):
        self.size, self.low, self.high = height_width(size), low, high

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Masks uint8 [B,H,W] of the given numbers [B]."""
        height, width = drawn = tuple(max(side, SMALLEST) for side in self.size)
        kept = height * width <= LARGEST_KEPT
        bits = [(_kept_bits if kept else _drawn_bits)(drawn, self.low, self.high, int(k)) for k in numbers]
        masks = [np.unpackbits(each, count=height * width) for each in bits]
        return nearest(np.array(masks, dtype=np.uint8).reshape(-1, height, width), self.size)

    def __str__(self) -> str:
        return "brush strokes in place of a mask bank"


def _drawn_bits(size: Size, low: float, high: float, number: int) -> np.ndarray:
    """A mask's bits; kept (82 MB for all 10,000 of 256 px), it costs milliseconds once and microseconds later."""
    return np.packbits(draw_mask(size, low, high, number))


_kept_bits = lru_cache(2 * NUM_MASKS)(_drawn_bits)  # for the mixture, which has two kinds


class FolderMasks:
    """The PNG files of a folder, in the order of their names; after the last comes the first again.

    White (the upper half of the grey levels) is the hole; of another size than the images, resized (nearest
    neighbour). Raises ValueError where there are none, and, as they are read, for one that cannot be read.
    """

    def __init__(self, folder: str, size: Size):
        self.folder, self.size = folder, height_width(size)
        self.files = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() == ".png")
        self.count = len(self.files)
        if not self.files:
            what = "are no PNG files in this folder" if Path(folder).is_dir() else "is no such folder"
            raise ValueError(f"inpaint-masks={folder}: there {what}")

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """Masks uint8 [B,H,W] of the given numbers [B]."""
        masks = [nearest(_read_mask(self.files[int(k) % self.count])[None], self.size) for k in numbers]
        return np.concatenate(masks) if masks else np.zeros((0, *self.size), np.uint8)

    def __str__(self) -> str:
        return f"{self.count} masks of {self.folder}"


def _read_mask(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bit
                return (np.asarray(image) >= 2**15).astype(np.uint8)
            return (np.asarray(image.convert("L")) >= 2**7).astype(np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a mask ({error})") from None


def nearest(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks [n,h,w] at another size (H, W), as torch's nearest neighbour gives them."""
    rows, columns = (np.arange(side) * of // side for side, of in zip(size, masks.shape[1:]))
    return np.ascontiguousarray(masks[:, rows[:, None], columns])
