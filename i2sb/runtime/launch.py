"""Start a run in as many processes as asked for: in place, as own children, or as a part of torchrun or mpirun.

Ctrl-C, SIGTERM and SIGUSR1 reach the parent, which passes each on once to every rank (`_run_children`); a training
then saves (`distributed.StopSignal`).  Which device a rank computes on: `pick_device`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from i2sb.errors import EndedElsewhere, UserError
from i2sb.runtime.script import SIGNALS, on_signals, print_anything, short_report, signals_held

_GRACE = 5.0  # seconds in which the others may end by themselves once a rank has failed
_POLL = 0.1
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_ONE_PER_NODE = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # of one launcher per node, as on Kubernetes; no LOCAL_RANK
# Each launcher's name and its variables: rank, size, local rank, local size; empty where it has none.
_MPI = (
    ("mpirun (Open MPI)", *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    ("the PMIx launcher", "PMIX_RANK", "", "SLURM_LOCALID", ""),
    ("mpirun (MPICH, Intel MPI)", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
_SRUN = ("srun (SLURM)", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "")

# Options that may differ from node to node; all others must be the same for all ranks.
_OF_A_NODE = {"node_rank", "global_rank", "local_rank", "gpu", "master_address", "master_port", "num_workers", "given"}
_OF_A_NODE |= {"dataset_dir", "source", "target", "val_list", "corruption_file", "log_dir", "debug"}

Main = Callable[[argparse.Namespace], None]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a rank stands among all `size` ranks; this process starts it and the next, `num_here` in all."""

    rank: int
    local_rank: int
    size: int
    node_rank: int
    num_here: int
    num_on_machine: int  # ranks that share the cores, those of other launcher processes too
    address: str
    port: int  # 0: any free one
    is_served: bool = False  # torchrun's agent holds the store

    @property
    def distributed(self) -> bool:
        return self.size > 1


def launch(opt: argparse.Namespace, main: Main) -> int:
    """Call `main(opt)` in every process of the run that belongs to this node.

    With torchrun's environment this process is one of torchrun's ranks. Otherwise there are `num_proc_node` nodes
    with `n_gpu_per_node` ranks each: one per node works in place, several are children of this process.

    Args:
        opt: the options of `options.shared.add_launch`, device and gpu.
        main: gets a copy of `opt` with distributed, global_rank, local_rank, global_size, node_rank and device
            ("cpu", "mps", "cuda:INDEX") set, inside an initialised torch.distributed if there are several ranks.
            A function at the top level of a module, as children find it by its name.

    Returns:
        0, or the code of the child that failed first and has printed why: 2: a UserError, 128 + n: killed by signal n.
        What `main` raises where it runs in this process is raised.
    """
    placement = find_placement(opt, os.environ)
    # When one rank ends early, torch would add a page of C++ frames per rank to the one error that matters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    listener = None
    if placement.distributed and placement.rank == 0 and not placement.is_served:
        listener = _listen(placement)
        placement = dataclasses.replace(placement, address="127.0.0.1", port=listener.getsockname()[1])
    if placement.num_here > 1:
        return _run_children(main, opt, placement, listener)
    _work(main, opt, placement, listener)
    return 0


