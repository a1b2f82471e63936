"""The data sets under their published names, and the list of images that tasks are judged on.

These functions build `{train,val}_faster_imagefolder.lmdb` at first call where only the images are there; the scripts
do not, see `dataset.open`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from corruption.build import create_corruption, mask_bank_of
from dataset.images import ImageDataset
from dataset.names import Ambiguous, NameIndex, class_and_file, is_imagenet
from dataset.splits import open_split
from i2sb.addresses import VAL_10K_LIST
from i2sb.errors import UserError, one_line

__all__ = ["InpaintingVal10kSubset", "build_lmdb_dataset", "build_lmdb_dataset_val10k", "is_imagenet", "readlines"]


def build_lmdb_dataset(opt: Any, log: Any, train: bool, transform: Callable | None = None) -> ImageDataset:
    """The training or validation set in `opt.dataset_dir`, an LMDB that is built from its image folder at first call.

    Items are (image [3,S,S] in [-1,1], class index) with S = `opt.image_size`, unless `transform` says otherwise.
    Of opt, dataset_dir and image_size are read, and where present those of `open_split`.

    Raises:
        UserError: no data set there, or a damaged one; the text says which file or folder.
    """
    return open_split(opt, log, train, transform, build=True)


def build_lmdb_dataset_val10k(opt: Any, log: Any, transform: Callable | None = None) -> ImageDataset:
    """The validation images that most tasks are judged on, see `judged`.

    Raises:
        UserError: as `build_lmdb_dataset`, and when listed images are missing (the text names some).
    """
    return judged(build_lmdb_dataset(opt, log, train=False, transform=transform), opt, log)


def judged(dataset: ImageDataset, opt: Any, log: Any) -> ImageDataset:
    """Of a whole validation set the images of a list, in the order of the list (image i gets mask i).

    The list is `opt.val_list` (a text file with a path ending in CLASS/FILE per line) where given, else the published
    one of 10,000 images: `val_faster_imagefolder_10k_fn.txt` in data/ or dataset/ of the current folder, else fetched
    to data/.  A line names the image whose path has most of its last parts, at least CLASS/FILE.

    Where no class is named like ImageNet's (n01440764), the whole validation set is taken and nothing is fetched.  One
    such class is enough to insist on the list: results on an incomplete ImageNet must not pass for comparable ones.
    """
    list_path = getattr(opt, "val_list", None)
    if list_path is None:
        if not is_imagenet(dataset.classes):
            log.info("[Dataset] not ImageNet: evaluating on the whole validation set, not on the 10k subset")
            return dataset
        list_path = _published_list(log)
    dataset.keep(_select(dataset, Path(list_path)))
    log.info(f"[Dataset] {len(dataset)} validation images, as listed in {list_path}")
    return dataset


class InpaintingVal10kSubset(Dataset):
    """Items (image [3,S,S] in [-1,1], class index, mask uint8 [1,S,S] with 1 = hole); mask i belongs to image i.

    `mask` is "center", "freeform1020" or "freeform2030".
    """

    def __init__(self, opt: Any, log: Any, mask: str) -> None:
        self.dataset = build_lmdb_dataset_val10k(opt, log)
        self._holes = create_corruption(f"inpaint-{mask}", opt.image_size, mask_bank=mask_bank_of(opt), log=log)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        return *self.dataset[index], self._holes.masks(1, torch.tensor([index]), None)[0].byte()


def _select(dataset: ImageDataset, list_path: Path) -> list[int]:
    """The numbers of the samples that the lines of a list name, in their order; see `NameIndex` on what matches."""
    wanted = [line for line in readlines(list_path) if line]
    if not wanted:
        raise UserError(f"{list_path}: the list of validation images is empty")
    numbers = {path: number for number, (path, _) in enumerate(dataset.samples)}
    index = NameIndex(numbers)
    try:
        found = [index.find(line) for line in wanted]
    except Ambiguous as error:
        raise UserError(f"{list_path}: {one_line(error, 900)}: add the folders before it to the line") from None
    missing = [line for line, match in zip(wanted, found) if match is None]
    if missing:
        some = one_line(", ".join(map(class_and_file, missing[:3])), 600) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{list_path}: {len(missing)} of the {len(wanted)} listed images are not in {dataset.name}: {some} "
            "(--val-list FILE takes a list of your own, with a path that ends in CLASS/FILE on each line, such as "
            f"{one_line(class_and_file(dataset.samples[0][0]))})"
        )
    return [numbers[path] for path in found]


def readlines(path: str | os.PathLike) -> list[str]:
    """The lines of a UTF-8 text file, without white space at their ends.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: the list of validation images cannot be read: {error.strerror}") from error
    return [line.strip() for line in text.splitlines()]


def _published_list(log: Any) -> Path:
    for folder in ("data", "dataset"):  # the second is where the original's clone has it
        path = Path(folder) / VAL_10K_LIST.name
        if path.is_file():  # whatever it holds: people may have put another subset there
            return path
    from i2sb.fetch import fetch

    return fetch(VAL_10K_LIST, "data", log)
