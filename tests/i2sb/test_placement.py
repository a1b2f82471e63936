"""Ranks and devices from flags and variables, as the launchers' manuals give them; no process is started."""

import argparse

import pytest

from i2sb.errors import UserError
from i2sb.runtime.devices import pick_device
from i2sb.runtime.placement import Placement, find_placement


def place(environ: dict | None = None, **flags: object) -> Placement:
    return _place(environ, [], **flags)


def _place(environ: dict | None, said: list, **flags: object) -> Placement:
    opt = argparse.Namespace(
        n_gpu_per_node=1, num_proc_node=1, node_rank=None, master_address="localhost", master_port=None
    )
    vars(opt).update(flags)
    return find_placement(opt, {name: str(value) for name, value in (environ or {}).items()}, said.append)


def ranks(placement: Placement) -> list[tuple[int, int]]:
    """(global rank, local rank) of the processes that this launcher answers for."""
    return [(placement.first_rank + i, placement.first_local_rank + i) for i in range(placement.num_here)]


def test_rank_is_node_rank_times_gpus_plus_local() -> None:
    placement = place(num_proc_node=3, n_gpu_per_node=4, node_rank=2)
    assert ranks(placement) == [(8, 0), (9, 1), (10, 2), (11, 3)]
    assert placement.global_size == 12
    assert placement.port == 6020  # no node could tell the others of a free one


def test_two_nodes_with_one_gpu_each_are_distributed() -> None:
    assert place(num_proc_node=2, node_rank=1).distributed
    assert not place().distributed


def test_port_given_is_kept_and_one_node_needs_none() -> None:
    assert place(num_proc_node=2, master_port=7000).port == 7000
    assert place(n_gpu_per_node=2, master_port=7000).port == 7000
    assert place(n_gpu_per_node=2).port is None


def open_mpi(rank: int, size: int, local: int = 0, local_size: int = 1) -> dict:
    values = {"RANK": rank, "SIZE": size, "LOCAL_RANK": local, "LOCAL_SIZE": local_size}
    return {f"OMPI_COMM_WORLD_{name}": value for name, value in values.items()}


MPICH = {"PMI_RANK": 1, "PMI_SIZE": 2, "MPI_LOCALRANKID": 1, "MPI_LOCALNRANKS": 2}
MVAPICH = {"MV2_COMM_WORLD_RANK": 1, "MV2_COMM_WORLD_SIZE": 2}
SRUN = {"SLURM_PROCID": 1, "SLURM_NODEID": 1, "SLURM_NTASKS": 2, "SLURM_NNODES": 2, "SLURM_LOCALID": 0}
SRUN_ONE_NODE = {"SLURM_PROCID": 1, "SLURM_NODEID": 0, "SLURM_NTASKS": 2, "SLURM_NNODES": 1, "SLURM_LOCALID": 1}
SSH_IN_JOB = {"SLURM_PROCID": 0, "SLURM_NODEID": 1, "SLURM_NTASKS": 16, "SLURM_NNODES": 2, "SLURM_LOCALID": 0}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, (0, 0), id="none"),
        pytest.param(open_mpi(1, 2), (1, 0), id="openmpi"),
        pytest.param(open_mpi(1, 2, local=1, local_size=2), (1, 1), id="openmpi-one-host"),
        pytest.param({"PMIX_RANK": 1}, (1, 0), id="pmix"),
        pytest.param(MPICH, (1, 1), id="mpich-one-host"),
        pytest.param(MVAPICH, (1, 0), id="mvapich"),
        pytest.param(SRUN, (1, 0), id="srun"),
        pytest.param(SRUN_ONE_NODE, (1, 1), id="srun-one-host"),
        pytest.param(SSH_IN_JOB, (1, 0), id="slurm-node"),
        pytest.param({**SRUN, **open_mpi(0, 2)}, (0, 0), id="mpirun-in-slurm"),
    ],
)
def test_node_rank_from_launchers(environ: dict, expected: tuple) -> None:
    assert ranks(place(environ, num_proc_node=2)) == [expected]


def test_node_rank_flag_beats_launchers() -> None:
    assert place(open_mpi(3, 4), num_proc_node=2, node_rank=1).node_rank == 1


