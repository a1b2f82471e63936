"""What trained bridges make of whole photographs, against the classical answer: a table and a picture."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from corruption.build import create_corruption
from corruption.mask_bank import stored_bank
from evaluation.gallery import Cell, Row, paint
from evaluation.image_quality import psnr
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
    distance = _perceptual()
    rows = []
    for number, file in enumerate(files):
        turn = names if opt.ckpt else [names[number % len(names)]]
        rows.append(_row(file, {name: bridges[name] for name in turn}, opt, distance))
        print(rows[-1].title)
        for cell in rows[-1].cells[:-1]:
            print(f"    {cell.title:40} {cell.caption}")
    with atomic_write(opt.out) as out:
        paint(rows, opt.width).save(out, "PNG", optimize=True)
    print(f"The picture: {opt.out}")


def _row(
    file: Path, bridges: dict[str, Bridge], opt: argparse.Namespace, distance: Callable[[Tensor, Tensor], str]
) -> Row:
    first = next(iter(bridges.values()))
    clean = read(file, first.config.channels, first.config.value_range).tensor()[None]
    cells = []
    for title, image in _columns(clean, bridges, opt):
        caption = f"{psnr(image, clean).item():.2f} dB{distance(image, clean)}"
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
            operator = create_corruption(baseline_of, clean.shape[2:], "cpu", stored_bank)
            yield operator.baseline_name, operator.baseline(shown, mask)
        sampler = "ddpm" if nfe == 1 or bridge.config.ot_ode else FEW_STEPS
        setting = {"sampler": sampler, "tile": opt.tile, "is_shown": True}
        yield f"{name}, NFE {nfe}", bridge.restore_tensor(shown, opt.seed, mask, nfe=nfe, **setting)


def _perceptual() -> Callable[[Tensor, Tensor], str]:
    """The perceptual distance in words; nothing where its network is not installed."""
    from i2sb.features import PerceptualDistance

    try:
        network = PerceptualDistance()
    except UserError:
        return lambda image, clean: ""

    def measure(image: Tensor, clean: Tensor) -> str:
        with torch.no_grad():
            value = network(*(to_float(nearest_uint8(x)) for x in (image, clean))).item()
        return f" · distance {value:.3f}"

    return measure
