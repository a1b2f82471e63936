"""What FID and KID compare with: ImageNet's statistics, a file of statistics, a data set, or a folder of images."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from corruption.registry import lookup
from dataset.open import open_evaluation
from dataset.splits import has_split, open_folder, open_split, transform_of
from evaluation.fid import Features, FeatureSums, load_statistics, save_statistics, statistics_path
from evaluation.weights import find
from i2sb import addresses
from i2sb.config import size_text
from i2sb.errors import UserError
from i2sb.loader import content, ordered_loader
from i2sb.pixels import nearest_uint8
from i2sb.runtime.progress import Progress

NUM_KEPT = 10_000  # images whose features KID may draw from


def build_reference(opt: Any, ckpt_opt: Any, imagenet: bool, network: Callable, log: Any) -> tuple[Features, str]:
    """(features of the reference, a note on what it is).

    `--fid-ref`, if given; ImageNet's training set where the task is published so; else the whole validation set.
    Raises MetricUnavailable where the published statistics cannot be had, or there is only one image.
    """

    def measure(dataset: Any) -> Features:
        return features_of(dataset, network, opt.batch_size, opt.num_workers, NUM_KEPT if "kid" in opt.metrics else 0)

    if opt.fid_ref is not None:
        return _given(Path(opt.fid_ref), ckpt_opt, measure, log), ""
    grey = ckpt_opt.channels == 1
    if imagenet and not grey and lookup(ckpt_opt.corrupt).fid_split == "train":
        return load_statistics(find(addresses.FID_TRAIN_STATISTICS, Path("data")))[0], "to ImageNet's training set"
    whole = open_evaluation(ckpt_opt, log, whole=True)
    if "kid" in opt.metrics:  # features are not kept on the disk
        return measure(whole), "to the validation set"
    path = statistics_path(ckpt_opt.image_size, "val", opt.mode, ckpt_opt.channels)
    source = f"{content(whole)}, {size_text(ckpt_opt.image_size)} px{', grey' * grey}"
    if ckpt_opt.value_range:
        source += f", values {size_text(ckpt_opt.value_range)}"
    if ckpt_opt.exif_rotate:
        source += ", turned by EXIF"
    if not imagenet:  # many data sets may be judged in one folder
        path = path.with_name(path.name.replace("imagenet", f"data-{hashlib.sha256(source.encode()).hexdigest()[:8]}"))
    found, stored = load_statistics(path) if path.is_file() else (None, None)
    if stored not in ("", source):  # without a source, as the original's: trusted
        found = measure(whole)
        save_statistics(path, found, source)
    return found, "to the validation set"


def _given(path: Path, ckpt_opt: Any, measure: Callable[[Any], Features], log: Any) -> Features:
    if path.is_file() and path.suffix == ".npz":
        return load_statistics(path)[0]
    if has_split(path, "val"):
        place = argparse.Namespace(**{**vars(ckpt_opt), "dataset_dir": path})
        return measure(open_split(place, log, train=False))
    if path.is_dir():
        return measure(open_folder(path, ckpt_opt, transform_of(ckpt_opt, train=False), log, classes=False))
    raise UserError(f"--fid-ref {path}: is neither an npz file with mu and sigma, nor a data set or folder of images")


def features_of(
    dataset: Any, network: Callable[[Tensor], Tensor], batch_size: int, num_workers: int = 0, num_kept: int = 0
) -> Features:
    """Features of a data set with items (image [C,H,W] in [-1,1], ...).  Raises MetricUnavailable below two images."""
    count = len(dataset)
    batches = [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
    sums = FeatureSums(count, num_kept)
    with Progress("features of the reference", count) as progress:
        for images, *_ in ordered_loader(dataset, batches, num_workers=num_workers):
            sums.add(network(nearest_uint8(images)))
            progress.update(sums.num_images, f"{sums.num_images}/{count} images")
    return sums.finish()
