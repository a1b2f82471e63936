"""How the ranks of a run communicate. Everything works without a process group too: as rank 0 of 1."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from i2sb.errors import EndedElsewhere, UserError, one_line
from i2sb.runtime.rendezvous import meet, rendezvous_seconds
from i2sb.runtime.script import on_signals

if TYPE_CHECKING:
    from i2sb.runtime.launch import Placement

_COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # one rank may evaluate or save while the others wait
_BEAT = 10.0  # seconds between the signs of life of a rank
_POLL = 0.05
# How gloo and NCCL say that a peer, or the way to it, is gone.
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
_store: dist.Store | None = None  # that all ranks share


def rank() -> int:
    """This process among all, 0..world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0, which writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait until every rank has come here, however long one works: this is not a collective, which would time out.

    Raises EndedElsewhere where a rank has ended, or has not been heard of for as long as a collective may take.
    """
    if _store is None:
        return
    heard: dict[int, tuple[int, float]] = {}  # rank -> its last beat, and when it came
    options = dist.AllreduceOptions()
    options.timeout = _COLLECTIVE_TIMEOUT * 10_000
    work = dist.group.WORLD.allreduce([torch.zeros(1)], options)  # fails as soon as a connection is closed
    looked = 0.0
    while not work.is_completed():
        time.sleep(_POLL)
        if (now := time.monotonic()) < looked + _BEAT:
            continue
        looked = now
        for other in range(world_size()):
            beat = _store.add(f"beat/{other}", 0)
            if beat != heard.setdefault(other, (beat, now))[0]:
                heard[other] = beat, now
            elif now - heard[other][1] > _COLLECTIVE_TIMEOUT.total_seconds():
                raise _Unheard(f"rank {other} has not been heard of for {_COLLECTIVE_TIMEOUT}")
    work.wait()


class _Unheard(EndedElsewhere):
    """A rank has stopped without the network's telling."""


def _beat(store: dist.Store, rank: int, ended: threading.Event) -> None:
    """Tell the others from time to time that this rank lives."""
    with contextlib.suppress(RuntimeError):  # the main thread says why
        while not ended.wait(_BEAT):
            store.add(f"beat/{rank}", 1)


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
    gathered = [obj] * world_size()
    if world_size() > 1:
        dist.all_gather_object(gathered, obj)
    return gathered


def broadcast_object(obj: Any) -> Any:
    """Rank 0's small picklable `obj` on every rank; what the others pass is ignored."""
    box = [obj if is_main() else None]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def check_agreement(obj: Any, otherwise: str) -> None:
    """A UserError on all ranks where they differ in their small picklable `obj`: "rank N: " and `otherwise`."""
    found = gather_objects(obj)
    for other, theirs in enumerate(found):
        if theirs != found[0]:
            raise UserError(f"rank {other}: {otherwise}")


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 runs the block first (a download, a data set to build), then all others at once.

    However long rank 0 takes, the others wait, see `barrier`.  When it fails in the block, they raise EndedElsewhere.
    """
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


class StopSignal:
    """`script.SIGNALS` as a flag that all ranks see at the same iteration; a context manager.

        with StopSignal() as stop:
            while not stop.poll():
                train_one_iteration()

    A signal is shared in an all-reduce of one CPU number: no rank waits for a device. Every rank must poll equally
    often. The second SIGINT raises KeyboardInterrupt. Outside of the main thread no handler is installed, and only
    other ranks' signals are seen.
    """

    def __init__(self) -> None:
        self._received: list[int] = []  # signals of this process
        self._agreed = 0
        self._waits = False
        self._handlers = contextlib.ExitStack()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)
        if self._received.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt
        if self._waits:
            raise Interrupted

    def poll(self) -> str | None:
        """The name of the signal to stop for, or None; the same on every rank at the same call."""
        if not self._agreed:
            self._agreed = self._received[0] if self._received else 0
            if world_size() > 1:
                ballot = torch.tensor([self._agreed])
                dist.all_reduce(ballot, op=dist.ReduceOp.MAX)
                self._agreed = int(ballot)
        return signal.Signals(self._agreed).name if self._agreed else None

    def next(self, items: Iterator[Any]) -> Any:
        """The next of `items`, however long it is in coming; None once this process has got a signal."""
        try:
            self._waits = True
            return None if self._received else next(items)
        except Interrupted:
            return None
        finally:
            self._waits = False

    def __enter__(self) -> StopSignal:
        self._handlers.enter_context(on_signals(self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()


class Interrupted(BaseException):
    """A signal came in the middle of a wait; no Exception, which what is waited for may catch."""


# How the ranks come together


def _connect(*args: Any, **options: Any) -> None:
    """torch's init_process_group where Ctrl-C ends it: it waits in C++, and Python handles signals in this thread."""
    failures: list[BaseException] = []

    def connect() -> None:
        try:
            dist.init_process_group(*args, **options)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL)
    except KeyboardInterrupt:
        atexit.register(os._exit, 130)  # a thread in the middle of C++ would abort the process that Python tears down
        raise
    if failures:
        raise failures[0]


@contextlib.contextmanager
def process_group(
    placement: Placement, device: str, listener: socket.socket | None, shared: dict[str, str]
) -> Iterator[None]:
    """torch.distributed with all ranks of the run inside a `with` block: gloo for CPU tensors, NCCL for CUDA's.

    With a `listener` this rank serves the store there by which the ranks find each other, for which they have
    I2SB_RENDEZVOUS_SECONDS (600).  When another rank is gone, this one raises EndedElsewhere.

    shared: options that must be the same for all ranks, as text; UserError on all of them where one differs.
    """
    global _store
    rank, size, on_cuda, ended_well = placement.rank, placement.size, device.startswith("cuda"), False
    ended = threading.Event()
    try:
        server = None
        if listener is not None:
            served = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach()}
            server = dist.TCPStore("127.0.0.1", placement.port, **served)
        _store = meet(placement, shared, _COLLECTIVE_TIMEOUT)
        backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
        connecting = timedelta(seconds=rendezvous_seconds() / 5)  # gloo waits for five times as long
        _connect(backend, store=_store, rank=rank, world_size=size, timeout=connecting)
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # its older name
        set_timeout(_COLLECTIVE_TIMEOUT, dist.group.WORLD)
        threading.Thread(target=_beat, args=(_store, rank, ended), daemon=True).start()
        yield
        ended.set()
        _store.add("left", 1)
        deadline = time.monotonic() + _COLLECTIVE_TIMEOUT.total_seconds()
        while server is not None and _store.add("left", 0) < size and time.monotonic() < deadline:
            time.sleep(_POLL)
        ended_well = True
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST):
            raise EndedElsewhere(
                "another rank has ended, or the network to it (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose it); "
                f"its own node says why ({one_line(error, 200)})"
            ) from error
        raise
    finally:
        ended.set()
        _store = None
        gc.collect()  # what still holds the group (a network's wrapper) would keep its threads until Python ends
        # Else NCCL, or gloo's barrier, would wait for what the others never join.
        if dist.is_initialized() and (ended_well or not on_cuda) and not isinstance(sys.exc_info()[1], _Unheard):
            dist.destroy_process_group()
