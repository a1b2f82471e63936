"""Restored images as picture files beside recon.pt: one each, or the trajectory that one took."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageSequence
from torch import Tensor

from i2sb.errors import UserError, one_line
from i2sb.photographs import Photograph, encode
from i2sb.pixels import nearest_uint8, shown_channels, to_float
from i2sb.recon import Recon
from i2sb.recon_store import ReconStore
from i2sb.runtime.files import atomic_write

FRAME_MILLISECONDS = 120
CAPTION = 16  # pixels above and below a strip
_KINDS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
_LONGEST_STEM = 240  # bytes of a picture's name before its number and suffix


def to_pixels(image: Tensor) -> np.ndarray:
    """[C,H,W] in [-1,1], or uint8 -> uint8 as Pillow takes it, [H,W] or [H,W,3 or 4], rounded to the nearest level.

    Of 2 channels the first is shown, of more than 4 the first three.
    """
    pixels = nearest_uint8(shown_channels(image).cpu())
    return pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()


def picture_names(names: Sequence[str], image_format: str) -> list[str]:
    """A file name for each image: CLASS/a.JPEG -> CLASS/a.png; where images share a name, their numbers are added.

    Very long names are cut, so that the result has at most 255 bytes.
    """
    paths = [Path(name.lstrip("/")) for name in names]
    short = [str(path.with_name(os.fsdecode(os.fsencode(path.stem)[:_LONGEST_STEM]))) for path in paths]
    times = Counter(short)
    unique = [name if times[name] == 1 else f"{name}.{number:05d}" for number, name in enumerate(short)]
    return [f"{name}.{image_format}" for name in unique]


def trajectory_file(folder: Path, number: int) -> Path:
    """The animated WebP of an image's trajectory, in a folder of samples."""
    return folder / "trajectories" / f"{number:05d}.webp"


def read_frames(path: Path) -> list[np.ndarray]:
    """The frames of an animated picture, uint8 [H,W,4] each where it has transparency, else [H,W,3]."""
    try:
        with Image.open(path) as picture:
            mode = "RGBA" if "A" in picture.mode else "RGB"
            return [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(picture)]
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); remove it") from error


def labelled_strip(frames: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Frames of `to_pixels` side by side, the image's name above and the numbers of the steps below: [h,w,3]."""
    height, width = frames[0].shape[:2]
    strip = Image.new("RGB", (width * len(frames), height + 2 * CAPTION), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(11)
    draw.text((2, 1), name.encode("utf-8", "replace").decode(), "black", font)
    for step, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame), (step * width, CAPTION))
        draw.text((step * width + 2, CAPTION + height + 1), f"step {step}" if width >= 64 else str(step), "black", font)
    return np.asarray(strip)


class Pictures:
    """Writes restored images as png or jpg (None: not at all) and the first trajectories; `restore`'s on_batch.

    Where the data set is deep, png have 16 bits, from 0 at the lower end of its range to 65535.
    """

    def __init__(self, folder: Path, dataset: Any, image_format: str | None, num_trajectories: int):
        self.folder, self.num_trajectories = folder, num_trajectories
        self._names = [dataset.short_name(path) for path, _ in dataset.samples]
        # the same bytes as in the data set, whatever this locale calls them
        names = [os.fsdecode(name.encode("utf-8", "surrogateescape")) for name in self._names if image_format]
        self._is_deep = image_format == "png" and dataset.is_deep
        self._images = [folder / "images" / name for name in picture_names(names, image_format or "")]

    def __call__(self, numbers: list[int], states: Tensor) -> None:
        for number, trajectory in zip(numbers, states):
            if self._images:
                self._write(self._images[number], trajectory[0])
            if number < self.num_trajectories:
                _save_trajectory(trajectory_file(self.folder, number), trajectory, self._names[number])

    def _write(self, path: Path, image: Tensor) -> None:
        if not self._is_deep:
            return _save(path, to_pixels(image))
        shown = to_float(shown_channels(image).cpu())
        levels = Photograph.of(np.zeros((1, 1, len(shown)), np.uint16), len(shown))
        with atomic_write(path) as file:
            file.write(encode(levels.with_colours(shown)))

    def complete(self, store: ReconStore, log: Any) -> None:
        """Write what a run lacks that began without pictures; trajectories cannot be made from restored images."""
        if self._images:
            images = (image for batch in Recon([store.path]).batches(32) for image in batch)
            for image, path in zip(images, self._images[store.start : store.stop]):
                if not path.is_file():
                    self._write(path, image)
        asked = range(store.start, min(store.stop, self.num_trajectories))
        if lacking := sum(not trajectory_file(self.folder, number).is_file() for number in asked):
            log.warning(f"[Sample] no trajectory of {lacking} images; --overwrite restores again and writes them")


def _save_trajectory(path: Path, states: Tensor, name: str) -> None:
    """Write states [K,C,H,W] in [-1,1], index 0 the last, as an animation (WebP) and beside it as a strip (PNG)."""
    frames = [to_pixels(state) for state in states.flip(0)]
    _save(path.with_suffix(".png"), labelled_strip(frames, name))
    others = [Image.fromarray(frame) for frame in frames[1:]]
    times = [FRAME_MILLISECONDS] * len(others) + [8 * FRAME_MILLISECONDS]
    _save(path, frames[0], save_all=True, append_images=others, duration=times, loop=0, lossless=True)


def _save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if path.suffix == ".jpg" and image.mode == "RGBA":  # JPEG has no transparency
        image = image.convert("RGB")
    image.save(buffer, _KINDS[path.suffix], quality=95, **options)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
