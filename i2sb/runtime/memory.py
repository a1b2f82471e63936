"""The peak memory of a process."""

import resource
import sys

import torch


def peak_memory(device: torch.device) -> float:
    """GiB: of the GPU's memory for tensors on it, else of the process's own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # bytes there, KiB on Linux
