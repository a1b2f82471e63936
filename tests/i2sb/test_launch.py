"""`launch` with real processes: in place, own children, torchrun, Open MPI's mpirun; and how runs end."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from launch_worker import main, parse
from launching import BIN, free_port, start_run_fixture, until  # noqa: F401

from i2sb.errors import UserError
from i2sb.runtime.launch import launch

ROOT = Path(__file__).resolve().parents[2]
TWO = ("--n-gpu-per-node", 2)


def test_importing_launch_does_not_import_torch() -> None:
    code = "import sys, i2sb.runtime.launch; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "False\n"


def test_one_process_works_in_place() -> None:
    seen = []
    assert launch(parse([]), seen.append) == 0
    (opt,) = seen
    assert (opt.global_rank, opt.global_size, opt.distributed, opt.device) == (0, 1, False, "cpu")


def test_torchrun(start_run) -> None:
    """As it comes: rank 0 serves the store. With --standalone, its agent does: tests/training/test_communication.py.

    README's own command for mpirun is run there as well.
    """
    torchrun = (str(BIN / "torchrun"), "--master-port", str(free_port()), "--nproc-per-node", "2")
    one = start_run("--n-gpu-per-node", 4, via=torchrun)
    code, stderr = one.wait()
    assert code == 0, stderr
    found = [(note["rank"], note["local_rank"], note["global_size"], note["mean"]) for note in one.notes()]
    assert found == [(0, 0, 2, [1.5, 3.0]), (1, 1, 2, [1.5, 3.0])]


# Ranks that do not come together; as a user's launch would raise it, in this process


def refusal(*flags: object) -> str:
    with pytest.raises(UserError) as error:
        launch(parse([*map(str, flags)]), main)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("flags", [TWO, ("--num-proc-node", 2)])
def test_port_in_use(flags: tuple) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = refusal(*flags, "--master-port", port)
    assert text.startswith(f"port {port} cannot be opened, perhaps another run")
    assert "--master-port" in text


@pytest.mark.parametrize(
    ("node_rank", "address", "state"),
    [
        (0, "localhost", "1 of 2 ranks have come"),
        (1, "no-such-host.invalid", "nobody answers there"),
    ],
)
def test_a_node_does_not_come(monkeypatch, node_rank: int, address: str, state: str) -> None:
    monkeypatch.setenv("I2SB_RENDEZVOUS_SECONDS", "0.5")
    place = ("--num-proc-node", 2, "--node-rank", node_rank, "--master-address", address)
    text = refusal(*place, "--master-port", free_port())
    for words in (f"rank {node_rank} waited 0.5 s (I2SB_RENDEZVOUS_SECONDS)", state, "--master-address"):
        assert words in text


def test_ctrl_c_ends_the_waiting() -> None:
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        launch(parse(["--num-proc-node", "2", "--node-rank", "1", "--master-port", str(free_port())]), main)
    timer.join()


@pytest.mark.parametrize("nodes", [[(2, 0), (3, 1)], [(3, 0), (3, 1), (3, 1)]])
def test_nodes_that_contradict_each_other(start_run, nodes: list) -> None:
    port = free_port()
    runs = [start_run("--num-proc-node", n, "--node-rank", rank, "--master-port", port) for n, rank in nodes]
    for one in runs:
        code, stderr = one.wait()
        assert code == 2
        assert stderr.startswith("launch_worker.py: error: rank ")
        assert stderr.endswith(": give every node the same flags and its own --node-rank\n")
        assert stderr.count("\n") == 1


# How runs end


def test_an_error_of_all_ranks_is_printed_once(start_run) -> None:
    assert start_run(*TWO, "--do", "user-error").wait() == (2, "launch_worker.py: error: --lr -1: must be above 0\n")


@pytest.mark.parametrize(("do", "culprit"), [("raise", 1), ("first-fails", 0)])
def test_a_rank_that_raises_ends_the_run(start_run, do: str, culprit: int) -> None:
    one = start_run(*TWO, "--do", do)
    code, stderr = one.wait()
    assert code == 1
    assert stderr.startswith(f"rank {culprit} failed:\nTraceback")
    assert stderr.endswith(f"ZeroDivisionError: rank {culprit}\n")
    assert stderr.count("Traceback") == 1
    assert not one.alive()


def test_a_killed_rank_ends_the_run(start_run) -> None:
    one = start_run(*TWO, "--do", "collective")
    victim = one.await_notes(3)[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    assert one.wait() == (137, f"rank 1 (process {victim}) was ended by SIGKILL: out of memory?\n")
    until(lambda: not one.alive())


def test_a_rank_killed_on_another_node(start_run) -> None:
    place = ("--do", "collective", "--num-proc-node", 2, "--master-port", free_port(), "--node-rank")
    mine, other = start_run(*place, 0), start_run(*place, 1)
    mine.await_notes(2)
    other.process.kill()
    code, stderr = mine.wait()
    assert code == 1
    assert stderr.startswith("launch_worker.py: error: another rank has ended, or the network to it")
    assert stderr.count("\n") == 1


def test_a_killed_parent_leaves_nobody(start_run) -> None:
    one = start_run(*TWO, "--do", "collective")
    one.await_notes(3)
    one.process.kill()
    until(lambda: not one.alive(), 20)


def test_signals_reach_all_ranks_once_and_the_second_interrupt_kills(start_run) -> None:
    """SIGINT goes to the whole process group, as from a terminal."""
    one = start_run(*TWO, "--do", "count-signals")
    one.await_notes(2)
    os.killpg(one.process.pid, signal.SIGINT)
    one.await_notes(4)
    one.process.send_signal(signal.SIGUSR1)
    one.await_notes(6)
    last = {note["rank"]: note["names"] for note in one.notes() if "names" in note}
    assert last == {rank: ["SIGINT", "SIGUSR1"] for rank in (0, 1)}
    one.process.send_signal(signal.SIGINT)
    assert one.wait() == (130, "interrupted twice: all processes are killed\n")
    assert not one.alive()


@pytest.mark.parametrize(
    ("name", "code", "line"), [("SIGINT", 130, "launch_worker.py: interrupted"), ("SIGTERM", 143, "ended by SIGTERM")]
)
def test_a_signal_while_the_ranks_start(start_run, name: str, code: int, line: str) -> None:
    one = start_run(*TWO, "--do", "sleep")
    children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children")
    until(lambda: len(children.read_text().split()) > 2)  # two ranks and multiprocessing's resource tracker
    os.killpg(one.process.pid, getattr(signal, name))
    ended, stderr = one.wait()
    assert (ended, stderr.count("\n")) == (code, 1)
    assert line in stderr
