"""Algorithm 2 applied to a data set: batch by batch, in constant memory, resumable, shared by all ranks."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2sb.batch import make_batch
from i2sb.errors import UserError
from i2sb.loader import ordered_loader
from i2sb.noise import ImageNoise
from i2sb.precision import LOW
from i2sb.recon import ReconStore
from i2sb.runtime.children import EndedElsewhere
from i2sb.runtime.distributed import barrier, broadcast_object, gather_objects
from i2sb.runtime.logger import build_logger
from i2sb.runtime.progress import Progress
from i2sb.runtime.reading import check_tensors, load_torch

NUM_CHECKED = 1000  # images already restored whose files a resumed run reads again
_IN_FLIGHT = 2  # batches being written while the next are restored
# Options of sample.py that take the place of the training's.
_OF_THE_RUN = (
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
    for name in _OF_THE_RUN:
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
            f"--nfe {ckpt_opt.nfe}: {opt.ckpt} was trained with --interval {ckpt_opt.interval}; 1 to "
            f"{ckpt_opt.interval - 1} are possible"
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
def open_store(runner: Any, opt: Any, folder: Path, dataset: Any, log: Any) -> Iterator[tuple[ReconStore, bool]]:
    """(place for the restored images, held against other processes; whether all of them are there already).

    Args:
        runner: with its weights loaded: `identity` is what tells them from others.
        dataset: with `fingerprint()` and `read(i)`, see `dataset.images`.

    Raises:
        UserError: images of other settings, weights or data are there; another process writes; an empty partition.
    """
    if not hasattr(runner, "identity"):
        runner.identity = check_tensors(opt.load, load_torch(opt.load)["ema"]["shadow_params"], log)
    weights = gather_objects(runner.identity)
    if len(set(weights)) > 1:
        if opt.global_rank > 0:
            raise EndedElsewhere("rank 0 says why")
        raise UserError(f"{opt.load}: was replaced while the ranks loaded it: they have different weights; start again")
    settings = {
        "checkpoint": runner.identity,
        "data": broadcast_object(dataset.fingerprint() if opt.global_rank == 0 else None),
        "task": opt.corrupt,
        **{name: getattr(opt, name) for name in ("image_size", "seed", "nfe", "clip_denoise", "precision")},
        "device": runner.device.type,  # each kind draws other noise from the same seed
        "partition": opt.partition,
        "network": opt.network,
    }
    shape = (3, opt.image_size, opt.image_size)
    store = ReconStore(folder, opt.partition, len(dataset), settings, shape, opt.recon_dtype)
    with contextlib.ExitStack() as stack:
        finished = None
        if opt.global_rank == 0:
            stack.enter_context(store.only_run())
            finished = store.open(opt.overwrite, log)
            check_images(store, dataset)
        finished = broadcast_object(finished)
        if finished:
            log.info(f"[Sample] {store.path}: is finished already; --overwrite restores again")
        yield store, finished


def check_images(store: ReconStore, dataset: Any) -> None:
    """Raise a UserError if an image file is not the one any more from which the store's image was restored.

    Looks at NUM_CHECKED images that are there already, evenly spread, or all if they are fewer.
    """
    known = store.checksums()
    for number in sorted(known)[:: -(-len(known) // NUM_CHECKED) or 1]:
        if zlib.crc32(dataset.read(number)) != known[number]:
            name = dataset.short_name(dataset.samples[number][0])
            raise UserError(
                f"{name}: has changed since it was restored into {store.folder}; restore the former file, or give "
                "--overwrite to start from scratch"
            )


def restore(
    runner: Any,
    opt: Any,
    dataset: Any,
    corrupt: Callable,
    store: ReconStore,
    *,
    on_batch: Callable[[list[int], Tensor, Tensor], None] | None = None,
    again: Sequence[int] = (),
) -> None:
    """Restore what the store lacks; this rank takes its share of the batches, see `shares`.

    Image i draws all its noise from a generator seeded by (opt.seed, i): the result depends neither on the
    batch size nor on ranks, partitions, or interruptions.

    Args:
        opt: `seed`, `nfe`, `clip_denoise`, `batch_size`, `num_workers`, `save_trajectory`, `compile` are read, and
            the bridge's options.
        dataset: items (image [C,S,S], label, CRC-32 of the image's file).
        on_batch: called in a thread with (numbers, images [b,C,S,S], states [b,K,C,S,S]) of each batch, before
            the batch counts as done.
        again: images to be restored though the store has them.

    Raises:
        UserError: a batch cannot be written, or has NaN or inf.
    """
    # Rank 0 looks for all: the store changes as soon as the first rank is at work.
    missing = broadcast_object(store.missing(opt.batch_size, again) if opt.global_rank == 0 else None)
    batches = shares(missing, opt.global_size)[opt.global_rank]
    count, done = sum(map(len, batches)), 0
    loader = ordered_loader(dataset, batches, num_workers=opt.num_workers, device=runner.device)

    def write(numbers: list[int], states: Tensor, labels: Tensor, checksums: Tensor, seconds: float) -> None:
        images = states[:, 0]
        for number, image in zip(numbers, images):
            if not image.isfinite().all():
                raise UserError(f"image {number}: restored to NaN or inf; --precision fp32 or bf16 may help")
        if on_batch is not None:  # before the batch is there: a run killed in between does it again
            on_batch(numbers, images, states)
        store.write(numbers, images, labels, checksums, seconds)

    def show_steps(bar: Progress, done: int, batch_size: int) -> Callable:
        steps = itertools.count(1)

        def on_step(*_: Any) -> None:
            step = next(steps)
            bar.update(done + batch_size * step / opt.nfe, f"{done}/{count} images  NFE {step}/{opt.nfe}")

        return on_step

    with (
        Progress("restoring", count, text=f"0/{count} images", shown=opt.global_rank == 0) as bar,
        ThreadPoolExecutor(1) as writing,
    ):
        pending: list[Future] = []
        for numbers, (images, labels, checksums) in zip(batches, loader):
            began = time.perf_counter()
            states = restore_batch(runner, opt, images, numbers, corrupt, show_steps(bar, done, len(numbers)))
            seconds = time.perf_counter() - began
            if numbers is batches[0] and len(batches) > 1:  # it also chose kernels, or compiled
                seconds = math.nan
            pending.append(writing.submit(write, numbers, states, labels, checksums, seconds))
            if len(pending) > _IN_FLIGHT:
                pending.pop(0).result()
            done += len(numbers)
        for future in pending:
            future.result()
    barrier()


def shares(batches: list[list[int]], world_size: int) -> list[list[list[int]]]:
    """The batches of each rank, in order: each goes to the rank that has the fewest images so far.

    Any two ranks differ by no more images than the largest batch has, also where a resumed run left small ones.
    """
    ranks: list[list[list[int]]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for batch in batches:
        rank = loads.index(min(loads))
        ranks[rank].append(batch)
        loads[rank] += len(batch)
    return ranks


def restore_batch(
    runner: Any, opt: Any, images: Tensor, numbers: list[int], corrupt: Callable, on_step: Callable
) -> Tensor:
    """Restore the images of these numbers [b,C,S,S]: states [b,K,C,S,S] on the CPU, index 0 the restored images.

    Where a trajectory is asked for, the last state is the degraded image.
    """
    count = len(numbers)
    if opt.compile and count < opt.batch_size:  # one shape, one compilation
        padding = opt.batch_size - count
        images = torch.cat([images, images[-1:].expand(padding, -1, -1, -1)])
        numbers = numbers + numbers[-1:] * padding
    noise = ImageNoise(opt.seed, numbers, runner.device)
    batch = make_batch(
        images.to(runner.device, non_blocking=True),
        corrupt,
        cond_x1=opt.cond_x1,
        add_x1_noise=opt.add_x1_noise,
        index=torch.tensor(numbers),
        randn=noise.randn_like,
    )
    trajectory = min(numbers) < opt.save_trajectory
    states, _ = runner.ddpm_sampling(
        opt,
        batch.x1,
        mask=batch.mask,
        cond=batch.cond,
        clip_denoise=opt.clip_denoise,
        nfe=opt.nfe,
        log_count=10 if trajectory else 1,
        verbose=False,
        randn=noise.randn_like,
        redraw_hole=False,
        on_step=on_step,
    )
    if trajectory:
        states = torch.cat([states, batch.x1.cpu().unsqueeze(1)], dim=1)
    return states[:count]
