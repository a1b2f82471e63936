"""Ranks and devices from flags and variables, as the launchers' manuals give them; no process is started."""

import argparse
from dataclasses import replace

import pytest
import torch

from i2sb.errors import UserError
from i2sb.runtime.launch import Placement, find_placement, pick_device


def place(environ: dict | None = None, **flags: object) -> Placement:
    defaults = {"n_gpu_per_node": 1, "num_proc_node": 1, "node_rank": None}
    opt = argparse.Namespace(**{**defaults, "master_address": "localhost", "master_port": None, **flags})
    return find_placement(opt, {name: str(value) for name, value in (environ or {}).items()})


def test_rank_is_node_rank_times_gpus_plus_local() -> None:
    placement = place(num_proc_node=3, n_gpu_per_node=4, node_rank=2)
    assert (placement.rank, placement.local_rank, placement.num_here, placement.size) == (8, 0, 4, 12)
    assert (placement.address, placement.port) == ("localhost", 6020)  # no node could tell the others of a free port
    assert place(num_proc_node=2, node_rank=1).distributed


def test_port_given_is_kept_and_one_node_needs_none() -> None:
    assert place(num_proc_node=2, master_port=7000).port == 7000
    assert place(n_gpu_per_node=2, master_port=7000).port == 7000
    assert place(n_gpu_per_node=2).port == 0  # any free one


def open_mpi(rank: int, size: int, local: int = 0, local_size: int = 1) -> dict:
    values = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local, "LOCAL_SIZE": local_size}
    return {f"OMPI_COMM_WORLD_{name}": value for name, value in values.items()}


MPICH = {"PMI_RANK": 1, "PMI_SIZE": 2, "MPI_LOCALRANKID": 1, "MPI_LOCALNRANKS": 2}
SRUN = {"SLURM_PROCID": 1, "SLURM_NODEID": 1, "SLURM_NTASKS": 2, "SLURM_NNODES": 2, "SLURM_LOCALID": 0}
SRUN_ONE_NODE = {**SRUN, "SLURM_NODEID": 0, "SLURM_NNODES": 1, "SLURM_LOCALID": 1}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, (0, 0), id="none"),
        pytest.param(open_mpi(1, 2), (1, 0), id="openmpi"),
        pytest.param(open_mpi(1, 2, local=1, local_size=2), (1, 1), id="openmpi-one-host"),
        pytest.param({"PMIX_RANK": 1}, (1, 0), id="pmix"),
        pytest.param(MPICH, (1, 1), id="mpich-one-host"),
        pytest.param(SRUN, (1, 0), id="srun"),
        pytest.param(SRUN_ONE_NODE, (1, 1), id="srun-one-host"),
        pytest.param({**SRUN, **open_mpi(0, 2)}, (0, 0), id="mpirun-in-slurm"),
    ],
)
def test_node_rank_from_launchers(environ: dict, expected: tuple) -> None:
    placement = place(environ, num_proc_node=2)
    assert (placement.rank, placement.local_rank) == expected


def test_the_flag_beats_launchers_and_the_shell_of_a_slurm_job_is_one_process() -> None:
    assert place(open_mpi(3, 4), num_proc_node=2, node_rank=1).node_rank == 1
    assert not place({"SLURM_PROCID": 0, "SLURM_NTASKS": 8, "SLURM_NNODES": 1}).distributed


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        (open_mpi(0, 2), {"num_proc_node": 3}, ["--num-proc-node 3", "OMPI_COMM_WORLD_SIZE=2"]),
        (open_mpi(0, 2), {}, ["--num-proc-node 1", "OMPI_COMM_WORLD_SIZE=2"]),
        ({**SRUN, "SLURM_NTASKS": 16}, {"num_proc_node": 4}, ["--num-proc-node 4", "SLURM_NTASKS=16"]),
        ({}, {"num_proc_node": 2, "node_rank": 2}, ["--node-rank 2", "0..1"]),
        ({"PMIX_RANK": 5}, {"num_proc_node": 2}, ["PMIX_RANK=5", "0..1"]),
    ],
)
def test_wrong_values_are_named(environ: dict, flags: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        place(environ, **flags)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


TORCHRUN = {"RANK": 4, "WORLD_SIZE": 8, "LOCAL_RANK": 0, "MASTER_ADDR": "head", "MASTER_PORT": 29500}


def test_torchrun_wins() -> None:
    environ = {**TORCHRUN, "LOCAL_WORLD_SIZE": 4, "GROUP_RANK": 1, **open_mpi(0, 2)}
    placement = place(environ, n_gpu_per_node=2, node_rank=0, master_port=1)
    assert (placement.rank, placement.local_rank, placement.size, placement.node_rank) == (4, 0, 8, 1)
    assert (placement.num_here, placement.address, placement.port) == (1, "head", 29500)
    del environ["LOCAL_RANK"]  # one launcher per node
    placement = place(environ, n_gpu_per_node=2)
    assert (placement.rank, placement.local_rank, placement.size, placement.num_here) == (8, 0, 16, 2)
    assert (placement.address, placement.port) == ("head", 29500)
    per_gpu = {name: environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")} | {**SRUN, "SLURM_LOCALID": 3}
    assert (place(per_gpu).rank, place(per_gpu).local_rank, place(per_gpu).size) == (4, 3, 8)
    assert place(num_proc_node=2, node_rank=0, master_address="[::1]").address == "::1"
    # a part of its variables is none
    assert not place({name: environ[name] for name in ("RANK", "WORLD_SIZE")}).distributed


@pytest.mark.parametrize(
    ("num_gpus", "wanted", "flags", "local_rank", "gpu", "expected"),
    [
        (0, "auto", {}, 0, None, "cpu"),
        (0, "auto", {"n_gpu_per_node": 2}, 1, None, "cpu"),
        (2, "auto", {}, 0, None, "cuda:0"),
        (2, "auto", {}, 0, 1, "cuda:1"),
        (2, "cpu", {"n_gpu_per_node": 4}, 3, None, "cpu"),
        (2, "cuda", {"n_gpu_per_node": 2}, 1, 0, "cuda:1"),
        (2, "cuda", {"num_proc_node": 2}, 1, None, "cuda:1"),  # two launcher processes on one host
        (2, "auto", {"n_gpu_per_node": 4}, 3, None, ["rank 3 needs GPU 3", "finds 2", "--n-gpu-per-node"]),
        (0, "cuda", {}, 0, None, ["--device cuda", "finds 0"]),
        (2, "auto", {}, 0, 2, ["--gpu 2", "finds 2"]),
        (2, "cuda:1", {}, 0, None, "cuda:1"),
        (2, "cuda:2", {}, 0, None, ["--device cuda:2", "finds 2"]),
        (0, "auto", {}, 0, 0, ["--gpu 0", "finds 0"]),
        (0, "mps", {}, 0, None, ["--device mps"]),
    ],
)
def test_device(monkeypatch, num_gpus, wanted, flags, local_rank, gpu, expected) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    placement = place(**flags)
    placement = replace(placement, rank=placement.rank + local_rank, local_rank=local_rank)
    if isinstance(expected, str):
        assert pick_device(wanted, placement, gpu) == expected
        return
    with pytest.raises(UserError) as error:
        pick_device(wanted, placement, gpu)
    assert all(word in str(error.value) for word in expected)
