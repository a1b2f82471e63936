"""What the ranks of a run say to each other. Everything works without a process group too: as rank 0 of 1."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store

from i2sb.runtime.children import EndedElsewhere

_POLL = 0.1
_turns = itertools.count()


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process among all, 0..world_size() - 1."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if _in_group() else 1


def is_main() -> bool:
    """Whether this is the one process that writes files and speaks: rank 0."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank has come here. Goes over the CPU, so no device is waited for."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros(1))


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a tensor of the same shape, device and floating type on every rank; a new tensor, no gradient.

    On a GPU the mean is queued behind the device's other work and not waited for.
    """
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
        total /= world_size()
    return total


def gather_objects(obj: Any) -> list[Any]:
    """Every rank's small picklable `obj` (no CUDA tensors), in the order of the ranks, on every rank."""
    if world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def broadcast_object(obj: Any) -> Any:
    """Rank 0's small picklable `obj` on every rank; what the others pass is not looked at."""
    if world_size() == 1:
        return obj
    box = [obj if is_main() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 runs the block first (a download, a data set to build), then all others at once.

    However long rank 0 takes, the others wait: this is no collective, which would run into its timeout.

    Raises:
        EndedElsewhere: on the others, when rank 0 fails in the block or is gone.
    """
    if world_size() == 1:
        yield
        return
    key = f"main_first/{next(_turns)}"
    store = _get_default_store()
    if not is_main():
        _await_main(store, key)
        yield
        return
    try:
        yield
    except BaseException:
        store.set(key, "failed")
        time.sleep(2 * _POLL)  # the others still read it here
        raise
    store.set(key, "done")


def _await_main(store: dist.Store, key: str) -> None:
    try:
        while not store.check([key]):
            time.sleep(_POLL)
        outcome = store.get(key)
    except RuntimeError as error:
        raise EndedElsewhere("rank 0 has ended while this rank waited for it") from error
    if outcome != b"done":
        raise EndedElsewhere("rank 0 has failed while this rank waited for it")


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR1 as a flag that all ranks see at the same iteration; a context manager.

        with StopSignal() as stop:
            while not stop.poll():
                train_one_iteration()

    A rank that got a signal tells the others in an all-reduce of one CPU number that is started in one `poll`
    and looked at in the next: no rank waits for a device, and agreement comes one iteration later. Every rank
    must poll equally often. The second SIGINT raises KeyboardInterrupt. Must be made in the main thread; in
    any other no handler is installed, and only other ranks' signals are seen.
    """

    def __init__(self) -> None:
        self._received = 0  # number of the first signal of this process
        self._num_interrupts = 0
        self._agreed = 0
        self._ballot = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
                if number := getattr(signal, name, 0):
                    self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        self._received = self._received or number

    def poll(self) -> str | None:
        """The name of the signal to stop for, or None; the same on every rank at the same call."""
        if self._agreed:
            return signal.Signals(self._agreed).name
        if world_size() == 1:
            self._agreed = self._received
        else:
            self._collect()
            if not self._agreed:
                self._ballot.fill_(self._received)
                self._work = dist.all_reduce(self._ballot, op=dist.ReduceOp.MAX, async_op=True)
        return signal.Signals(self._agreed).name if self._agreed else None

    def _collect(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._work = None
            self._agreed = int(self._ballot)

    def close(self) -> None:
        """Put the former handlers back and take in the last answer; more calls do nothing."""
        self._restore()
        self._collect()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def __enter__(self) -> StopSignal:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # the other ranks may be gone: their answer would be waited for in vain
            self._restore()
