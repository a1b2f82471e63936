"""From a task's name to its operator."""

from __future__ import annotations

from typing import Any

import torch

from .base import Corruption
from .geometry import Size
from .mask_bank import MaskBank, stored_bank
from .registry import lookup


def create_corruption(
    name: str,
    image_size: Size,
    device: torch.device | str = "cpu",
    mask_bank: MaskBank | None = None,
    log: Any = None,
) -> Corruption:
    """The operator `name` for images [B,C,S,S], or [B,C,H,W] where `image_size` is (H, W); its tables on `device`.

    `mask_bank`: free-form masks, or a function from kind ("freeform1020", "freeform2030") to them or None, see
    `mask_bank.MaskBank`. None: brush strokes. Operators without free-form holes ignore it.

    Raises ValueError for an unknown name, an image size that the operator is not defined for, or a wrong bank.
    """
    cls = lookup(name)
    operator = cls(image_size, mask_bank=mask_bank) if cls.uses_mask_bank else cls(image_size)
    if log is not None:
        log.info(f"[Corrupt] {name}: {operator.extra_repr()}")
    return operator.to(device)


def build_corruption(opt: Any, log: Any, corrupt_type: str | None = None) -> Corruption:
    """The operator that the options name.

    Reads opt.corrupt (unless `corrupt_type` is given), opt.image_size and opt.device.
    """
    return create_corruption(
        corrupt_type or opt.corrupt, opt.image_size, device=opt.device, mask_bank=mask_bank_of(opt), log=log
    )


def mask_bank_of(opt: Any) -> MaskBank:
    """opt.freeform_bank where present and not None; else the mask files in data/ of the current folder."""
    bank = getattr(opt, "freeform_bank", None)
    return stored_bank if bank is None else bank
