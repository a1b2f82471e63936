"""Pairs of a degraded and a clean image: two folders, images side by side, or a list of pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.build import damaged, in_threads
from dataset.decode import describe, image_suffixes
from dataset.folder import FolderImages, scan
from dataset.images import ImageDataset, UnreadableImage
from dataset.index import ImageIndex
from dataset.names import class_and_file
from dataset.pair_list import LISTS, NAMES, read_pair_list
from dataset.splits import NO_VAL, decoding, hold_out, is_small, log_clipped, log_small, open_split, transform_of
from i2sb.errors import UserError, one_line

LISTED = 20  # pairs that do not fit which are named

Pairs = list[tuple[str, str]]
"""Paths (degraded, clean)."""


class PairedDataset(ImageDataset):
    """Items (x0, x1, 0) of two files each; `samples` are the clean ones, `degraded` the paths of the others."""

    is_paired = True

    def __init__(self, pairs: Pairs, root: Path, name: str, transform: Callable, **decoding: Any) -> None:
        index = ImageIndex(os.fspath(root), [root.name], [(clean, 0) for _, clean in pairs])
        super().__init__(FolderImages(root), index, transform, **decoding)
        self.degraded = [path for path, _ in pairs]
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def short_name(self, path: str) -> str:
        """The path of the clean image below the folder of clean images (or of the list)."""
        inside = path.startswith(self.root + os.sep)
        return path[len(self.root) + 1 :].replace(os.sep, "/") if inside else class_and_file(path)

    def keep(self, numbers: list[int]) -> None:
        super().keep(numbers)
        self.degraded = [self.degraded[number] for number in numbers]

    def read(self, index: int) -> bytes:
        """The bytes of both files, the degraded first, behind its length in 8 bytes."""
        degraded, clean = self._read(self.degraded[index]), super().read(index)
        return len(degraded).to_bytes(8, "big") + degraded + clean

    def item(self, index: int, content: bytes) -> tuple:
        clean, end = self.samples[index][0], 8 + int.from_bytes(content[:8], "big")
        x1, x0 = self._decode(self.degraded[index], content[8:end]), self._decode(clean, content[end:])
        if _size(x0) != _size(x1):
            raise UnreadableImage(f"{self.degraded[index]}: has another size than {clean}")
        return *self.transform(x0, x1), 0

    def fingerprint(self) -> str:
        """Identity of the data set: the count, and a hash of names and byte sizes of both sides in order."""
        clean = [path for path, _ in self.samples]
        names = zip(map(self.short_name, clean), map(class_and_file, self.degraded))
        sizes = zip(self.store.sizes(clean), self.store.sizes(self.degraded))
        return self._hash("\0".join(map(str, (*name, *size))) for name, size in zip(names, sizes))


class SideBySide(ImageDataset):
    """Items (x0, x1, class index), halves of the images of another data set."""

    is_paired = True

    def __init__(self, images: ImageDataset, degraded_left: bool) -> None:
        self.__dict__.update(vars(images))
        self.degraded_left = degraded_left

    def read(self, index: int) -> bytes:
        """The bytes of the file, behind a letter for the side that is degraded."""
        return (b"L" if self.degraded_left else b"R") + super().read(index)

    def item(self, index: int, content: bytes) -> tuple:
        path, label = self.samples[index]
        left, right = _halves(self._decode(path, content[1:]))
        x0, x1 = self.transform(*((right, left) if self.degraded_left else (left, right)))
        return x0, x1, label

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-{'AB' if self.degraded_left else 'BA'}"


def open_pairs(opt: Any, log: Any, train: bool, *, evaluation: bool = False) -> ImageDataset:
    """The training or validation pairs that the options name; see docs/your-data.md for the layouts.

    Of opt, dataset_dir and image_size are read, and where present source, target, pair_layout, cond_x1 and those of
    `splits.open_split`.  evaluation: pairs that are not divided into training and validation are all taken.

    Raises UserError: no pairs there, or some that do not fit together, of which up to LISTED are logged.
    """
    layout = getattr(opt, "pair_layout", "folders")
    if layout == "folders":
        dataset, faults = _open_two_files(opt, log, train, evaluation)
    else:
        dataset, faults = SideBySide(open_split(opt, log, train), layout == "side-by-side"), []
    if getattr(opt, "global_rank", 0) == 0:
        _check(dataset, faults, opt, log)
    log.info(f"[Dataset] {one_line(dataset.name, 400)}: {len(dataset)} pairs")
    if train and not getattr(opt, "cond_x1", False) and getattr(opt, "ckpt", None) is None:
        log.info("[Dataset] --cond-x1 is not given: with it the network sees the degraded image too, which helps pairs")
    return dataset


def _open_two_files(opt: Any, log: Any, train: bool, evaluation: bool) -> tuple[PairedDataset, list[str]]:
    parts = {split: _locate(opt, split) for split in ("train", "val", "")}
    if parts["val"] and parts[""] and parts["val"][0].is_relative_to(parts[""][0]):
        parts[""] = []  # the validation pairs would be among those to train on
    undivided, share = parts["train"] or parts[""], 0.0 if parts["val"] else getattr(opt, "val_split", 0.0)
    if train or share:
        places = undivided
    else:
        places = parts["val"] or (parts[""] if evaluation and not parts["train"] else None)
    if not places:
        split = "train" if train or share else "val"
        where, what = f"--dataset-dir {opt.dataset_dir}", "training" if train else "validation"
        lacks = f"neither {split}A/ with {split}B/, nor {split}/A/ with {split}/B/, nor {split}.csv or {split}.jsonl"
        if getattr(opt, "source", None):
            where, lacks = f"--source {opt.source} and --target {opt.target}", f"not both have a folder {split}/"
        elif not Path(opt.dataset_dir).exists():
            raise UserError(f"{where}: there is no such folder or list")
        raise UserError(
            f"{where}: has no pairs for {what}: {lacks} (docs/your-data.md lists the layouts; halves of one image need "
            f"--pair-layout){'' if train else f'; {NO_VAL}'}"
        )
    name = " and ".join(map(str, places))
    pairs, faults = _match(*places, opt, log) if len(places) == 2 else read_pair_list(places[0])
    if not pairs and not faults:
        raise UserError(f"{name}: holds no pairs")
    if skip := getattr(opt, "skip_unreadable", 0):
        bad = damaged(name, [path for pair in pairs for path in pair], skip, log, decoding(opt))
        pairs = [pair for pair in pairs if bad.isdisjoint(pair)]
    root = places[1] if len(places) == 2 else places[0].parent
    dataset = PairedDataset(pairs, root, name, transform_of(opt, train), **decoding(opt))
    if share and pairs:
        names = [os.path.splitext(dataset.short_name(clean))[0] for _, clean in pairs]  # noqa: PTH122
        hold_out(dataset, names, share, train, log)
    return dataset, faults


def _locate(opt: Any, split: str) -> list[Path]:
    """The two folders (degraded, clean) or the one list of a split, "" for undivided pairs; [] where there are none."""
    source, target, place = getattr(opt, "source", None), getattr(opt, "target", None), Path(opt.dataset_dir)
    if (source is None) != (target is None):
        raise UserError("--source and --target name two folders: give both")
    if source is not None:
        both = [Path(source, split), Path(target, split)]
        return both if not split or all(path.is_dir() for path in both) else []
    if place.is_file():
        return [] if split else [place]
    for a, b in NAMES:
        places = [(f"{split}{a}", f"{split}{b}"), (f"{split}/{a}", f"{split}/{b}"), (f"{a}/{split}", f"{b}/{split}")]
        for names in places if split else places[:1]:
            if all((place / name).is_dir() for name in names):
                return [place / name for name in names]
    return [path for suffix in LISTS if (path := place / f"{split or 'pairs'}{suffix}").is_file()][:1]


def _match(degraded: Path, clean: Path, opt: Any, log: Any) -> tuple[Pairs, list[str]]:
    """The pairs of two folders, by their path without suffix, and what is wrong with others."""
    faults: list[str] = []
    sides = []
    for folder in (degraded, clean):
        paths, side = scan(folder, classes=False, log=log, suffixes=image_suffixes(decoding(opt)["channels"]))[0], {}
        for path, _ in paths:
            name = os.path.splitext(path[len(str(folder)) + 1 :])[0]  # noqa: PTH122
            if side.setdefault(name, path) is not path:
                faults.append(f"{path}: has the same name as {side[name]}")
        sides.append(side)
    for side, other, folder in ((sides[0], sides[1], clean), (sides[1], sides[0], degraded)):
        faults += [f"{path}: has no partner in {folder}" for name, path in side.items() if name not in other]
    return [(sides[0][name], path) for name, path in sides[1].items() if name in sides[0]], faults


def _check(dataset: ImageDataset, faults: list[str], opt: Any, log: Any) -> None:
    """Look into the headers of all files; a UserError where images do not fit together."""
    # Whoever names the channels asks for a conversion; in sampling the checkpoint has named them.
    any_kind = "channels" in getattr(opt, "given", ()) or getattr(opt, "load", None) is not None
    small = 0
    for batch in in_threads(lambda n: _fault(dataset, n, opt, any_kind), range(len(dataset)), 8, "Checking the pairs"):
        faults += [why for _, (why, _) in batch if why]
        small += sum(enlarged for _, (_, enlarged) in batch)
    for why in faults[:LISTED]:
        log.warning(f"[Dataset] {one_line(why, 1000)}")
    if faults:
        listed = f"the first {LISTED}" if len(faults) > LISTED else "all"
        raise UserError(
            f"{dataset.name}: {len(faults)} images do not make pairs, {listed} listed above: "
            f"{one_line(faults[0], 700)}; remove or repair them"
        )
    log_small(small, f"all {len(dataset)}", opt.image_size, log)
    if isinstance(dataset, PairedDataset):
        log_clipped(dataset, [*dataset.degraded, *(path for path, _ in dataset.samples)], log)


def _fault(dataset: ImageDataset, number: int, opt: Any, any_kind: bool) -> tuple[str, bool]:
    """(why a pair cannot be used, "" if it can; whether it has to be enlarged)."""
    found = []
    paths = [dataset.samples[number][0]]
    if isinstance(dataset, PairedDataset):
        paths.insert(0, dataset.degraded[number])
    for path in paths:
        try:
            with dataset.store.open(path) as file:
                found.append(describe(file, **dataset.decoding))
        except (ValueError, OSError) as error:
            return f"{path}: cannot be read: {error}", False
    width, height, kind = found[0]
    if len(found) == 1:
        odd = f"{paths[0]}: is {width} pixels wide, which has no two halves" if width % 2 else ""
        return odd, is_small(width // 2, height, opt.image_size)
    if found[1][:2] != (width, height):
        return f"{paths[0]}: is {width} x {height}, {paths[1]} is {found[1][0]} x {found[1][1]}", False
    if found[1][2] != kind and not any_kind:
        return f"{paths[0]}: is {kind}, {paths[1]} is {found[1][2]} (--channels 3 converts both)", False
    return "", is_small(width, height, opt.image_size)


def _size(image: Image.Image | np.ndarray) -> tuple[int, ...]:
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def _halves(image: Image.Image | np.ndarray) -> Iterator[Any]:
    """The left and the right half."""
    if isinstance(image, np.ndarray):
        return np.split(image, 2, axis=1)
    width, height = image.size
    return [image.crop((left, 0, left + width // 2, height)) for left in (0, width // 2)]
