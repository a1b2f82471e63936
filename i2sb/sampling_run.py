"""What belongs to one run of sample.py: its options, its place on the disk, its picture files."""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from i2sb.errors import UserError
from i2sb.precision import LOW
from i2sb.recon import Recon
from i2sb.recon_store import ReconStore, partition_range
from i2sb.restore import dataset_fingerprint, fingerprint
from i2sb.runtime.distributed import broadcast_object
from i2sb.runtime.logger import build_logger
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
    if opt.network is not None:
        ckpt_opt.network = opt.network
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


def open_log(folder: Path, rank: int = 0) -> Any:
    """The logger of a run that writes into a folder of samples.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        return build_logger(folder.parent, folder.name, rank)
    except UserError as error:
        reason = getattr(error.__cause__, "strerror", None) or "its log.txt cannot be opened"
        raise UserError(f"{folder}: cannot be written to: {reason}") from error


@contextlib.contextmanager
def open_store(opt: Any, folder: Path, dataset: Any, log: Any) -> Iterator[tuple[ReconStore, bool]]:
    """(place for the restored images, held against other runs; whether all of them are there already).

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
        "device": str(opt.device).partition(":")[0],  # each kind draws other noise from the same seed
        "partition": opt.partition,
        "network": opt.network,
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
        yield store, finished


class Pictures:
    """Writes picture files of restored images beside recon.pt, as far as asked for; see `restore`'s on_batch.

    Args:
        image_format: "png", "jpg" or None.
        num_trajectories: of how many images the way is written.
    """

    def __init__(self, folder: Path, dataset: Any, image_format: str | None, num_trajectories: int):
        self.folder, self.image_format, self.num_trajectories = folder, image_format, num_trajectories
        self._names: list[str] = []
        if image_format:
            self._names = picture_names([dataset.short_name(path) for path, _ in dataset.samples], image_format)

    def __call__(self, numbers: list[int], images: Tensor, states: Tensor) -> None:
        for number, image, way in zip(numbers, images, states):
            if self.image_format:
                save_picture(self._image(number), image)
            if number < self.num_trajectories:
                save_trajectory(self._way(number), way)

    def _image(self, number: int) -> Path:
        return self.folder / "images" / self._names[number]

    def _way(self, number: int) -> Path:
        return trajectory_file(self.folder, number).with_suffix("")

    def lacking_trajectories(self, start: int, stop: int) -> list[int]:
        """The images among [start, stop) whose way is asked for and not there."""
        return [
            number
            for number in range(start, min(stop, self.num_trajectories))
            if not all(self._way(number).with_suffix(kind).is_file() for kind in (".webp", ".png"))
        ]

    def complete(self, store: ReconStore, log: Any) -> None:
        """Write what a finished store lacks: a run may have begun without pictures.  Trajectories it can only miss."""
        if self.image_format:
            images = (image for batch in Recon([store.path]).batches(32) for image in batch)
            for number, image in enumerate(images, store.start):
                if not self._image(number).is_file():
                    save_picture(self._image(number), image)
        if lacking := self.lacking_trajectories(store.start, store.stop):
            log.warning(f"[Sample] no trajectory of {len(lacking)} images; --overwrite restores again and writes them")


def trajectory_file(folder: Path, number: int) -> Path:
    """The animated WebP of an image's way, in a folder of samples."""
    return folder / "trajectories" / f"{number:05d}.webp"


def picture_names(names: Sequence[str], image_format: str) -> list[str]:
    """A file name for each image: CLASS/a.JPEG -> CLASS/a.png, a name of its own for each.

    Where that would give two images one name, all keep their former ending too (CLASS/a.JPEG.png), and an image
    that is listed twice has its number behind.
    """
    short = [str(Path(name).with_suffix("")) for name in names]
    if len(set(short)) < len(short):
        repeated = Counter(names)
        short = [name if repeated[name] == 1 else f"{name}.{number:05d}" for number, name in enumerate(names)]
    return [f"{name}.{image_format}" for name in short]
