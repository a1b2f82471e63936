"""The entrance of the scripts: which data a run trains on, and which it is evaluated on; nothing is copied."""

from __future__ import annotations

from typing import Any

from corruption.registry import lookup
from dataset.imagenet import judged
from dataset.images import ImageDataset
from dataset.names import is_imagenet
from dataset.pairs import open_pairs
from dataset.splits import has_split, open_split
from i2sb.errors import UserError


def open_dataset(opt: Any, log: Any, *, train: bool) -> ImageDataset:
    """The training or the whole validation set of `opt.dataset_dir`: pairs if the task is `paired`, else images.

    Images are read from an LMDB where there is one, else where they lie.  Items are (x0 [C,H,W] in [-1,1], class index)
    or, of pairs, (x0, x1, 0).

    Raises UserError: no such data, or damaged ones; the text says which file or folder.
    """
    if lookup(opt.corrupt).is_paired:
        return open_pairs(opt, log, train)
    for name in ("source", "target", "pair_layout"):
        if getattr(opt, name, None) not in (None, "folders"):
            raise UserError(f"--{name.replace('_', '-')} {getattr(opt, name)}: is for pairs, --corrupt paired")
    return open_split(opt, log, train)


def open_evaluation(opt: Any, log: Any, *, whole: bool = False) -> ImageDataset:
    """The images that the task `opt.corrupt` is judged on: on ImageNet the 10k subset but for sr4x-*, else all.

    `opt.val_list`, where given, counts for every task; see `judged`.  `whole`: all of the validation set.
    """
    task = lookup(opt.corrupt)
    dataset = (
        open_pairs(opt, log, train=False, evaluation=True) if task.is_paired else open_dataset(opt, log, train=False)
    )
    if whole:
        return dataset
    if getattr(opt, "val_list", None) is None:
        held_out = getattr(opt, "val_split", 0) and not has_split(opt.dataset_dir, "val")
        if task.is_paired or task.val_subset == "full" or (held_out and is_imagenet(dataset.classes)):
            return dataset
    return judged(dataset, opt, log)
