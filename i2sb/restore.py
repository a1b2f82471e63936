"""Restoring a data set with a trained bridge: batch by batch, in constant memory, resumable, over all ranks."""

from __future__ import annotations

import hashlib
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2sb.batch import Batch, make_batch
from i2sb.errors import UserError
from i2sb.loader import ordered_loader
from i2sb.noise import ImageNoise
from i2sb.recon_store import ReconStore
from i2sb.runtime.distributed import barrier, broadcast_object
from i2sb.runtime.progress import SampleProgress

_IN_FLIGHT = 2  # batches being written while the next are restored


def restore(
    runner: Any,
    opt: Any,
    dataset: Any,
    corrupt: Callable,
    store: ReconStore,
    *,
    on_batch: Callable[[list[int], Tensor, Tensor], None] | None = None,
    again: Sequence[int] = (),
    verbose: bool = True,
) -> None:
    """Restore what the store lacks; this rank takes its share of the batches, see `shares`.

    Image i draws all its noise from a generator seeded by (opt.seed, i): the result depends neither on the
    batch size nor on ranks, partitions, or interruptions.

    Args:
        opt: `seed`, `nfe`, `clip_denoise`, `batch_size`, `num_workers`, `save_trajectory` are read, and the
            bridge's options.
        on_batch: called in a thread with (numbers, images [b,3,S,S], states [b,K,3,S,S]) of each batch, before
            the batch counts as done.
        again: images to be restored though the store has them.

    Raises:
        UserError: a batch cannot be written, or its images are no finite numbers.
    """
    # Rank 0 looks for all: the store changes as soon as the first rank is at work.
    missing = broadcast_object(store.missing(opt.batch_size, again) if opt.global_rank == 0 else None)
    batches = shares(missing, opt.global_size)[opt.global_rank]
    count = sum(map(len, batches))
    loader = ordered_loader(dataset, batches, num_workers=opt.num_workers, device=runner.device)
    nfe = opt.nfe or opt.interval - 1
    shown = verbose and opt.global_rank == 0
    with (
        SampleProgress(count, nfe, opt.batch_size, shown=shown) as progress,
        ThreadPoolExecutor(1) as writing,
    ):
        pending: list[Future] = []
        for numbers, (images, labels) in zip(batches, loader):
            began = time.perf_counter()
            states = _restore_batch(runner, opt, images, numbers, corrupt, nfe, progress.step)
            seconds = time.perf_counter() - began
            if numbers is batches[0] and len(batches) > 1:  # it also chose kernels, or compiled
                seconds = math.nan
            pending.append(writing.submit(_write, store, numbers, states, labels, seconds, on_batch))
            if len(pending) > _IN_FLIGHT:
                pending.pop(0).result()
            progress.images(len(numbers))
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


def _restore_batch(
    runner: Any, opt: Any, images: Tensor, numbers: list[int], corrupt: Callable, nfe: int, on_step: Callable
) -> Tensor:
    """States [b,K,3,S,S] of a batch on the CPU, index 0 the restored images."""
    if opt.compile:  # one shape, one compilation
        padding = opt.batch_size - len(numbers)
        images = torch.cat([images, images[-1:].expand(padding, -1, -1, -1)])
        numbers = numbers + [numbers[-1]] * padding
        return _restore_padded(runner, opt, images, numbers, corrupt, nfe, on_step)[: len(numbers) - padding]
    return _restore_padded(runner, opt, images, numbers, corrupt, nfe, on_step)


def _restore_padded(
    runner: Any, opt: Any, images: Tensor, numbers: list[int], corrupt: Callable, nfe: int, on_step: Callable
) -> Tensor:
    noise = ImageNoise(opt.seed, numbers, runner.device)
    batch = boundary(runner, opt, images, numbers, corrupt, noise)
    trajectory = min(numbers) < opt.save_trajectory
    xs, _ = runner.ddpm_sampling(
        opt,
        batch.x1,
        mask=batch.mask,
        cond=batch.cond,
        clip_denoise=opt.clip_denoise,
        nfe=nfe,
        log_count=10 if trajectory else 1,
        verbose=False,
        randn=noise.randn_like,
        redraw_hole=False,
        on_step=on_step,
    )
    if trajectory:
        return torch.cat([xs, batch.x1.cpu().unsqueeze(1)], dim=1)
    return xs


def boundary(runner: Any, opt: Any, images: Tensor, numbers: list[int], corrupt: Callable, noise: ImageNoise) -> Batch:
    """Both ends of the bridge for validation images of these numbers."""
    return make_batch(
        images.to(runner.device, non_blocking=True),
        corrupt,
        cond_x1=opt.cond_x1,
        add_x1_noise=opt.add_x1_noise,
        index=torch.tensor(numbers),
        randn=noise.randn_like,
    )


def _write(
    store: ReconStore,
    numbers: list[int],
    states: Tensor,
    labels: Tensor,
    seconds: float,
    on_batch: Callable | None,
) -> None:
    images = states[:, 0]
    if not images.isfinite().all():
        number = next(n for n, image in zip(numbers, images) if not image.isfinite().all())
        raise UserError(f"image {number} came out with values that are no numbers; --precision fp32 or bf16 may help")
    if on_batch is not None:  # before the batch is there: a run killed in between does it again
        on_batch(numbers, images, states)
    store.write(numbers, images, labels, seconds)


def fingerprint(path: Path) -> str:
    """Tells one checkpoint file from another without reading all of it: a hash of its checksums."""
    digest = hashlib.sha256()
    for part in _checksums(path):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _checksums(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                yield f"{entry.filename.partition('/')[2]} {entry.CRC} {entry.file_size};"
    except zipfile.BadZipFile:  # a torch file from before 1.6
        yield f"{path.stat().st_size} {path.stat().st_mtime_ns}"


def dataset_fingerprint(samples: list[tuple[str, int]], name_of: Callable[[str], str]) -> str:
    """Tells one list of images from another by their names and labels."""
    digest = hashlib.sha256()
    for path, label in samples:
        digest.update(f"{name_of(path)}\0{label}\n".encode("utf-8", "surrogateescape"))
    return f"{len(samples)} images, {digest.hexdigest()[:16]}"
