"""One picture that shows what a checkpoint does: degraded, restored and clean images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.judge import open_samples
from evaluation.scored_images import JudgedImages
from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write

GAP, MARGIN, TITLE, CAPTION = 8, 16, 34, 20  # pixels
INK, PAPER, FAINT = (28, 28, 30), (255, 255, 255), (110, 110, 115)


def draw_comparison(opt: Any, out: Path, *, rows: int, tile: int) -> dict[str, float]:
    """Write `out` (PNG): a row per image, columns degraded, each of `opt.sample_dir`, clean; PSNR below each.

    opt: see `open_samples`.  rows: images shown, spread over the classes.  tile: width of each [pixels].

    Returns the mean gain in PSNR over all images [dB] by sample folder.
    Raises UserError where samples were not judged by PSNR, and as `open_samples`.
    """
    found = open_samples(opt, device="cpu")
    folders = [JudgedImages(samples, found) for samples in found.samples.values()]
    columns, gains = [], {}
    for images in folders:
        if "psnr_restored" not in images.columns:
            raise UserError(f"{images.folder}: has no PSNR; run compute_metrices.py --metrics psnr first")
        before, after = (np.array(images.columns[f"psnr_{row}"]) for row in ("degraded", "restored"))
        finite = np.isfinite(before) & np.isfinite(after)
        gains[images.folder.name] = float(np.mean((after - before)[finite])) if finite.any() else 0.0
        cases = [images.case(number) for number in folders[0].spread(rows)]
        title = images.folder.name.removeprefix("samples_").replace("nfe", "restored, NFE ").replace("_", " ")
        columns.append((title, [(case.restored, case.metrics["psnr"][0]) for case in cases]))
    columns.insert(0, ("degraded", [(case.degraded, case.metrics["psnr"][1]) for case in cases]))
    columns.append(("clean", [(case.clean, None) for case in cases]))
    means = ", ".join(f"{title} {gain:+.2f} dB" for (title, _), gain in zip(columns[1:], gains.values()))
    heading = f"{found.options.corrupt}, {len(folders[0].names)} held-out images: {means}"
    with atomic_write(out) as file:
        _paint(columns, heading, tile).save(file, "PNG", optimize=True)
    return gains


def _paint(columns: Sequence[tuple[str, Sequence]], heading: str, tile: int) -> Image.Image:
    """columns: (title, [(image of `to_pixels`, PSNR or None)])."""
    rows, (shown_height, shown_width) = len(columns[0][1]), columns[0][1][0][0].shape[:2]
    high = max(1, round(tile * shown_height / shown_width))
    width = 2 * MARGIN + len(columns) * (tile + GAP) - GAP
    height = 2 * MARGIN + TITLE + CAPTION + rows * (high + CAPTION + GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    small = ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN), heading, INK, ImageFont.load_default(17))
    for column, (title, cells) in enumerate(columns):
        left = MARGIN + column * (tile + GAP)
        draw.text((left, MARGIN + TITLE), title, INK, small)
        for row, (image, psnr) in enumerate(cells):
            top = MARGIN + TITLE + CAPTION + row * (high + CAPTION + GAP)
            picture.paste(Image.fromarray(image).resize((tile, high), Image.Resampling.NEAREST), (left, top))
            if psnr is not None:
                draw.text((left, top + high + 2), f"{psnr:.2f} dB", FAINT, small)
    return picture
