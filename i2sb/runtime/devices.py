"""Which device a process computes on, found once and passed down as a string."""

from __future__ import annotations

import os

from i2sb.errors import UserError
from i2sb.runtime.placement import Placement


def pick_device(wanted: str, placement: Placement, local_rank: int, gpu: int | None = None) -> str:
    """The device of one process: "cpu", "mps" or "cuda:INDEX".

    Args:
        wanted: "auto" (CUDA, else MPS, else the CPU), "cuda", "mps" or "cpu".
        local_rank: this process on its machine; its GPU, unless `gpu` names one for the only process here.

    Raises:
        UserError: the device is not there, or too few of it, or it cannot do what the run needs.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        if num_gpus or gpu is not None:
            wanted = "cuda"
        else:  # torch.distributed has nothing that moves MPS tensors
            wanted = "mps" if has_mps and not placement.distributed else "cpu"
    if wanted == "cpu":
        return "cpu"
    if wanted == "mps":
        if not has_mps:
            raise UserError("--device mps: torch finds no MPS device here; use --device cpu or auto")
        if placement.distributed:
            raise UserError(f"--device mps: works in one process only, {placement.global_size} are asked for")
        return "mps"
    if wanted != "cuda":
        raise UserError(f"--device {wanted}: must be one of auto, cuda, mps, cpu")
    return f"cuda:{_gpu_index(placement, local_rank, gpu, num_gpus)}"


def _gpu_index(placement: Placement, local_rank: int, gpu: int | None, num_gpus: int) -> int:
    there = f"torch finds {num_gpus} GPU{'s' * (num_gpus != 1)} here" if num_gpus else "torch finds no GPU here"
    if gpu is not None and placement.num_here == 1 and not placement.by_torchrun:
        if not 0 <= gpu < num_gpus:
            legal = f"; must lie in 0..{num_gpus - 1}" if num_gpus else "; leave it out to use the CPU"
            raise UserError(f"--gpu {gpu}: {there}{legal}")
        return gpu
    if not num_gpus:
        raise UserError(f"--device cuda: {there}; use --device cpu or auto")
    if not placement.distributed:
        return 0
    if placement.num_here > num_gpus:
        raise UserError(f"--n-gpu-per-node {placement.num_here}: {there}; give at most that many, or --device cpu")
    if local_rank >= num_gpus:
        # srun and mpirun can show each of their processes its own GPU and nothing else.
        if num_gpus == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
            return 0
        raise UserError(
            f"local rank {local_rank}: {there}, there are more processes than that on this machine; "
            "start fewer per node, or use --device cpu"
        )
    return local_rank


def share_cores(num_processes: int) -> None:
    """Give this process its part of the machine's cores, unless OMP_NUM_THREADS says how many threads to use.

    Several processes of torch with all cores each are several times slower than with their part of them.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // num_processes))
