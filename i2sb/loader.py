"""In which order training sees the images, and how they get to it.

Position p counts the images that training has seen over all ranks, from the very first.  Every epoch is a
permutation of the data set, and everything random about an image follows from (seed, p), so that a run can
resume at any position, with any number of ranks and workers.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from i2sb.errors import UserError
from i2sb.runtime.distributed import check_agreement, world_size
from i2sb.runtime.memory import begin_forked
from i2sb.runtime.script import SIGNALS

SILENCE = 60.0  # seconds without images before this is said
_LONGEST_FOLDER = 71  # bytes; the workers put sockets there, whose paths have 32 more and at most 103
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


def content(dataset: Any, most: int = 1000) -> str:
    """Tells a data set from others: names, labels and sizes of its images, and the bytes of up to `most` of them."""
    crc = 0
    for index in range(0, len(dataset), -(-len(dataset) // most)):
        crc = zlib.crc32(dataset.read(index), crc)
    return f"{dataset.fingerprint()}-{crc:08x}"


def check_same_images(dataset: Any) -> None:
    """Raises UserError on all ranks where one has other images; without a fingerprint they are only counted."""
    if world_size() > 1:
        own = content(dataset, 100) if hasattr(dataset, "fingerprint") else len(dataset)
        check_agreement(own, "has other images than rank 0 in --dataset-dir; give every node the same")


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
    return _load(SeededItems(dataset, opt.seed), opt.num_workers, device, batch_sampler=batches)


def ordered_loader(
    dataset: Dataset, batches: list[list[int]], *, num_workers: int, device: torch.device | str = "cpu"
) -> Iterator[Any]:
    """The batches of the given indices, in their order."""
    workers = min(num_workers, len(batches))
    return _load(dataset, workers, device, batch_sampler=batches)


def _load(dataset: Dataset, num_workers: int, device: torch.device | str, **options: Any) -> Iterator[Any]:
    if num_workers:
        folder = tempfile.gettempdir()
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            raise UserError(f"TMPDIR {folder}: too long for the sockets of --num-workers; set a shorter one, or give 0")
        options.update(worker_init_fn=_begin_worker, prefetch_factor=4)
        # Not atexit: the ranks that we start ourselves run these alone.
        multiprocessing.util.Finalize(None, _end_workers, exitpriority=10)
    # Of one that could not be made: else its __del__ prints a traceback.
    _MultiProcessingDataLoaderIter._shutdown = True
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator(),  # without one, each loader takes a number from the global generator
        **options,
    )
    try:
        return _watched(iter(loader))
    except OSError as error:
        raise UserError(
            f"--num-workers {num_workers}: these processes cannot be started ({error.strerror}): lower it, 0 needs "
            "none; where /dev/shm is full, docker run --shm-size=8g makes it larger"
        ) from error


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; one that is long in coming is said once."""
    try:
        while True:
            timer = threading.Timer(SILENCE, _say_silence, [time.strftime("%H:%M:%S")])
            timer.daemon = True
            timer.start()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (EOFError, ConnectionError) as error:
                if getattr(batches, "_workers", []) and "DataLoader worker" not in str(error):
                    raise RuntimeError("DataLoader worker (pid unknown) died handing over a batch") from error
                raise
            finally:
                timer.cancel()
            yield batch
    except BaseException:  # no more are wanted; torch would wait 5 s for each worker that does not answer
        _end_workers(getattr(batches, "_workers", []))  # not those of a training that this loader evaluates
        raise


def _say_silence(since: str) -> None:
    logging.getLogger("i2sb").warning(
        f"[Data] no images since {since}, still waiting: does the disk or network folder that they lie in answer, do "
        "the processes of --num-workers run?"
    )


def _end_workers(workers: Sequence[Any] | None = None) -> None:
    """Kill these workers, or all that are left when a process ends: they ignore the SIGTERM by which Python would ask.

    They only read, so nothing is lost.
    """
    if workers is None:
        workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        # torch's handler would call these deaths an error, on top of the one that is reported
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
        worker.join()


def _begin_worker(_: int) -> None:
    """Ctrl-C and a scheduler's signals reach all processes; the parent saves and then ends its workers."""
    sys.excepthook = _ignore_a_lost_parent
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    begin_forked()


def _ignore_a_lost_parent(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """No traceback where a worker cannot hand over tensors because the parent was killed."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