def test_slurm_job_shell_is_one_process() -> None:
    """A batch script of a job with 8 tasks that calls Python without srun."""
    assert not place({"SLURM_PROCID": 0, "SLURM_NTASKS": 8, "SLURM_NNODES": 1}).distributed


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        (open_mpi(0, 2), {"num_proc_node": 3}, ["--num-proc-node 3", "OMPI_COMM_WORLD_SIZE=2"]),
        (open_mpi(0, 2), {}, ["--num-proc-node 1", "OMPI_COMM_WORLD_SIZE=2"]),
        ({**SRUN, "SLURM_NTASKS": 16}, {"num_proc_node": 4}, ["--num-proc-node 4", "SLURM_NTASKS=16"]),
        ({}, {"num_proc_node": 2, "node_rank": 2}, ["--node-rank 2", "0..1"]),
        ({}, {"num_proc_node": 2, "node_rank": -1}, ["--node-rank -1", "0..1"]),
        ({"PMIX_RANK": 5}, {"num_proc_node": 2}, ["PMIX_RANK=5", "0..1"]),
        ({"PMI_RANK": "x"}, {"num_proc_node": 2}, ["PMI_RANK='x'"]),
        ({}, {"n_gpu_per_node": 0}, ["--n-gpu-per-node 0"]),
        ({}, {"num_proc_node": 0}, ["--num-proc-node 0"]),
        ({}, {"master_port": 70000}, ["--master-port 70000", "1..65535"]),
    ],
)
def test_wrong_values_are_named(environ: dict, flags: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        place(environ, **flags)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


TORCHRUN = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "MASTER_ADDR": "head", "MASTER_PORT": 29500}


def test_torchrun_wins_and_says_so() -> None:
    environ = {**TORCHRUN, "RANK": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4, "GROUP_RANK": 1, **open_mpi(0, 2)}
    said: list[str] = []
    placement = _place(environ, said, n_gpu_per_node=2, node_rank=0, master_port=1)
    assert ranks(placement) == [(4, 0)]
    assert (placement.global_size, placement.node_rank) == (8, 1)
    assert (placement.address, placement.port) == ("head", 29500)
    assert len(said) == 1
    assert "--n-gpu-per-node 2" in said[0]
    _place(environ, said, n_gpu_per_node=4, num_proc_node=2)  # agrees
    assert len(said) == 1


def test_part_of_torchruns_variables_is_not_torchrun() -> None:
    environ = {name: value for name, value in TORCHRUN.items() if name != "LOCAL_RANK"}
    assert not place(environ).distributed


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """gpus(n): as on a machine with n GPUs."""
    import torch

    def install(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return install


@pytest.mark.parametrize(
    ("num_gpus", "wanted", "flags", "local_rank", "gpu", "expected"),
    [
        (0, "auto", {}, 0, None, "cpu"),
        (0, "auto", {"n_gpu_per_node": 2}, 1, None, "cpu"),
        (2, "auto", {}, 0, None, "cuda:0"),
        (2, "auto", {}, 0, 1, "cuda:1"),
        (2, "cpu", {"n_gpu_per_node": 4}, 3, None, "cpu"),
        (2, "cuda", {"n_gpu_per_node": 2}, 1, None, "cuda:1"),
        (2, "cuda", {"num_proc_node": 2}, 1, None, "cuda:1"),  # two launcher processes on one host
    ],
)
def test_device(gpus, num_gpus, wanted, flags, local_rank, gpu, expected) -> None:
    gpus(num_gpus)
    assert pick_device(wanted, place(**flags), local_rank, gpu) == expected


@pytest.mark.parametrize(
    ("num_gpus", "wanted", "flags", "local_rank", "gpu", "words"),
    [
        (2, "auto", {"n_gpu_per_node": 4}, 0, None, ["--n-gpu-per-node 4", "2 GPUs"]),
        (1, "cuda", {"n_gpu_per_node": 2}, 1, None, ["--n-gpu-per-node 2", "1 GPU "]),
        (0, "cuda", {}, 0, None, ["--device cuda", "no GPU"]),
        (2, "auto", {}, 0, 2, ["--gpu 2", "2 GPUs", "0..1"]),
        (2, "auto", {}, 0, -1, ["--gpu -1", "0..1"]),
        (0, "auto", {}, 0, 0, ["--gpu 0", "no GPU"]),
        (2, "cuda", {"num_proc_node": 3}, 2, None, ["local rank 2", "2 GPUs"]),
        (0, "mps", {}, 0, None, ["--device mps"]),
        (0, "tpu", {}, 0, None, ["--device tpu", "auto, cuda, mps, cpu"]),
    ],
)
def test_device_that_is_not_there(gpus, num_gpus, wanted, flags, local_rank, gpu, words, monkeypatch) -> None:
    gpus(num_gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(UserError) as error:
        pick_device(wanted, place(**flags), local_rank, gpu)
    for word in words:
        assert word in str(error.value)
