"""What belongs to one run of sample.py: its options, its place on the disk, its picture files."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from i2sb.errors import UserError
from i2sb.precision import LOW
from i2sb.recon import ReconStore, partition_range
from i2sb.restore import dataset_fingerprint, fingerprint
from i2sb.runtime.distributed import broadcast_object
from i2sb.runtime.pictures import save_picture, save_trajectory

# Options of this run that take the place of the training's.
OF_THE_RUN = (
    "seed",
    "dataset_dir",
    "val_list",
    "num_workers",
    "batch_size",
    "clip_denoise",
    "partition",
    "overwrite",
    "recon_dtype",
    "save_images",
    "save_trajectory",
)


def merge_options(opt: argparse.Namespace, ckpt_opt: argparse.Namespace) -> argparse.Namespace:
    """The checkpoint's options with those of this run in their place.

    Raises:
        UserError: --nfe is not below the number of steps that the checkpoint was trained with.
    """
    for name in OF_THE_RUN:
        setattr(ckpt_opt, name, getattr(opt, name))
    if "image_size" in opt.given:
        ckpt_opt.image_size = opt.image_size
    if ckpt_opt.channels_last is None:
        ckpt_opt.channels_last = opt.device == "cpu" or opt.precision in LOW
    ckpt_opt.nfe = opt.nfe or ckpt_opt.interval - 1
    if ckpt_opt.nfe >= ckpt_opt.interval:
        raise UserError(
            f"--nfe {ckpt_opt.nfe}: {opt.ckpt} was trained with --interval {ckpt_opt.interval}; legal is 1 to "
            f"{ckpt_opt.interval - 1}"
        )
    return ckpt_opt


@contextlib.contextmanager
def open_store(opt: Any, folder: Path, dataset: Any, log: Any) -> Iterator[ReconStore | None]:
    """The place for the restored images, held against other runs; None where all of them are there already.

    Raises:
        UserError: other settings, another run at work, an empty partition.
    """
    start, stop = partition_range(opt.partition, len(dataset))
    if start == stop:
        raise UserError(f"--partition {opt.partition}: holds none of the {len(dataset)} images; take fewer parts")
    settings = {
        "checkpoint": fingerprint(Path(opt.load)),
        "data": dataset_fingerprint(dataset.samples, dataset.short_name),
        **{name: getattr(opt, name) for name in ("corrupt", "image_size", "seed", "nfe", "clip_denoise")},
        "precision": opt.precision,
        "partition": opt.partition,
    }
    size = opt.image_size
    store = ReconStore(folder, opt.partition, start, stop, settings, (3, size, size), opt.recon_dtype)
    with contextlib.ExitStack() as stack:
        finished = None
        if opt.global_rank == 0:
            stack.enter_context(store.only_run())
            finished = store.open(opt.overwrite)
        finished = broadcast_object(finished)
        if finished:
            log.info(f"[Sample] {store.path}: is finished already; --overwrite restores again")
        yield None if finished else store


class Pictures:
    """Writes picture files of restored images beside recon.pt, as far as asked for; see `restore`'s on_batch.

    Args:
        image_format: "png", "jpg" or None.
        num_trajectories: of how many images the way is written.
    """

    def __init__(self, folder: Path, dataset: Any, image_format: str | None, num_trajectories: int):
        self.folder, self.dataset = folder, dataset
        self.image_format, self.num_trajectories = image_format, num_trajectories

    def __call__(self, numbers: list[int], images: Tensor, states: Tensor) -> None:
        for number, image, way in zip(numbers, images, states):
            if self.image_format:
                name = Path(self.dataset.short_name(self.dataset.samples[number][0]))
                save_picture(self.folder / "images" / name.with_suffix(f".{self.image_format}"), image)
            if number < self.num_trajectories:
                save_trajectory(self.folder / "trajectories" / f"{number:05d}", way)
