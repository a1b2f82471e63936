"""The data sets of training and evaluation: `{train,val}_faster_imagefolder.lmdb` in a data set folder.

They are built at first call from the images in `{train,val}/CLASS/` of the same folder, where these exist.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from corruption.build import create_corruption, mask_bank_of
from corruption.registry import lookup
from dataset.build import build_lmdb, is_complete
from dataset.folder import scan
from dataset.images import LmdbDataset, build_test_transform, build_train_transform
from dataset.index import how_to_rebuild
from dataset.names import Ambiguous, NameIndex, class_and_file
from dataset.store import LmdbImages
from i2sb.addresses import VAL_10K_LIST
from i2sb.errors import UserError, one_line

_WNID = re.compile(r"n\d{8}")  # a class of ImageNet


def is_imagenet(classes: Iterable[str]) -> bool:
    """Whether any class has a name like ImageNet's: published lists, masks and statistics are then meant."""
    return any(_WNID.fullmatch(name) for name in classes)


def build_lmdb_dataset(opt: Any, log: Any, train: bool, transform: Callable | None = None) -> LmdbDataset:
    """The training or validation set in `opt.dataset_dir`, built from its image folder at first call.

    Items are (image [3,S,S] in [-1,1], class index) with S = `opt.image_size`, unless `transform` says otherwise.
    Of opt, dataset_dir and image_size are read, and where present exif_rotate, skip_unreadable and global_rank.

    Raises:
        UserError: no data set there, or a damaged one; the text says which file or folder.
    """
    split = "train" if train else "val"
    images, lmdb_path = (Path(opt.dataset_dir) / name for name in (split, f"{split}_faster_imagefolder.lmdb"))
    was_there = is_complete(lmdb_path)
    if not (was_there or images.is_dir()):
        lacks = f"has neither {lmdb_path.name} with its .pt nor image folders {split}/CLASS/ to build it from"
        lacks += "" if train else " (train.py needs none with --eval-every 0)"
        what = lacks if images.parent.is_dir() else "there is no such folder"
        raise UserError(f"--dataset-dir {opt.dataset_dir}: {what}")
    index = build_lmdb(images, lmdb_path, log=log, skip_unreadable=getattr(opt, "skip_unreadable", 0))
    if transform is None:
        transform = (build_train_transform if train else build_test_transform)(opt.image_size)
    dataset = LmdbDataset(LmdbImages(lmdb_path), index, transform, exif_rotate=getattr(opt, "exif_rotate", False))
    if len(dataset.store) < len(dataset):
        raise UserError(
            f"{lmdb_path}: holds {len(dataset.store)} of the {len(dataset)} images of its index (half-built?): copy it "
            f"again, or rebuild it: {how_to_rebuild(images, lmdb_path)}"
        )
    log.info(f"[Dataset] {one_line(lmdb_path, 400)}: {len(dataset)} images, {len(dataset.classes)} classes")
    if getattr(opt, "global_rank", 0) == 0:
        _log_oddities(dataset, images if was_there and images.is_dir() else None, opt.image_size, log)
    return dataset


def build_lmdb_dataset_val10k(opt: Any, log: Any, transform: Callable | None = None) -> LmdbDataset:
    """The validation images that most tasks are judged on, in the order of their list (image i gets mask i).

    The list is `opt.val_list` (a text file with a path ending in CLASS/FILE per line) where given, else the published
    one of 10,000 images: `val_faster_imagefolder_10k_fn.txt` in data/ or dataset/ of the current folder, else fetched
    to data/.  A line names the image whose path has most of its last parts, at least CLASS/FILE.

    Where no class is named like ImageNet's (n01440764), the whole validation set is taken and nothing is fetched.  One
    such class is enough to insist on the list: results on an incomplete ImageNet must not pass for comparable ones.

    Raises:
        UserError: as `build_lmdb_dataset`, and when listed images are missing (the text names some).
    """
    dataset = build_lmdb_dataset(opt, log, train=False, transform=transform)
    list_path = getattr(opt, "val_list", None)
    if list_path is None:
        if not is_imagenet(dataset.classes):
            log.info("[Dataset] not ImageNet: evaluating on the whole validation set, not on the 10k subset")
            return dataset
        list_path = _published_list(log)
    dataset.samples = dataset.imgs = _select(dataset, Path(list_path))
    log.info(f"[Dataset] {len(dataset)} validation images, as listed in {list_path}")
    return dataset


