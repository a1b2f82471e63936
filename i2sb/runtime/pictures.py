"""Restored images as picture files: one each, or the way that one took."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write

FRAME_MILLISECONDS = 120


def to_pixels(image: Tensor) -> np.ndarray:
    """[3,H,W] in [-1,1] -> uint8 [H,W,3], rounded to the nearest level; uint8 [3,H,W] is only turned."""
    if image.dtype == torch.uint8:
        return image.cpu().permute(1, 2, 0).numpy()
    return ((image.float().cpu() + 1) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()


def save_picture(path: Path, image: Tensor) -> None:
    """Write [3,H,W] in [-1,1] as the file that the name's ending says (png, jpg).

    Raises:
        UserError: the file cannot be written.
    """
    _save(path, Image.fromarray(to_pixels(image)), **({"quality": 95} if path.suffix == ".jpg" else {}))


def read_frames(path: Path) -> list[np.ndarray]:
    """The frames of an animated picture, uint8 [H,W,3] each.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Image.open(path) as picture:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); remove it") from error


def save_trajectory(stem: Path, states: Tensor) -> None:
    """Write states [K,3,H,W] in [-1,1], index 0 the last, as STEM.webp (animated) and STEM.png (a strip).

    Raises:
        UserError: a file cannot be written.
    """
    frames = [to_pixels(state) for state in states.flip(0)]
    _save(stem.with_suffix(".png"), Image.fromarray(np.concatenate(frames, axis=1)))
    first, *others = [Image.fromarray(frame) for frame in frames]
    times = [FRAME_MILLISECONDS] * len(others) + [8 * FRAME_MILLISECONDS]
    _save(
        stem.with_suffix(".webp"),
        first,
        save_all=True,
        append_images=others,
        duration=times,
        loop=0,
        lossless=True,
    )


def _save(path: Path, picture: Image.Image, **options: object) -> None:
    kinds = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
    buffer = io.BytesIO()
    picture.save(buffer, kinds[path.suffix], **options)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
