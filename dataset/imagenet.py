"""The data sets of training and evaluation: `{train,val}_faster_imagefolder.lmdb` in a data set folder.

They are built at first call from `{train,val}/CLASS/*.ext` in the same folder, where these exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from corruption.registry import lookup
from dataset.imagefolder_index import ImageIndex, class_and_file, read_index
from dataset.images import LmdbDataset, build_test_transform, build_train_transform
from dataset.lmdb_build import build_lmdb, index_path, is_complete
from dataset.lmdb_store import LmdbImages
from i2sb.addresses import VAL_10K_LIST
from i2sb.errors import UserError

_WNID = re.compile(r"n\d{8}")  # a class of ImageNet


def is_imagenet(classes: Iterable[str]) -> bool:
    """Whether any class has a name like ImageNet's: published lists, masks and statistics are then meant."""
    return any(_WNID.fullmatch(name) for name in classes)


def build_lmdb_dataset(opt: Any, log: Any, train: bool, transform: Callable | None = None) -> LmdbDataset:
    """The training or validation set in `opt.dataset_dir`, built from its image folder at first call.

    Items are (image [3,S,S] in [-1,1], class index) with S = `opt.image_size`, unless `transform` says
    otherwise.

    Raises:
        UserError: no data set there, or a damaged one; the text says which file or folder.
    """
    index, store = _open_split(Path(opt.dataset_dir), "train" if train else "val", log)
    if transform is None:
        transform = (build_train_transform if train else build_test_transform)(opt.image_size)
    dataset = LmdbDataset(store, index, transform)
    log.info(f"[Dataset] {store.path}: {len(dataset)} images, {len(dataset.classes)} classes")
    return dataset


def build_lmdb_dataset_val10k(opt: Any, log: Any, transform: Callable | None = None) -> LmdbDataset:
    """The validation images that most tasks are judged on, in the order of their list (image i gets mask i).

    The list is `opt.val_list` (a text file with a path ending in CLASS/FILE per line) where given, else the
    published one of 10,000 images, `data/val_faster_imagefolder_10k_fn.txt`, fetched at first use.

    When no class has a name like ImageNet's (n01440764), the published list cannot mean this data set: then
    the whole validation set is taken, and nothing is fetched, since people with images of their own want all
    of them judged.  One class of that kind is enough to insist on the list, so that an incomplete ImageNet is
    noticed and results on it are never mistaken for comparable ones.

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
    dataset.samples = dataset.imgs = select(dataset.samples, Path(list_path), os.fspath(dataset.store.path))
    log.info(f"[Dataset] {len(dataset)} validation images, as listed in {list_path}")
    return dataset


def build_evaluation_dataset(opt: Any, log: Any, transform: Callable | None = None) -> LmdbDataset:
    """The images that the task `opt.corrupt` is judged on: all of the validation set for sr4x-*, else the subset.

    `opt.val_list`, where given, counts for every task.

    Raises:
        UserError: as `build_lmdb_dataset_val10k`.
    """
    if lookup(opt.corrupt).val_subset == "full" and getattr(opt, "val_list", None) is None:
        return build_lmdb_dataset(opt, log, train=False, transform=transform)
    return build_lmdb_dataset_val10k(opt, log, transform=transform)


def select(samples: Iterable[tuple[str, int]], list_path: Path, name: str) -> list[tuple[str, int]]:
    """The samples that the lines of `list_path` name by CLASS/FILE, in the order of the lines.

    Raises:
        UserError: no such list, an empty one, a line without CLASS/FILE, or images that `name` lacks.
    """
    wanted = _read_list(list_path)
    by_name = {class_and_file(sample[0]): sample for sample in samples}
    missing = [key for key in wanted if key not in by_name]
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{list_path}: {len(missing)} of the {len(wanted)} listed images are not in {name}: {some} "
            "(--val-list FILE takes a list of your own)"
        )
    return [by_name[key] for key in wanted]


def _read_list(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"{path}: the list of validation images cannot be read: {reason}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    names = [(number, class_and_file(line)) for number, line in lines if line]
    for number, name in names:
        if name.startswith("/") or name.endswith("/"):
            raise UserError(f"{path}: line {number} does not end in CLASS/FILE")
    if not names:
        raise UserError(f"{path}: the list of validation images is empty")
    return [name for _, name in names]


def _published_list(log: Any) -> Path:
    path = Path("data") / VAL_10K_LIST.name
    if path.is_file():  # whatever it holds: people may have put another subset there
        return path
    from i2sb.fetch import fetch

    return fetch(VAL_10K_LIST, "data", log)


def _open_split(dataset_dir: Path, split: str, log: Any) -> tuple[ImageIndex, LmdbImages]:
    lmdb_path = dataset_dir / f"{split}_faster_imagefolder.lmdb"
    if is_complete(lmdb_path):
        index = read_index(index_path(lmdb_path))
    elif (dataset_dir / split).is_dir():
        index = build_lmdb(dataset_dir / split, lmdb_path, log=log)
    else:
        raise UserError(_what_is_missing(dataset_dir, split, lmdb_path))
    store = LmdbImages(lmdb_path)
    if len(store) < len(index.samples):
        raise UserError(
            f"{lmdb_path}: holds {len(store)} of the {len(index.samples)} images of its index (half-built?); "
            "move it away to have it built anew, or copy it again"
        )
    return index, store


def _what_is_missing(dataset_dir: Path, split: str, lmdb_path: Path) -> str:
    if not dataset_dir.is_dir():
        return f"--dataset-dir {dataset_dir}: there is no such folder"
    if lmdb_path.exists():
        return f"{index_path(lmdb_path)}: there is no such file, nor a folder {split}/ to make it from"
    return (
        f"--dataset-dir {dataset_dir}: has neither {lmdb_path.name} (with its .pt) nor image folders "
        f"{split}/CLASS/ to build it from"
    )