def build_evaluation_dataset(opt: Any, log: Any, transform: Callable | None = None) -> LmdbDataset:
    """The images that the task `opt.corrupt` is judged on: all of the validation set for sr4x-*, else the subset.

    `opt.val_list`, where given, counts for every task.  Raises as `build_lmdb_dataset_val10k`.
    """
    if lookup(opt.corrupt).val_subset == "full" and getattr(opt, "val_list", None) is None:
        return build_lmdb_dataset(opt, log, train=False, transform=transform)
    return build_lmdb_dataset_val10k(opt, log, transform=transform)


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


def _select(dataset: LmdbDataset, list_path: Path) -> list[tuple[str, int]]:
    """The samples that the lines of a list name, in the order of the lines; see `NameIndex` on what matches."""
    wanted = [line for line in readlines(list_path) if line]
    if not wanted:
        raise UserError(f"{list_path}: the list of validation images is empty")
    labels = dict(dataset.samples)
    index = NameIndex(labels)
    try:
        found = [index.find(line) for line in wanted]
    except Ambiguous as error:
        raise UserError(f"{list_path}: {one_line(error, 900)}: add the folders before it to the line") from None
    missing = [line for line, match in zip(wanted, found) if match is None]
    if missing:
        some = one_line(", ".join(map(class_and_file, missing[:3])), 600) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{list_path}: {len(missing)} of the {len(wanted)} listed images are not in {dataset.name}: {some} "
            "(--val-list FILE takes a list of your own, with a path that ends in CLASS/FILE on each line)"
        )
    return [(path, labels[path]) for path in found]


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


def _log_oddities(dataset: LmdbDataset, images: Path | None, image_size: int, log: Any) -> None:
    """Log how many images are enlarged, and how the LMDB differs from the folder `images` where that is there."""
    numbers = np.linspace(0, len(dataset) - 1, min(1000, len(dataset))).astype(int)
    of = f"all {len(numbers)}" if len(numbers) == len(dataset) else f"{len(numbers)} sampled"
    small = changed = 0
    for number in numbers:
        with contextlib.suppress(Exception):  # whoever needs this image reports it
            content = dataset.read(number)
            with Image.open(io.BytesIO(content)) as image:
                small += min(image.size) < image_size
            if images is not None:
                changed += (images / dataset.short_name(dataset.samples[number][0])).stat().st_size != len(content)
    if small:
        log.info(f"[Dataset] {small} of {of} images are smaller than {image_size} px, and are enlarged")
    differences = [] if images is None else _other_names(dataset, images)
    if changed:
        differences.append(f"{changed} of {of} have another size")
    if differences:
        how = f"[Dataset] {images} differs from its LMDB ({'; '.join(differences)}). The LMDB is used; rebuild it by: "
        log.warning(one_line(how + how_to_rebuild(images, dataset.name), 2000))


def _other_names(dataset: LmdbDataset, images: Path) -> list[str]:
    """How many images only the folder has, and how many only the LMDB."""
    try:
        there = {class_and_file(path) for path, _ in scan(images, classes=True)[0]}
    except UserError as error:  # the LMDB serves without the folder
        return [str(error)]
    here = {class_and_file(path) for path, _ in dataset.samples}
    return [
        f"{len(only)} only in the {where}, such as {one_line(min(only))}"
        for where, only in (("folder", there - here), ("LMDB", here - there))
        if only
    ]
