"""What a process's memory is at its peak, and that it stays with the process on a CPU."""

import ctypes
import os
import resource
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def peak_memory(device: torch.device) -> float:
    """GiB: of the GPU's memory for tensors on it, else of the process's own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # bytes there, KiB on Linux


def keep_freed_memory(keep: bool = True) -> None:
    """From now on this process keeps the memory that tensors on the CPU give back, for the next ones of their size.

    glibc hands blocks above 32 MB back to the system at once, which clears each page of the next one again: a third
    of the time of ADM-256 (benchmarks/notes.md).  Other C libraries, and a user's own MALLOC_.. variables, stand.

    keep: False: as glibc begins, for a process whose parent keeps it.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0 if keep else 65536)
        libc.mallopt(M_TRIM_THRESHOLD, -1 if keep else 2**17)
