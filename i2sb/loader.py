"""In which order training sees the images, and how they get to it.

Position p counts the images that training has seen over all ranks, from the very first.  Every epoch is a
permutation of the data set, and everything random about an image follows from (seed, p), so that a run can
resume at any position, with any number of ranks and workers.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import multiprocessing.util
import signal
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

_PRIME = 1_000_003  # keeps the seeds of neighbouring runs apart


class EpochOrder:
    """Position -> index of the image: a new permutation of 0 .. num_images-1 for each epoch."""

    def __init__(self, num_images: int, seed: int):
        self.num_images, self.seed = num_images, seed
        self._epoch, self._permutation = -1, []

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.num_images)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * _PRIME + epoch)
            self._permutation = torch.randperm(self.num_images, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation[place]


def rank_batches(
    order: EpochOrder, microbatch: int, rank: int, world_size: int, start: int
) -> Iterator[list[tuple[int, int]]]:
    """Endless micro-batches of one rank, as lists of (position, index).

    All ranks together take consecutive positions: `world_size * microbatch` per micro-batch.
    """
    for first in itertools.count(start + rank * microbatch, world_size * microbatch):
        yield [(position, order[position]) for position in range(first, first + microbatch)]


class SeededItems(Dataset):
    """Items of a data set whose transforms draw from a seed of (seed, position), not from the worker's."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item: tuple[int, int]) -> Any:
        position, index = item
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed: without workers it would also put the GPU's noise back to a known place
            torch.default_generator.manual_seed(self.seed * _PRIME + position)
            return self.dataset[index]


def training_loader(dataset: Dataset, opt: Any, start: int, device: torch.device | str) -> Iterator[Any]:
    """This rank's micro-batches without end, beginning at position `start`.

    For a network on a GPU they lie in pinned memory; without workers (`opt.num_workers` 0) this process loads them.
    """
    order = EpochOrder(len(dataset), opt.seed)
    batches = rank_batches(order, opt.microbatch, opt.global_rank, opt.global_size, start)
    return iter(_loader(SeededItems(dataset, opt.seed), opt.num_workers, device, batch_sampler=batches))


def ordered_loader(
    dataset: Dataset, batches: list[list[int]], *, num_workers: int, device: torch.device | str = "cpu"
) -> DataLoader:
    """The batches of the given indices, in their order."""
    workers = min(num_workers, len(batches))
    return _loader(dataset, workers, device, batch_sampler=batches)


def _loader(dataset: Dataset, num_workers: int, device: torch.device | str, **options: Any) -> DataLoader:
    if num_workers:
        options.update(worker_init_fn=_begin_worker, prefetch_factor=4)
        # Not atexit: the ranks that we start ourselves run these alone.
        multiprocessing.util.Finalize(None, _end_workers, exitpriority=10)
    return DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),  # without one, each loader takes a number from the global generator
        **options,
    )


def _end_workers() -> None:
    """Kill the workers that are left when a process ends: they ignore the SIGTERM by which Python would ask them to.

    They only read, so nothing is lost.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        # torch's handler would call these deaths an error, on top of the one that is reported
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
        worker.join()


def _begin_worker(_: int) -> None:
    """Ctrl-C and a scheduler's signals reach all processes; the parent saves and then ends its workers."""
    sys.excepthook = _ignore_a_lost_parent
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)


def _ignore_a_lost_parent(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """No traceback where a worker cannot hand over tensors because the parent was killed."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
