"""How the processes of a run find each other, and what they say when they do not."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from i2sb.errors import UserError
from i2sb.runtime.placement import Placement

if TYPE_CHECKING:
    from torch.distributed import Store

SECONDS_VARIABLE = "I2SB_RENDEZVOUS_SECONDS"
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # one rank may evaluate or save while the others wait
_SILENCE = 10  # seconds before a process says what it is waiting for
_ANSWER = 60  # seconds that rank 0 may take to say that it is rank 0
_POLL = 0.1


def listen(placement: Placement) -> socket.socket:
    """The socket at which rank 0 serves the rendezvous, bound before anyone is told of its port.

    A run on one node is served on the loopback interface only.

    Raises:
        UserError: the port is in use or cannot be had.
    """
    port = placement.port or 0
    try:
        if placement.address in ("localhost", "127.0.0.1") and placement.num_nodes == 1:
            return socket.create_server(("127.0.0.1", port))
        return _listen_everywhere(port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "is in use, perhaps by another run or another process with --node-rank 0"
        else:
            reason = f"cannot be opened: {error.strerror or error}"
        raise UserError(f"port {port} {reason}; choose another with --master-port") from error


def _listen_everywhere(port: int) -> socket.socket:
    ipv4 = socket.create_server(("", port))
    if not socket.has_dualstack_ipv6():
        return ipv4
    port = ipv4.getsockname()[1]
    ipv4.close()  # it was for asking: some systems give the IPv6 port although the IPv4 one is taken
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        return socket.create_server(("", port))  # IPv6 is known to this system, but switched off


@contextlib.contextmanager
def process_group(
    placement: Placement, rank: int, device: str, listener: socket.socket | None = None
) -> Iterator[None]:
    """torch.distributed with all ranks of the run inside a `with` block: gloo for CPU tensors, NCCL for CUDA's.

    Args:
        device: as `pick_device` gives it.
        listener: for rank 0, the socket of `listen`; made here if there is none.

    Raises:
        UserError: the ranks do not come together in time, or do not fit together.
    """
    import torch
    import torch.distributed as dist

    store = meet(placement, rank, listener)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=placement.global_size, timeout=COLLECTIVE_TIMEOUT
        )
    except RuntimeError as error:
        raise UserError(
            f"rank {rank}: the ranks met but cannot connect to each other ({_first_line(error)}); on nodes with "
            "several networks name the one to use in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from error
    try:
        yield
    except BaseException:
        if device == "cpu":  # NCCL would wait for operations that the others may never join
            dist.destroy_process_group()
        raise
    _leave(store, rank, placement.global_size)
    gc.collect()  # what still holds the group (a network's wrapper) would keep its threads until Python ends
    dist.destroy_process_group()


def _leave(store: Store, rank: int, size: int) -> None:
    """Rank 0 serves the rendezvous, so it is the last to go."""
    num_left = store.add("left", 1)
    deadline = time.monotonic() + COLLECTIVE_TIMEOUT.total_seconds()
    while rank == 0 and num_left < size and time.monotonic() < deadline:
        time.sleep(_POLL)
        num_left = store.add("left", 0)


def meet(placement: Placement, rank: int, listener: socket.socket | None = None) -> Store:
    """The store that all ranks share; returns when every one of them has come.

    Raises:
        UserError: they do not within I2SB_RENDEZVOUS_SECONDS (600), or two ranks contradict each other.
    """
    from torch.distributed import PrefixStore

    clock = _Clock(placement, rank)
    serves = rank == 0 and not placement.port_is_served
    store = _serve(placement, listener) if serves else _connect(placement, clock)
    store.set_timeout(COLLECTIVE_TIMEOUT)
    store = PrefixStore(f"i2sb/{placement.attempt}", store)
    try:
        _check_in(store, placement, rank)
        _await_all(store, placement, clock)
    except UserError:
        if serves:
            time.sleep(1)  # the others still read here why
        raise
    except RuntimeError as error:
        raise UserError(f"{clock.who} lost rank 0 at {clock.where}: it has ended ({_first_line(error)})") from error
    return store


class _Clock:
    """The time that is left for the ranks to come together, and how a process tells of its waiting."""

    def __init__(self, placement: Placement, rank: int):
        self.seconds = _seconds()
        self.who = f"rank {rank}"
        self.where = f"{placement.address}:{placement.port}"
        self._start = time.monotonic()
        self._silent = rank != placement.first_rank  # one process speaks for a node

    @property
    def left(self) -> float:
        return self._start + self.seconds - time.monotonic()

    def tick(self, state: Callable[[], str]) -> None:
        """Wait a moment; after some silence tell `state()`. Raises UserError when the time is over."""
        if self.left <= 0:
            raise UserError(
                f"{self.who} waited {self.seconds:g} s ({SECONDS_VARIABLE}) at {self.where}: {state()}; check that "
                "every node runs the same command with its own --node-rank, that --master-address is an address "
                "of node 0 which the others can reach, and that no firewall closes the port (--master-port)"
            )
        if not self._silent and self.left < self.seconds - _SILENCE:
            self._silent = True
            print(f"{self.who} is waiting at {self.where}: {state()}", file=sys.stderr, flush=True)
        time.sleep(max(0.0, min(_POLL, self.left)))


def _seconds() -> float:
    text = os.environ.get(SECONDS_VARIABLE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{SECONDS_VARIABLE}={text}: must be a number of seconds above 0")
    return seconds


def _serve(placement: Placement, listener: socket.socket | None) -> Store:
    from torch.distributed import TCPStore

    listener = listener or listen(placement)
    port = listener.getsockname()[1]
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _connect(placement: Placement, clock: _Clock) -> Store:
    """A client of the store; asks with sockets of our own first, because those can be interrupted."""
    from torch.distributed import TCPStore

    address = (placement.address, placement.port)
    while True:
        try:
            socket.create_connection(address, timeout=min(5, max(_POLL, clock.left))).close()
            break
        except OSError as error:
            reason = error.strerror or error
            clock.tick(lambda reason=reason: f"rank 0 does not answer ({reason})")
    seconds = max(1, min(_ANSWER, clock.left))
    try:
        return _within(seconds, lambda: TCPStore(*address, is_master=False, timeout=timedelta(seconds=seconds)))
    except (RuntimeError, TimeoutError) as error:
        raise UserError(
            f"{clock.who}: what answers at {clock.where} is not rank 0 of this run ({_first_line(error)}); "
            "check --master-address and --master-port"
        ) from error


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """`function()` in a thread that is left behind after some time: a TCPStore waits for a mute server for ever."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(_outcome(function)), daemon=True, name="rendezvous")
    thread.start()
    thread.join(seconds + 1)
    if not outcome:
        raise TimeoutError(f"no sensible answer within {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _check_in(store: Store, placement: Placement, rank: int) -> None:
    """Say that `rank` is here, and refuse the run where the ranks do not fit together."""
    size = str(placement.global_size)
    expected = store.compare_set("size", "", size).decode()  # the first to come sets it
    refusal = ""
    if expected != size:
        refusal = (
            f"rank {rank} counts {size} ranks where the first to come counts {expected}; give every node the "
            "same --num-proc-node and --n-gpu-per-node"
        )
    elif store.add(f"rank/{rank}", 1) > 1:
        refusal = f"rank {rank} came twice; give every node its own --node-rank"
    if refusal:
        store.set("refusal", refusal)
        raise UserError(refusal)
    store.add("arrived", 1)


def _await_all(store: Store, placement: Placement, clock: _Clock) -> None:
    size = placement.global_size

    def state() -> str:
        missing = [str(rank) for rank in range(size) if not store.check([f"rank/{rank}"])]
        return f"{size - len(missing)} of {size} ranks have come, without {_few(missing)}"

    while store.add("arrived", 0) < size:
        if store.check(["refusal"]):
            raise UserError(store.get("refusal").decode())
        clock.tick(state)


def _few(words: list[str]) -> str:
    return ", ".join(words[:8]) + ", ..." * (len(words) > 8)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
