"""How the ranks of a run find each other, and refuse to begin where they do not fit together."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

from i2sb.errors import UserError

if TYPE_CHECKING:
    from i2sb.runtime.launch import Placement

_SILENCE = 10  # seconds before a rank says what it is waiting for
_POLL = 0.05


def rendezvous_seconds() -> float:
    """How long the ranks have to find each other."""
    return float(os.environ.get("I2SB_RENDEZVOUS_SECONDS", "600"))


def meet(placement: Placement, shared: dict[str, str], timeout: timedelta) -> dist.Store:
    """The store, once all ranks have come to it.  Waits in short steps: torch's own waits ignore signals.

    shared: see `distributed.process_group`; timeout: of what the store is asked for later.
    """
    address, seconds = (placement.address, placement.port), rendezvous_seconds()
    start, silent = time.monotonic(), placement.local_rank != 0  # one rank per node prints
    store, state, where = None, "nobody answers there", f"{placement.address}:{placement.port}"
    while True:
        if store is None:
            with contextlib.suppress(OSError):
                socket.create_connection(address, timeout=5).close()
                store = _check_in(placement, shared, timeout)
        else:
            arrived = store.add("arrived", 0)  # a rank refuses before it counts as arrived
            if store.check(["refusal"]):
                time.sleep(1)  # the others still read it, where this process serves the store
                raise UserError(store.get("refusal").decode())
            if arrived >= placement.size:
                return store
            state = f"{arrived} of {placement.size} ranks have come"
        waited = time.monotonic() - start
        if waited > seconds:
            raise UserError(
                f"rank {placement.rank} waited {seconds:g} s (I2SB_RENDEZVOUS_SECONDS) at {where}: {state}; check "
                "that every node runs the same command with its own --node-rank, that --master-address is an "
                "address of node 0 which the others can reach, and that no firewall closes the port (--master-port)"
            )
        if waited > _SILENCE and not silent:
            silent = True
            print(f"rank {placement.rank} waits at {where}: {state}", file=sys.stderr, flush=True)
        time.sleep(_POLL)


def _check_in(placement: Placement, shared: dict[str, str], timeout: timedelta) -> dist.Store:
    """A client of the store, where this rank is counted, or the run refused if the ranks do not fit together."""
    store = dist.TCPStore(placement.address, placement.port, is_master=False, timeout=timedelta(seconds=60))
    store.set_timeout(timeout)
    # torchrun restarts ranks against the same store.
    store = dist.PrefixStore(f"i2sb/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    size = int(store.compare_set("size", "", str(placement.size)))  # the first to come sets it
    if size != placement.size or store.add(f"rank/{placement.rank}", 1) > 1:
        who = f"rank {placement.rank} of {placement.size} came twice or to a run of {size} ranks"
        store.set("refusal", f"{who}: give every node the same flags and its own --node-rank")
    else:
        _compare(store, placement.rank, shared)
    store.add("arrived", 1)
    return store


def _compare(store: dist.Store, rank: int, shared: dict[str, str]) -> None:
    """Refuse the run where an option is not that of the first rank to come."""
    first, theirs = json.loads(store.compare_set("options", "", json.dumps([rank, shared])))
    if wrong := [name for name in sorted({*shared, *theirs}) if shared.get(name) != theirs.get(name)]:
        flag, own, other = wrong[0].replace("_", "-"), shared.get(wrong[0]), theirs.get(wrong[0])
        who = f"rank {rank} has --{flag} {own}, rank {first} has {other}"
        store.set("refusal", f"{who}: give every node the same flags")
