"""Where a process stands among all processes of a run: torchrun's, MPI's and SLURM's variables, or the flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from i2sb.errors import UserError

MULTI_NODE_PORT = 6020
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Placement:
    """The processes that one launcher process answers for, and how they find the others.

    Process i of `num_here` has the global rank `first_rank` + i and the local rank `first_local_rank` + i.
    `port` is None where any free port will do: all processes are children of this one.
    """

    num_nodes: int
    node_rank: int
    num_here: int
    first_rank: int
    first_local_rank: int
    global_size: int
    num_on_machine: int  # processes of this run that share the cores, other launcher processes' included
    address: str
    port: int | None
    port_is_served: bool = False  # torchrun's agent keeps the rendezvous itself
    attempt: str = "0"  # torchrun restarts workers against the same rendezvous
    by_torchrun: bool = False

    @property
    def distributed(self) -> bool:
        return self.global_size > 1


@dataclass(frozen=True)
class _Launcher:
    """The variables that a launcher sets for each process it starts; empty where it has none."""

    name: str
    rank: str
    size: str = ""
    local_rank: str = ""
    local_size: str = ""


_OPEN_MPI = _Launcher(
    "mpirun (Open MPI)", *(f"OMPI_COMM_WORLD_{x}" for x in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
)
_PMIX = _Launcher("the PMIx launcher", "PMIX_RANK")
_HYDRA = _Launcher("mpirun (MPICH, Intel MPI)", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_MVAPICH = _Launcher(
    "mpirun (MVAPICH2)", *(f"MV2_COMM_WORLD_{x}" for x in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
)
_SLURM_TASKS = _Launcher("srun (SLURM)", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
_SLURM_NODES = _Launcher("SLURM", "SLURM_NODEID", "SLURM_NNODES")
_MPI = (_OPEN_MPI, _PMIX, _HYDRA, _MVAPICH)


def find_placement(opt: argparse.Namespace, environ: Mapping[str, str], say: Callable[[str], object]) -> Placement:
    """The placement that `environ` and the flags in `opt` tell of; `say` is given what a person should know.

    Raises:
        UserError: a flag or a variable has a value that cannot be, or the two disagree.
    """
    for flag, value in (
        ("--n-gpu-per-node", opt.n_gpu_per_node),
        ("--num-proc-node", opt.num_proc_node),
    ):
        if value < 1:
            raise UserError(f"{flag} {value}: must be at least 1")
    if opt.master_port is not None and not 1 <= opt.master_port <= 65535:
        raise UserError(f"--master-port {opt.master_port}: must lie in 1..65535")
    if all(environ.get(name) for name in _TORCHRUN):
        return _from_torchrun(opt, environ, say)
    return _from_flags(opt, environ)


def _from_torchrun(opt: argparse.Namespace, environ: Mapping[str, str], say: Callable) -> Placement:
    rank, size, local_rank, port = (
        _number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    )
    if not 0 <= rank < size:
        raise UserError(f"RANK={rank}: must lie in 0..{size - 1} for WORLD_SIZE={size}")
    local_size = _number(environ, "LOCAL_WORLD_SIZE", default=local_rank + 1)
    given = opt.num_proc_node * opt.n_gpu_per_node
    if local_rank == 0 and given > 1 and (given != size or opt.n_gpu_per_node != local_size):
        say(
            f"torchrun started {size} processes, {local_size} of them on this node: --n-gpu-per-node "
            f"{opt.n_gpu_per_node} and --num-proc-node {opt.num_proc_node} say otherwise and are not used"
        )
    return Placement(
        num_nodes=_number(environ, "GROUP_WORLD_SIZE", default=-(-size // local_size)),
        node_rank=_number(environ, "GROUP_RANK", default=rank // local_size),
        num_here=1,
        first_rank=rank,
        first_local_rank=local_rank,
        global_size=size,
        num_on_machine=local_size,
        address=environ["MASTER_ADDR"],
        port=port,
        port_is_served=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
        by_torchrun=True,
    )


def _from_flags(opt: argparse.Namespace, environ: Mapping[str, str]) -> Placement:
    num_nodes, per_node = opt.num_proc_node, opt.n_gpu_per_node
    node_rank = _node_rank(opt, environ)
    # Several launcher processes may share a machine (mpirun -np 2 on one host): their GPUs follow on another.
    local_launcher, num_launchers = _local_launcher(num_nodes, environ)
    port = opt.master_port or (MULTI_NODE_PORT if num_nodes > 1 else None)
    return Placement(
        num_nodes=num_nodes,
        node_rank=node_rank,
        num_here=per_node,
        first_rank=node_rank * per_node,
        first_local_rank=local_launcher * per_node,
        global_size=num_nodes * per_node,
        num_on_machine=num_launchers * per_node,
        address=opt.master_address,
        port=port,
    )


def _node_rank(opt: argparse.Namespace, environ: Mapping[str, str]) -> int:
    if opt.node_rank is not None:
        return _checked_rank(opt.node_rank, f"--node-rank {opt.node_rank}", opt.num_proc_node)
    launcher = _launcher(opt.num_proc_node, environ)
    if launcher is None:
        return 0
    if launcher.size in environ:
        size = _number(environ, launcher.size)
        if size != opt.num_proc_node:
            raise UserError(
                f"--num-proc-node {opt.num_proc_node}: {launcher.name} started {size} processes "
                f"({launcher.size}={size}), there must be one for each node; make the two agree, "
                "or give every process its own --node-rank"
            )
    rank = _number(environ, launcher.rank)
    return _checked_rank(rank, f"{launcher.rank}={rank} (used as --node-rank)", opt.num_proc_node)


def _checked_rank(rank: int, told: str, num_nodes: int) -> int:
    if not 0 <= rank < num_nodes:
        raise UserError(f"{told}: must lie in 0..{num_nodes - 1} for --num-proc-node {num_nodes}")
    return rank


def _launcher(num_nodes: int, environ: Mapping[str, str]) -> _Launcher | None:
    for launcher in _MPI:
        if environ.get(launcher.rank):
            return launcher
    # SLURM sets its variables in every shell of a job, also where nothing was started with srun.
    if num_nodes > 1 and environ.get("SLURM_PROCID"):
        tasks_are_nodes = environ.get("SLURM_NNODES") == str(num_nodes) != environ.get("SLURM_NTASKS")
        return _SLURM_NODES if tasks_are_nodes and environ.get("SLURM_NODEID") else _SLURM_TASKS
    return None


def _local_launcher(num_nodes: int, environ: Mapping[str, str]) -> tuple[int, int]:
    """(number of this launcher process on its machine, how many there are where that is known)."""
    if num_nodes > 1:
        for launcher in (_OPEN_MPI, _HYDRA, _MVAPICH, _SLURM_TASKS):
            if environ.get(launcher.local_rank):
                number = _number(environ, launcher.local_rank)
                return number, max(number + 1, _number(environ, launcher.local_size, default=1))
    return 0, 1


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise UserError(f"{name}={text!r}: this variable of the launcher must be a whole number")
    return int(text)
