"""The training and the validation images of a folder: an LMDB where there is one, else the files where they lie."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corruption.geometry import Size, height_width
from dataset.build import build_lmdb, damaged, is_complete
from dataset.decode import BANDS, describe, image_suffixes
from dataset.folder import FolderImages, scan
from dataset.images import ImageDataset
from dataset.index import ImageIndex, how_to_rebuild
from dataset.names import class_and_file
from dataset.store import LmdbImages
from dataset.transforms import build_test_transform, build_train_transform
from i2sb.config import size_text
from i2sb.errors import UserError, one_line
from i2sb.photographs import clipped, parse

NO_VAL = "--val-split 0.05 takes a share of the training data; train.py needs none with --eval-every 0"


def open_split(
    opt: Any, log: Any, train: bool, transform: Callable | None = None, *, build: bool = False
) -> ImageDataset:
    """The training or validation images of `opt.dataset_dir`; `build`: make the LMDB if it is missing.

    Of opt, dataset_dir and image_size are read, and where present crop, val_split, channels, exif_rotate,
    skip_unreadable and global_rank.  Raises UserError: no images there, or damaged files.
    """
    share = 0.0 if has_split(opt.dataset_dir, "val") else getattr(opt, "val_split", 0.0)
    split = "train" if train or share else "val"
    images, lmdb_path = _places(opt.dataset_dir, split)
    if not has_split(opt.dataset_dir, split):
        lacks = f"has neither {lmdb_path.name} with its .pt nor a folder {split}/ of images"
        lacks += "" if train else f" ({NO_VAL})"
        what = lacks if images.parent.is_dir() else "there is no such folder"
        raise UserError(f"--dataset-dir {opt.dataset_dir}: {what}")
    if transform is None:
        transform = transform_of(opt, train)
    was_there = is_complete(lmdb_path)
    if was_there or build:
        dataset = _open_lmdb(opt, log, images, lmdb_path, transform)
    else:
        dataset = open_folder(images, opt, transform, log)
    log.info(f"[Dataset] {one_line(dataset.name, 400)}: {len(dataset)} images, {len(dataset.classes)} classes")
    if getattr(opt, "global_rank", 0) == 0:
        _log_oddities(dataset, images if was_there and images.is_dir() else None, opt, log)
    if share:
        hold_out(dataset, [dataset.short_name(path) for path, _ in dataset.samples], share, train, log)
    return dataset


def has_split(dataset_dir: str | Path, split: str) -> bool:
    """Whether there is an LMDB or a folder of `split`, "train" or "val"."""
    images, lmdb_path = _places(dataset_dir, split)
    return is_complete(lmdb_path) or images.is_dir()


def transform_of(opt: Any, train: bool) -> Callable:
    """What becomes of the images, by `opt.image_size` and, in training, `opt.crop`."""
    if train:
        return build_train_transform(opt.image_size, getattr(opt, "crop", "center"))
    return build_test_transform(opt.image_size)


def decoding(opt: Any) -> dict[str, Any]:
    """How files are decoded, the arguments of `decode`."""
    found = {name: getattr(opt, name, None) for name in ("exif_rotate", "channels", "value_range")}
    return {**found, "exif_rotate": bool(found["exif_rotate"]), "channels": found["channels"] or 3}


def open_folder(images: Path, opt: Any, transform: Callable, log: Any, classes: bool | None = None) -> ImageDataset:
    """The images of a folder, read where they lie.  classes: see `scan`."""
    samples, names = scan(images, classes=classes, log=log, suffixes=image_suffixes(decoding(opt)["channels"]))
    if skip := getattr(opt, "skip_unreadable", 0):
        bad = damaged(images, [path for path, _ in samples], skip, log, decoding(opt))
        samples = [sample for sample in samples if sample[0] not in bad]
    return ImageDataset(FolderImages(images), ImageIndex(str(images), names, samples), transform, **decoding(opt))


def hold_out(dataset: ImageDataset, names: Sequence[str], share: float, train: bool, log: Any) -> None:
    """Keep the training or the validation part; an image's name alone decides, on every machine and in every run."""
    drawn = [
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") for name in names
    ]
    highest = max(int(share * 2**64), min(drawn) + 1)  # at least one image
    numbers = [number for number, value in enumerate(drawn) if (value >= highest) == train]
    if not numbers:
        raise UserError(f"--val-split {share}: holds all {len(names)} images out, none is left to train on; lower it")
    dataset.keep(numbers)
    what = "left to train on" if train else "held out to validate"
    log.info(f"[Dataset] --val-split {share:g}: {len(numbers)} of {len(names)} {what}")


