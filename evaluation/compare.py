"""One picture that shows what a checkpoint does: degraded, baseline, restored and clean images side by side."""

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
    """Write `out` (PNG): a row per image, columns degraded, baseline, each of `opt.sample_dir`, clean; PSNR below each.

    opt: see `open_samples`.  rows: images shown, spread over the classes.  tile: width of each [pixels].

    Returns the mean gain in PSNR over the baseline, of all images [dB], by sample folder.
    Raises UserError where samples were not judged by PSNR, and as `open_samples`.
    """
    found = open_samples(opt, device="cpu")
    folders = [JudgedImages(samples, found) for samples in found.samples.values()]
    columns, gains = [], {}
    for images in folders:
        if "psnr_baseline" not in images.columns:
            raise UserError(f"{images.folder}: has no PSNR; run compute_metrices.py --metrics psnr first")
        values = {row: np.array(images.columns[f"psnr_{row}"]) for row in ("degraded", "baseline", "restored")}
        finite = np.all(np.isfinite(list(values.values())), axis=0)
        means = {row: float(each[finite].mean()) if finite.any() else 0.0 for row, each in values.items()}
        gain = gains[images.folder.name] = means["restored"] - means["baseline"]
        numbers = folders[0].spread(rows)
        cases = [images.case(number) for number in numbers]
        if not columns:
            kinds = {"degraded": "degraded"}
            if cases[0].baseline is not None:
                kinds["baseline"] = found.corrupt.baseline_name
            for row, title in kinds.items():
                shots = [(getattr(case, row), values[row][number]) for case, number in zip(cases, numbers)]
                columns.append((title, f"mean {means[row]:.2f} dB", shots))
        title = images.folder.name.removeprefix("samples_").replace("nfe", "restored, NFE ").replace("_", " ")
        shots = [(case.restored, values["restored"][number]) for case, number in zip(cases, numbers)]
        columns.append((title, f"mean {means['restored']:.2f} dB ({gain:+.2f})", shots))
    columns.append(("clean", "", [(case.clean, None) for case in cases]))
    heading = f"{found.options.corrupt}, {len(folders[0].names)} held-out images"
    with atomic_write(out) as file:
        _paint(columns, heading, tile).save(file, "PNG", optimize=True)
    return gains


def _paint(columns: Sequence[tuple[str, str, Sequence]], heading: str, tile: int) -> Image.Image:
    """columns: (title, text below it, [(image of `to_pixels`, PSNR or None)])."""
    rows, (shown_height, shown_width) = len(columns[0][2]), columns[0][2][0][0].shape[:2]
    high = max(1, round(tile * shown_height / shown_width))
    width = 2 * MARGIN + len(columns) * (tile + GAP) - GAP
    height = 2 * MARGIN + TITLE + 2 * CAPTION + rows * (high + CAPTION + GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    small = ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN), heading, INK, ImageFont.load_default(17))
    for column, (title, mean, cells) in enumerate(columns):
        left = MARGIN + column * (tile + GAP)
        draw.text((left, MARGIN + TITLE), title, INK, small)
        draw.text((left, MARGIN + TITLE + CAPTION), mean, FAINT, small)
        for row, (image, psnr) in enumerate(cells):
            top = MARGIN + TITLE + 2 * CAPTION + row * (high + CAPTION + GAP)
            picture.paste(Image.fromarray(image).resize((tile, high), Image.Resampling.NEAREST), (left, top))
            if psnr is not None:
                draw.text((left, top + high + 2), f"{psnr:.2f} dB", FAINT, small)
    return picture
