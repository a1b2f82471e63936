"""The operator of a run, and the published bank of free-form masks for it; `corruption.mask_bank` reads the bank."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from corruption.base import Corruption
from corruption.build import create_corruption
from corruption.mask_bank import PUBLISHED_SIZE, stored_bank
from corruption.registry import lookup
from dataset.names import is_imagenet
from guided_diffusion.presets import CHANNELS
from i2sb.addresses import FREEFORM_BANK
from i2sb.errors import UserError
from i2sb.operator_file import operator_errors


def fetch_bank(log: Any = None) -> Path:
    """Fetch the published file (250 MB at most) to data/ unless it is there; a UserError says how to do so by hand."""
    from i2sb.fetch import fetch

    return fetch(FREEFORM_BANK, "data", log)


def build_operator(opt: Any, classes: Iterable[str], log: Any) -> Corruption:
    """The operator of the task `opt.corrupt` for images of these classes; its masks are those of `bank_for`.

    Raises UserError where the task is not defined for these images.
    """
    masks, channels = bank_for(opt, is_imagenet(classes), log), getattr(opt, "channels", CHANNELS)
    if lookup(opt.corrupt).channels not in (None, channels):
        raise UserError(f"--corrupt {opt.corrupt}: needs --channels {lookup(opt.corrupt).channels}, not {channels}")
    with operator_errors():
        return create_corruption(opt.corrupt, opt.image_size, opt.device, masks, log)


def bank_for(opt: Any, imagenet: bool, log: Any) -> Callable[[str], np.ndarray | None] | None:
    """What `corruption` takes as its bank: a function from kind to masks; None for tasks without such holes.

    The published masks are fetched for ImageNet at 256 px; where no masks are in data/ of the current folder, brush
    strokes take their place, which is logged.
    """
    if not lookup(opt.corrupt).uses_mask_bank:
        return None
    return functools.partial(_bank, fetched=imagenet and opt.image_size == PUBLISHED_SIZE, log=log)


def _bank(kind: str, fetched: bool, log: Any) -> np.ndarray | None:
    try:
        bank = stored_bank(kind)
        if bank is None and fetched:
            fetch_bank(log)
            bank = stored_bank(kind)
        return bank
    except UserError as error:
        log.warning(f"[Freeform] {error}; until then brush strokes take the place of the masks")
        return None
    except ValueError as error:
        raise UserError(str(error)) from error