def _places(dataset_dir: str | Path, split: str) -> tuple[Path, Path]:
    return Path(dataset_dir) / split, Path(dataset_dir) / f"{split}_faster_imagefolder.lmdb"


def _open_lmdb(opt: Any, log: Any, images: Path, lmdb_path: Path, transform: Callable) -> ImageDataset:
    index = build_lmdb(images, lmdb_path, log=log, skip_unreadable=getattr(opt, "skip_unreadable", 0))
    dataset = ImageDataset(LmdbImages(lmdb_path), index, transform, **decoding(opt))
    if len(dataset.store) < len(dataset):
        raise UserError(
            f"{lmdb_path}: holds {len(dataset.store)} of the {len(dataset)} images of its index (half-built?): copy it "
            f"again, or rebuild it: {how_to_rebuild(images, lmdb_path)}"
        )
    return dataset


def _log_oddities(dataset: ImageDataset, images: Path | None, opt: Any, log: Any) -> None:
    """Log how many images are enlarged, and how the LMDB differs from the folder `images` where that is there."""
    there, differences = {}, []
    if images is not None:
        with contextlib.suppress(UserError):  # the LMDB serves without the folder
            there = {class_and_file(path): path for path, _ in scan(images)[0]}
        here = {dataset.short_name(path) for path, _ in dataset.samples}
        for where, only in (("folder", there.keys() - here), ("LMDB", here - there.keys())):
            if only:
                differences.append(f"{len(only)} only in the {where}, such as {one_line(min(only))}")
    numbers = np.linspace(0, len(dataset) - 1, min(1000, len(dataset))).astype(int)
    of = f"all {len(numbers)}" if len(numbers) == len(dataset) else f"{len(numbers)} sampled"
    small = changed = 0
    for number in numbers:
        path = dataset.samples[number][0]
        with contextlib.suppress(Exception), dataset.store.open(path) as file:  # whoever needs this image reports it
            small += is_small(*describe(file, **dataset.decoding)[:2], opt.image_size)
            if (other := there.get(dataset.short_name(path))) is not None:
                changed += file.seek(0, io.SEEK_END) != Path(other).stat().st_size
    log_small(small, of, opt.image_size, log)
    log_clipped(dataset, [path for path, _ in dataset.samples], log)
    if changed:
        differences.append(f"{changed} of {of} have another size")
    if differences:
        how = f"[Dataset] {images} differs from its LMDB ({'; '.join(differences)}). The LMDB is used; rebuild it by: "
        log.warning(one_line(how + how_to_rebuild(images, dataset.name), 2000))


def log_clipped(dataset: ImageDataset, paths: list[str], log: Any) -> None:
    """Warn where values of the files (up to 100, evenly spread) lie outside the value range, or cannot fill it."""
    value_range, outside, total, shallow = dataset.decoding.get("value_range"), 0, 0, 0
    paths = paths[:: -(-len(paths) // 100)]
    for path in paths:
        if value_range is not None or path.lower().endswith(BANDS):  # others fill the range of their type
            with contextlib.suppress(Exception):  # whoever needs this image reports it
                picture = parse(dataset.store.get(path), dataset.decoding["channels"], value_range)
                outside, total = outside + picture.outside(), total + picture.levels.size
                shown = picture.value_range
                shallow += value_range is not None and picture.levels.dtype == np.uint8 and shown[1] > 255
    if shallow:
        log.warning(
            f"[Dataset] {shallow} of {len(paths)} files have 8 bits, whose white (255) is no white in --value-range "
            f"{shown[0]:g} {shown[1]:g}"
        )
    if outside:
        log.warning(f"[Dataset] {clipped(outside, total, shown)}")


def is_small(width: int, height: int, image_size: Size) -> bool:
    """Whether an image has to be enlarged."""
    return height < height_width(image_size)[0] or width < height_width(image_size)[1]


def log_small(count: int, of: str, image_size: Size, log: Any) -> None:
    """Say how many images are enlarged, if any."""
    if count:
        log.info(f"[Dataset] {count} of {of} images are smaller than {size_text(image_size)} px, and are enlarged")