def _work(main: Main, opt: argparse.Namespace, placement: Placement, listener: socket.socket | None) -> None:
    """Be the rank of this placement; where there is a listener, it serves torch's store to all ranks."""
    with signals_held():
        import torch

        from i2sb.runtime.distributed import process_group

    opt = copy.copy(opt)
    opt.distributed, opt.global_size = placement.distributed, placement.size
    opt.global_rank, opt.local_rank, opt.node_rank = placement.rank, placement.local_rank, placement.node_rank
    opt.device = pick_device(opt.device, placement, opt.gpu)
    if opt.device.startswith("cuda"):
        torch.cuda.set_device(opt.device)
    if not placement.distributed:
        main(opt)
        return
    if "OMP_NUM_THREADS" not in os.environ:  # each rank would take all cores
        torch.set_num_threads(max(1, torch.get_num_threads() // placement.num_on_machine))
    shared = {name: str(value) for name, value in vars(opt).items() if name not in _OF_A_NODE}
    shared["device"] = opt.device.partition(":")[0]
    with process_group(placement, opt.device, listener, shared):
        main(opt)


def _listen(placement: Placement) -> socket.socket:
    """The socket of the store, bound before anyone learns its port; on the loopback where all ranks are ours."""
    everywhere = placement.num_here < placement.size
    dual = everywhere and socket.has_dualstack_ipv6()
    address = ("" if everywhere else "127.0.0.1", placement.port)
    try:
        return socket.create_server(address, family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual)
    except OSError as error:
        raise UserError(
            f"port {placement.port} cannot be opened, perhaps another run or another process with --node-rank 0 uses "
            f"it; choose another with --master-port ({error.strerror})"
        ) from error


# Children


def _claim(failed: Any, code: int, text: str) -> None:
    """Print the first failure among the ranks of this node and keep its exit code in `failed`."""
    with failed.get_lock():
        is_first, failed.value = not failed.value, failed.value or code
    if is_first:
        print(text, file=sys.stderr, flush=True)


def _run_children(main: Main, opt: argparse.Namespace, first: Placement, listener: socket.socket | None) -> int:
    """Run the ranks of this node as children; returns the exit code of all.

    The first that fails ends the run: it prints its error, the others have 5 s to end by themselves, then they are
    killed.  Each signal is passed on once, as children lead process groups of their own; the second SIGINT kills them.
    """
    # Not torch.multiprocessing.start_processes: this process does without torch, whose import takes a second.
    context = multiprocessing.get_context("spawn")
    children: list[Any] = []
    num_interrupts = 0

    def pass_on(number: int, frame: object) -> None:
        nonlocal num_interrupts
        num_interrupts += number == signal.SIGINT
        if num_interrupts == 2:
            _claim(failed, 128 + signal.SIGINT, "interrupted twice: all processes are killed")
        for child in children:
            # Once a rank has failed the others are ending: a training must not begin to agree on a stop.
            if child.exitcode is None and (num_interrupts > 1 or not failed.value):
                os.kill(child.pid, signal.SIGKILL if num_interrupts > 1 else number)

    # Children start with the signals blocked, until they have left our process group and can handle them. So does
    # multiprocessing's resource tracker, as SLURM sends USR1 to all processes; its start unblocks what we had blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        failed = context.Value("i", 0)  # the exit code of the first rank that failed
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise UserError(
            f"no semaphore can be made: {error.strerror}; is /dev/shm full? (docker run --shm-size=8g)"
        ) from error
    with on_signals(pass_on):
        try:
            for index in range(first.num_here):
                own = dataclasses.replace(first, rank=first.rank + index, local_rank=first.local_rank + index)
                work = partial(_work, main, opt, own, listener if index == 0 else None)
                child = context.Process(target=_child, args=(work, own.rank, failed), name=f"rank {own.rank}")
                child.start()
                children.append(child)
            if listener is not None:
                listener.close()  # it is rank 0's now
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _watch(children, failed)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for child in children:
                if child.exitcode != 0:
                    _kill(child)
    return failed.value


def _watch(children: list[Any], failed: Any) -> None:
    """Until all children have ended, or one has failed and the others had their time."""
    deadline = float("inf")
    while True:
        alive = [child for child in children if child.exitcode is None]
        for child in children:
            if code := child.exitcode:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                hint = ": out of memory?" if -code == signal.SIGKILL else ""
                _claim(failed, code if code > 0 else 128 - code, f"{child.name} (process {child.pid}) {how}{hint}")
                _kill(child)
        if failed.value:
            deadline = min(deadline, time.monotonic() + _GRACE)
        if not alive or time.monotonic() > deadline:
            return
        # With a limit: what a dead rank has forked keeps its sentinel open.
        connection.wait([child.sentinel for child in alive], timeout=_POLL)


def _kill(child: Any) -> None:
    """End a child, and what it has forked (a loader's workers, which keep its connections open)."""
    child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _child(work: Callable[[], None], rank: int, failed: Any) -> None:
    """What runs in a spawned process: one rank."""
    os.setpgrp()  # a terminal's Ctrl-C comes once, through the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print_anything()
    code = 0
    try:
        import i2sb.runtime.distributed  # noqa: F401 - torch, before signals can come: see `signals_held`

        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        work()
    except BaseException as error:
        report = short_report(Path(sys.argv[0]).name, error)
        text, code = report or (f"rank {rank} failed:\n{traceback.format_exc().rstrip()}", 1)
        deadline = time.monotonic() + _GRACE
        while isinstance(error, EndedElsewhere) and not failed.value and time.monotonic() < deadline:
            time.sleep(_POLL)  # the other rank, if it is on this node, is about to say why
        _claim(failed, code, text)
    for worker in multiprocessing.active_children():
        worker.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Without tearing Python down, which would abort in threads of torch.distributed that still want it.
    os._exit(code)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.killpg(0, signal.SIGKILL)  # the loader's workers as well


# Placement


def find_placement(opt: argparse.Namespace, environ: Mapping[str, str]) -> Placement:
    """According to the launchers' variables in `environ` and the flags in `opt`; a UserError where they disagree."""

    def number(name: str, default: int) -> int:
        return int(environ.get(name) or default)

    if all(environ.get(name) for name in _TORCHRUN):
        return Placement(
            rank=number("RANK", 0),
            local_rank=number("LOCAL_RANK", 0),
            size=number("WORLD_SIZE", 1),
            node_rank=number("GROUP_RANK", 0),
            num_here=1,
            num_on_machine=number("LOCAL_WORLD_SIZE", 1),
            address=environ["MASTER_ADDR"].strip("[]"),
            port=number("MASTER_PORT", 0),
            is_served=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    num_nodes, per_node, address, port = opt.num_proc_node, opt.n_gpu_per_node, opt.master_address, opt.master_port
    if num_nodes == 1 and opt.node_rank is None and all(environ.get(name) for name in _ONE_PER_NODE):
        opt = argparse.Namespace(**{**vars(opt), "node_rank": number("RANK", 0)})
        num_nodes, address, port = number("WORLD_SIZE", 1), environ["MASTER_ADDR"], number("MASTER_PORT", 0) or port
    # SLURM sets its variables in every shell of a job, also where nothing was started with srun.
    launchers = (*_MPI, _SRUN) if num_nodes > 1 else _MPI
    name, rank, size, local_rank, local_size = next((x for x in launchers if environ.get(x[1])), ("",) * 5)
    node_rank, source = opt.node_rank, f"--node-rank {opt.node_rank}"
    if node_rank is None:
        node_rank, started = number(rank, 0), number(size, num_nodes)
        source = f"{rank}={node_rank} (used as --node-rank)"
        if started != num_nodes:
            raise UserError(
                f"--num-proc-node {num_nodes}: {name} started {started} processes ({size}={started}), there must be "
                "one for each node; make the two agree, or give every process its own --node-rank"
            )
    if not 0 <= node_rank < num_nodes:
        raise UserError(f"{source}: must lie in 0..{num_nodes - 1} for --num-proc-node {num_nodes}")
    # Several launcher processes may share a machine (mpirun -np 2 on one host): the GPUs of one follow another's.
    before = number(local_rank, 0) if num_nodes > 1 else 0
    return Placement(
        rank=node_rank * per_node,
        local_rank=before * per_node,
        size=num_nodes * per_node,
        node_rank=node_rank,
        num_here=per_node,
        num_on_machine=per_node * max(before + 1, number(local_size, 1) if num_nodes > 1 else 1),
        address=address.strip("[]"),
        port=port or (6020 if num_nodes > 1 else 0),
    )


# Device


def pick_device(wanted: str, placement: Placement, gpu: int | None = None) -> str:
    """The device of one rank: "cpu", "mps" or "cuda:INDEX", its local rank or the `gpu` of the only process here.

    wanted: "auto", "cpu", "mps", "cuda", or "cuda:INDEX", which says the same as `gpu`.
    """
    import torch

    wanted, _, index = wanted.partition(":")
    named, gpu = (f"--device cuda:{index}", int(index)) if index else (f"--gpu {gpu}", gpu)

    num_gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available() and not placement.distributed
    if wanted == "auto":
        wanted = "cuda" if num_gpus or gpu is not None else "mps" if mps else "cpu"
    if wanted == "mps" and not mps:
        raise UserError("--device mps: needs an Apple GPU and a single process; use --device cpu or auto")
    if wanted != "cuda":
        return wanted
    index, flag = placement.local_rank, "--device cuda"
    if gpu is not None and placement.num_on_machine == 1:
        index, flag = gpu, named
    elif placement.num_here == num_gpus == 1 and "CUDA_VISIBLE_DEVICES" in os.environ:
        index = 0  # srun and mpirun can show each of their processes its own GPU and nothing else
    if not 0 <= index < num_gpus:
        raise UserError(
            f"{flag}: rank {placement.rank} needs GPU {index}, torch finds {num_gpus} here; start fewer processes per "
            "node (--n-gpu-per-node), or use --device cpu"
        )
    return f"cuda:{index}"


def pick_single_device(wanted: str) -> str:
    """`pick_device` where one process uses a bridge; "cuda:INDEX" is taken as it is."""
    return pick_device(wanted, Placement(0, 0, size=1, node_rank=0, num_here=1, num_on_machine=1, address="", port=0))
