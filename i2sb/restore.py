"""Algorithm 2 applied to a data set: batch by batch, in constant memory, resumable, shared by all ranks."""

from __future__ import annotations

import contextlib
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corruption.geometry import height_width
from i2sb.batch import Given, unpack
from i2sb.errors import UserError
from i2sb.forecast import TimeLeft, before_sampling
from i2sb.loader import check_same_images, ordered_loader
from i2sb.operator_file import operator_errors
from i2sb.recon import run_settings, sampling_of
from i2sb.recon_store import ReconStore
from i2sb.runtime.distributed import (
    barrier,
    broadcast_object,
    check_agreement,
    gather_objects,
    is_main,
    rank,
    world_size,
)
from i2sb.runtime.progress import Progress
from i2sb.schedule import num_evaluations

NUM_CHECKED = 1000  # images already restored whose files a resumed run reads again


@contextlib.contextmanager
def open_store(
    runner: Any, opt: Any, folder: Path, dataset: Any, corrupt: Callable, log: Any
) -> Iterator[tuple[ReconStore, bool]]:
    """(place for the restored images, held against other processes; whether all of them are there already)."""
    bridge = runner.config
    other = f"--ckpt {opt.ckpt} is not rank 0's (replaced meanwhile, or each node has its own); start again with one"
    check_agreement((runner.identity, bridge.to_dict()), other)
    check_same_images(dataset)
    shape = (bridge.channels, *height_width(bridge.image_size))
    settings = {
        **run_settings(runner, opt, num_evaluations(opt.nfe, bridge.interval), "partition", "exif_rotate"),
        "data": broadcast_object(dataset.fingerprint() if is_main() else None),
        "holes": holes(corrupt, len(dataset), shape),
    }
    if own := getattr(corrupt, "file_sha256", None):
        settings["operator"] = own
    store = ReconStore(folder, opt.partition, len(dataset), settings, shape, opt.recon_dtype)
    with contextlib.ExitStack() as stack:
        finished = None
        if is_main():
            stack.enter_context(store.only_run())
            finished = store.open(opt.overwrite, log)
            check_images(store, dataset)
        finished = broadcast_object(finished)
        if not finished:
            _check_shared(store.parts)
        if finished:
            log.info(f"[Sample] {store.path}: is finished already; --overwrite restores again")
        yield store, finished


def _check_shared(folder: Path) -> None:
    """Raises UserError on all ranks where one does not see what rank 0 writes into the folder."""
    mark = folder / broadcast_object(f"seen.{secrets.token_hex(4)}")
    if is_main():
        mark.touch()
    barrier()
    # A network file system may take a moment.
    seen = gather_objects(any(mark.exists() or time.sleep(1) for _ in range(5)))
    if is_main():
        mark.unlink()
    if not all(seen):
        raise UserError(
            f"rank {seen.index(False)} does not see what rank 0 writes into {folder.parent}: start all nodes in one "
            "shared folder, or each on its own with another --partition"
        )


