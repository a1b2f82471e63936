"""Errors of the libraries below us that a user can do something about, as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed import DistBackendError

from i2sb.errors import UserError, one_line
from i2sb.runtime.children import EndedElsewhere

# How gloo and NCCL say that a peer, or the way to it, is gone.
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


@contextlib.contextmanager
def explained(opt: Any, *, smaller: str) -> Iterator[None]:
    """Raise what goes wrong in the block in words that say what to do, where we know it.

    Args:
        opt: `num_workers`, `global_size` and `compile` are read.
        smaller: what to lower when a GPU's memory is full.

    Raises:
        UserError: a full GPU, a dead loader, a network that cannot be compiled here.
        EndedElsewhere: another rank is gone.
    """
    try:
        yield
    except (UserError, EndedElsewhere):
        raise
    except Exception as error:
        known = _explanation(error, opt, smaller)
        if known is None:
            raise
        raise known from error


def _explanation(error: Exception, opt: Any, smaller: str) -> Exception | None:
    text = one_line(error, 200)
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(f"the memory of {opt.device} is full: lower {smaller} ({text})")
    if "DataLoader worker (pid" in str(error):  # not an error that a worker has met and handed on
        return UserError(
            f"--num-workers {opt.num_workers}: a process that loads images has died, perhaps for want of memory: "
            f"lower it ({text})"
        )
    if opt.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return UserError(f"--compile: torch cannot compile the network here, leave it out ({text})")
    lost = isinstance(error, DistBackendError) or any(word in str(error) for word in _LOST)
    if opt.global_size > 1 and isinstance(error, RuntimeError) and lost:
        return EndedElsewhere(f"another rank has ended, or the way to it; its own node tells why ({text})")
    return None
