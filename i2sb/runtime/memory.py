"""What a process's memory is at its peak; and how tensors on a CPU take the pages of former ones."""

import contextlib
import ctypes
import os
import resource
import sys
import threading
from collections.abc import Iterator

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h, for mallopt
MANY = 2**29  # bytes that may stay unused, also after a block
LARGE = 2**25  # bytes from which glibc, by itself, asks the system for each block
_lock = threading.Lock()
_blocks = 0  # that `kept_memory` runs in this process


def peak_memory(device: torch.device) -> float:
    """GiB: of the GPU's memory for tensors on it, else of the process's own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # bytes there, KiB on Linux


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Within the block this process keeps the memory that tensors on the CPU give back, for the next ones.

    glibc hands blocks above 32 MB back to the system at once, which clears each page of the next one again: a third
    of the time of ADM-256 (benchmarks/notes.md).  Kept memory fragments where sizes change, so `give_back` it now and
    then.  Other C libraries, and a user's own MALLOC_.. variables, stand.
    """
    global _blocks
    if device.type != "cpu":
        yield
        return
    with _lock:
        _blocks += 1
        _keep(None)
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                _keep(MANY)
                give_back()


def give_back() -> None:
    """Hand the pages that nothing uses to the system, where they are many: it takes a moment for each."""
    if libc := _glibc():
        libc.mallinfo2.restype = _Mallinfo2
        if libc.mallinfo2().free > MANY:
            libc.malloc_trim(0)


class _Mallinfo2(ctypes.Structure):
    """Ten numbers that glibc gives of its heap; `free` is its fordblks [bytes]."""

    _fields_ = [("others", ctypes.c_size_t * 8), ("free", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


def begin_forked() -> None:
    """Keep little in a forked process, which has its parent's settings: many would keep their largest image."""
    _keep(2 * LARGE)


def _keep(spare: int | None) -> None:
    """Let this process keep that many unused bytes at the end of its heap; None: all, and large blocks, too."""
    if libc := _glibc():
        libc.mallopt(M_MMAP_MAX, 0 if spare is None else 2**16)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_TRIM_THRESHOLD, -1 if spare is None else spare)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallinfo2") else None  # glibc from 2.33 on