def holes(corrupt: Callable, count: int, shape: tuple[int, ...]) -> str | None:
    """A checksum of the masks of `count` images [C,H,W], a file's or the brush's; None for a task without masks."""
    if not getattr(corrupt, "has_mask", False):
        return None
    with operator_errors():
        _, mask = corrupt(torch.zeros(3, *shape), torch.tensor([0, count // 2, count - 1]))
    return f"{zlib.crc32(mask.byte().contiguous().numpy()):08x}"


def check_images(store: ReconStore, dataset: Any) -> None:
    """Refuse to resume where image files have changed since: up to NUM_CHECKED of them, evenly spread, are compared."""
    known = store.checksums()
    for number in sorted(known)[:: -(-len(known) // NUM_CHECKED) or 1]:
        if zlib.crc32(dataset.read(number)) != known[number]:
            name = dataset.short_name(dataset.samples[number][0])
            raise UserError(
                f"{name}: has changed since it was restored into {store.folder}; put the former file back, or give "
                "--overwrite to start from scratch"
            )


def restore(
    runner: Any,
    opt: Any,
    dataset: Any,
    corrupt: Callable,
    store: ReconStore,
    on_batch: Callable[[list[int], Tensor], None],
) -> None:
    """Restore what the store lacks; each rank takes its share of the batches.

    Image i draws all its noise from a generator seeded by (opt.seed, i): the result depends neither on the
    batch size nor on ranks, partitions, or interruptions.

    Args:
        dataset: items (item of `batch.unpack`, CRC-32 of the bytes it was made of), see `dataset.images.WithChecksum`.
        on_batch: called in a thread with (numbers, states [b,K,C,H,W]) of each batch, before it counts as done.
    """
    # Rank 0 looks for all: the store changes as soon as the first rank is at work.
    missing = broadcast_object(store.missing(opt.batch_size) if is_main() else None)
    batches = missing[rank() :: world_size()]
    count, nfe = sum(map(len, batches)), num_evaluations(opt.nfe, runner.config.interval)
    loader = ordered_loader(dataset, batches, num_workers=opt.num_workers, device=runner.device)

    def write(numbers: list[int], states: Tensor, labels: Tensor, checksums: Tensor, seconds: float) -> None:
        for number, image in zip(numbers, states[:, 0]):
            if not image.isfinite().all():
                raise UserError(f"image {number}: restored to NaN or inf; --precision fp32 or bf16 may help")
        on_batch(numbers, states)  # first: a run killed in between restores the batch again
        store.write(numbers, states[:, 0], labels, checksums, seconds)

    time_left, left = TimeLeft(), len(batches) * nfe

    def on_step(size: int, states: Tensor) -> None:
        nonlocal left
        bar.advance(size)
        left -= 1
        if line := time_left.after_iteration(states.flatten()[0], left):
            runner.log.info(f"[Sample] {line}")

    if count:
        runner.log.info(f"[Sample] {before_sampling(f'{count} images', nfe, bool(opt.nfe))}")
    with Progress("restoring", count * nfe, shown=is_main()) as bar, ThreadPoolExecutor(1) as writing:
        done, written = 0, None
        for numbers, (item, checksums) in zip(batches, loader):
            given = unpack(item)
            began, size = time.perf_counter(), len(numbers)
            bar.update(done * nfe, f"{done}/{count} images")
            states = restore_batch(
                runner, opt, given, numbers, corrupt, lambda _, states, __, size=size: on_step(size, states)
            )
            seconds = time.perf_counter() - began
            if written is not None:
                written.result()
            written = writing.submit(write, numbers, states, given.labels, checksums, seconds)
            done += size
        if written is not None:
            written.result()
    barrier()


def restore_batch(
    runner: Any, opt: Any, given: Given, numbers: list[int], corrupt: Callable, on_step: Callable
) -> Tensor:
    """Restore the images of these numbers: states [b,K,C,H,W] on the CPU, index 0 the restored images.

    Where a trajectory is asked for, the last state is the degraded image.
    """
    count = len(numbers)
    if opt.compile and count < opt.batch_size:  # one shape, one compilation
        padding = opt.batch_size - count
        given = Given(*(t if t is None else torch.cat([t, t[-1:].expand(padding, *t.shape[1:])]) for t in given))
        numbers = numbers + numbers[-1:] * padding
    trajectory = min(numbers) < opt.save_trajectory
    batch, states, _ = runner.restore(
        given.to(runner.device),
        corrupt,
        numbers,
        opt.seed,
        clip_denoise=opt.clip_denoise,
        nfe=opt.nfe,
        log_count=10 if trajectory else 1,
        **sampling_of(opt),
        on_step=on_step,
    )
    if trajectory:
        states = torch.cat([states, batch.x1.cpu().unsqueeze(1)], dim=1)
    return states[:count]
