"""What trained bridges make of whole photographs, against the classical answer: a table and a picture."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from corruption.registry import lookup
from evaluation.gallery import Cell, Row, paint
from evaluation.metrics import build_judges
from i2sb.bridge import Bridge
from i2sb.errors import UserError
from i2sb.export import demos
from i2sb.photographs import read
from i2sb.pictures import to_pixels
from i2sb.pixels import nearest_uint8, to_float
from i2sb.runtime.files import atomic_write
from i2sb.runtime.picture_formats import readable_suffixes

FEW_STEPS = "dbim2"


def restore_examples(opt: argparse.Namespace) -> None:
    """Print the scores of each photograph, and write the picture `opt.out`; see scripts/restore_examples.py.

    Raises:
        UserError: no photographs, no such checkpoint, or one that has no operator.
    """
    if not (names := opt.ckpt or [*demos()]):
        raise UserError("no demo models come with this installation: name checkpoints by --ckpt")
    files = [file for file in sorted(opt.input.rglob("*")) if file.suffix.lower() in readable_suffixes()]
    if not files:
        raise UserError(f"--input {opt.input}: there are no photographs")
    bridges = {name: Bridge.from_pretrained(name) for name in names}
    rows = []
    for number, file in enumerate(files):
        turn = names if opt.ckpt else [names[number % len(names)]]
        rows.append(_row(file, {name: bridges[name] for name in turn}, opt))
        print(rows[-1].title)
        for cell in rows[-1].cells[:-1]:
            print(f"    {cell.title:40} {cell.caption}")
    with atomic_write(opt.out) as out:
        paint(rows, opt.width).save(out, "PNG", optimize=True)
    print(f"The picture: {opt.out}")


def _row(file: Path, bridges: dict[str, Bridge], opt: argparse.Namespace) -> Row:
    first = next(iter(bridges.values()))
    clean = read(file, first.config.channels, first.config.value_range).tensor()[None]
    judges = build_judges(["psnr", "perceptual"], (), "cpu", shape=tuple(clean.shape[1:])).per_image
    cells = []
    for title, image in _columns(clean, bridges, opt):
        scores = {name: judge(image, clean, None).item() for name, judge in judges.items()}
        caption = f"{scores['psnr']:.2f} dB"
        if "perceptual" in scores:  # its network is an extra
            caption += f" · distance {scores['perceptual']:.3f}"
        cells.append(Cell(to_pixels(image[0]), title, caption))
    cells.append(Cell(to_pixels(clean[0]), "clean", ""))
    return Row(f"{file.stem}: {first.config.task}", cells)


def _columns(clean: Tensor, bridges: dict[str, Bridge], opt: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """(title, image [1,C,H,W]): the baseline, then each bridge at each NFE.  All see the degraded image in 8 bits."""
    baseline_of = None
    for (name, bridge), nfe in itertools.product(bridges.items(), opt.nfe):
        shown, mask = bridge.degrade_tensor(clean, [0], opt.seed)
        shown = to_float(nearest_uint8(shown))
        if baseline_of != bridge.config.task:
            baseline_of = bridge.config.task
            yield lookup(baseline_of).baseline_name, bridge.baseline_tensor(shown, mask)
        sampler = "ddpm" if nfe == 1 or bridge.config.ot_ode else FEW_STEPS
        setting = {"sampler": sampler, "tile": opt.tile, "is_shown": True}
        yield f"{name}, NFE {nfe}", bridge.restore_tensor(shown, opt.seed, mask, nfe=nfe, **setting)
