"""One picture that shows what a checkpoint does: degraded, restored and clean images side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluation.image_quality import psnr
from evaluation.judge import open_evaluation
from evaluation.triples import Triple, check_pairs, triples
from i2sb.ckpt_util import RESULTS, build_ckpt_option
from i2sb.pictures import to_pixels
from i2sb.pixels import to_float
from i2sb.recon import Recon, find_recon
from i2sb.runtime.files import atomic_write

GAP, MARGIN, TITLE = 8, 16, 34  # pixels
INK, PAPER, FAINT = (28, 28, 30), (255, 255, 255), (110, 110, 115)


def draw_comparison(
    opt: Any, sample_dirs: Sequence[str], out: Path, log: Any, *, rows: int = 6, tile: int = 192
) -> dict[str, float]:
    """Write `out` (PNG): a row per image, columns degraded, each of `sample_dirs`, clean; PSNR below each.

    The images are spread over the classes: the first of each, then the second of each, and so on.

    Args:
        opt: `ckpt`, `dataset_dir`, `val_list`, `device`, `image_size` (or None) are read.
        tile: side of each image in the picture [pixels].

    Returns the mean gain in PSNR over all images [dB] by sample folder.

    Raises:
        UserError: samples or data that are missing or do not belong together; an unwritable file.
    """
    ckpt_opt = build_ckpt_option(opt, None, RESULTS / opt.ckpt)
    ckpt_opt.dataset_dir, ckpt_opt.val_list = opt.dataset_dir, opt.val_list
    ckpt_opt.image_size = opt.image_size or ckpt_opt.image_size
    dataset, corrupt, _ = open_evaluation(ckpt_opt, log)
    shown = spread_over_classes([label for _, label in dataset.samples], rows)
    columns: dict[str, dict[int, tuple[Tensor, float]]] = {"degraded": {}}
    clean: dict[int, Tensor] = {}
    gains: dict[str, float] = {}
    for name in sample_dirs:
        recon = Recon(find_recon(RESULTS / opt.ckpt / name))
        check_pairs(recon, dataset, f"{opt.ckpt}/{name}", ckpt_opt.image_size)
        columns[name], differences = {}, []
        for batch in triples(recon, dataset, corrupt, batch_size=32):
            before, after = psnr(batch.degraded, batch.clean), psnr(to_float(batch.restored), batch.clean)
            differences += (after - before).tolist()
            _collect(batch, shown, name, columns, clean, before, after)
        gains[name] = sum(differences) / len(differences)
    titles = {"degraded": "degraded", **{name: _title(name) for name in sample_dirs}}
    heading = f"{ckpt_opt.corrupt}, {len(dataset)} held-out images: " + ", ".join(
        f"{titles[name]} {gain:+.2f} dB" for name, gain in gains.items()
    )
    _save(out, _paint(shown, columns, clean, titles, heading, tile))
    return gains


def spread_over_classes(labels: Sequence[int], count: int) -> list[int]:
    """`count` positions: the first image of each class, then the second of each, ..."""
    seen: dict[int, int] = {}
    order = []
    for number, label in enumerate(labels):
        seen[label] = seen.get(label, -1) + 1
        order.append((seen[label], label, number))
    return [number for _, _, number in sorted(order)[:count]]


def _collect(
    batch: Triple, shown: list[int], name: str, columns: dict, clean: dict, before: Tensor, after: Tensor
) -> None:
    for row, number in enumerate(batch.numbers):
        if number in shown:
            columns["degraded"][number] = batch.degraded[row], before[row].item()
            columns[name][number] = to_float(batch.restored[row]), after[row].item()
            clean[number] = batch.clean[row]


def _title(name: str) -> str:
    return "restored, " + name.removeprefix("samples_").removesuffix("_clip").replace("nfe", "NFE ")


def _paint(
    shown: list[int], columns: dict, clean: dict, titles: dict[str, str], heading: str, tile: int
) -> Image.Image:
    num_columns = len(columns) + 1
    caption = 20
    width = 2 * MARGIN + num_columns * tile + (num_columns - 1) * GAP
    height = 2 * MARGIN + TITLE + caption + len(shown) * (tile + caption + GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN), heading, INK, large)
    for column, title in enumerate([*titles.values(), "clean"]):
        draw.text((MARGIN + column * (tile + GAP), MARGIN + TITLE), title, INK, small)
    for row, number in enumerate(shown):
        top = MARGIN + TITLE + caption + row * (tile + caption + GAP)
        for column, cells in enumerate([*columns.values(), clean]):
            cell = cells[number]
            image, score = cell if isinstance(cell, tuple) else (cell, None)
            left = MARGIN + column * (tile + GAP)
            pixels = Image.fromarray(to_pixels(image)).resize((tile, tile), Image.Resampling.NEAREST)
            picture.paste(pixels, (left, top))
            if score is not None:
                draw.text((left, top + tile + 2), f"{score:.2f} dB", FAINT, small)
    return picture


def _save(out: Path, picture: Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    with atomic_write(out) as file:
        file.write(buffer.getvalue())


