"""Start a run in as many processes as asked for: alone, as own children, or as a part of torchrun or mpirun."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

from i2sb.runtime.children import run_children
from i2sb.runtime.devices import pick_device, share_cores
from i2sb.runtime.placement import Placement, find_placement
from i2sb.runtime.rendezvous import listen, process_group

Around = Callable[[int], contextlib.AbstractContextManager]


def launch(
    opt: argparse.Namespace,
    main: Callable[[argparse.Namespace], None],
    log: Any = None,
    around: Around | None = None,
) -> int:
    """Call `main(opt)` in every process of the run that belongs to this node; returns the exit code.

    One process works in place. With torchrun's environment this process is one rank of torchrun's. Otherwise
    there are `num_proc_node` nodes with `n_gpu_per_node` processes each, and the rank is node_rank *
    n_gpu_per_node + local rank: one process per node works in place, several are spawned as children.

    Args:
        opt: has n_gpu_per_node, num_proc_node, node_rank (None: taken from the variables of Open MPI, PMIx,
            MPICH, Intel MPI, MVAPICH2 or SLURM, else 0), master_address, master_port (None: a free one on one
            node, 6020 across nodes), device ("auto", "cuda", "mps", "cpu") and gpu (None, or the GPU of the one
            process here).
        main: gets a copy of `opt` with distributed, global_rank, local_rank, global_size, node_rank and device
            ("cpu", "mps", "cuda:INDEX") set, inside an initialised torch.distributed if there are several ranks.
            A function at the top level of a module, as children find it by its name.
        log: anything with `info`; without it stderr is spoken to.
        around: gets the rank; what it returns is entered first thing in each process.

    Returns:
        0, or the code of the child that failed first (2: a UserError); its error has been printed.

    Raises:
        UserError: the run cannot be started as asked.
        Exception: whatever `main` raises, where it runs in this process.
    """
    say = log.info if log is not None else _to_stderr
    placement = find_placement(opt, os.environ, say)
    if opt.gpu is not None and (placement.num_here > 1 or placement.by_torchrun or opt.device in ("cpu", "mps")):
        say(f"--gpu {opt.gpu} is not used: it names the GPU of a single process on CUDA")
    # When one rank ends early, torch would add a page of C++ frames per rank to the one error that matters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if placement.num_here == 1:
        _run_rank(main, opt, placement, 0, around=around)
        return 0
    with contextlib.ExitStack() as stack:
        listener = None
        if placement.first_rank == 0:  # bound here, so that nobody can take the port before rank 0 serves it
            listener = stack.enter_context(listen(placement))
            placement = dataclasses.replace(placement, port=listener.getsockname()[1])
        arguments = [
            (opt, placement, index, listener if index == 0 else None, around) for index in range(placement.num_here)
        ]
        return run_children(_run_rank, main, arguments, placement.first_rank)


def _run_rank(
    main: Callable[[argparse.Namespace], None],
    opt: argparse.Namespace,
    placement: Placement,
    index: int,
    listener: socket.socket | None = None,
    around: Around | None = None,
) -> None:
    """Be process number `index` of this placement."""
    with contextlib.nullcontext() if around is None else around(placement.first_rank + index):
        _work(main, opt, placement, index, listener)


def _work(
    main: Callable[[argparse.Namespace], None],
    opt: argparse.Namespace,
    placement: Placement,
    index: int,
    listener: socket.socket | None,
) -> None:
    opt = copy.copy(opt)
    opt.distributed = placement.distributed
    opt.global_rank = placement.first_rank + index
    opt.local_rank = placement.first_local_rank + index if placement.distributed else 0
    opt.global_size = placement.global_size
    opt.node_rank = placement.node_rank
    opt.device = pick_device(opt.device, placement, opt.local_rank, opt.gpu)
    if not placement.distributed:
        if opt.device.startswith("cuda"):
            import torch

            torch.cuda.set_device(opt.device)
        main(opt)
        return
    share_cores(placement.num_on_machine)
    with process_group(placement, opt.global_rank, opt.device, listener):
        main(opt)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
