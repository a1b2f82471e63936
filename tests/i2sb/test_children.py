"""How child processes end together; without torch, so that each run takes a second or less."""

import os
import signal
import sys
import time

import pytest
from launching import children_of, is_alive, start_run_fixture, until  # noqa: F401

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
TWO = ("--without-torch", "--n-gpu-per-node", 2, "--do")


def test_child_that_raises_is_told_once(start_run) -> None:
    code, stderr = start_run(*TWO, "raise").wait()
    assert code == 1
    assert stderr.startswith("rank 1 failed:\nTraceback")
    assert stderr.endswith("ZeroDivisionError: told once\n")
    assert stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    ("do", "line"),
    [("user-error", "launch_worker.py: error: --lr -1: must be above 0\n"), ("exit", "nothing to do\n")],
)
def test_child_that_ends_with_one_line(start_run, do: str, line: str) -> None:
    assert start_run(*TWO, do).wait() == (2, line)


def test_killed_child_ends_the_run_and_its_helpers(start_run) -> None:
    one = start_run(*TWO, "helper")
    victim = one.await_notes(2)[1]["pid"]
    start = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    code, stderr = one.wait()
    assert time.monotonic() - start < 8  # rank 0, deaf to SIGTERM, has 1 + 3 seconds
    assert (code, stderr) == (137, f"rank 1 (process {victim}) was ended by SIGKILL: out of memory?\n")
    assert len(one.pids()) == 4
    until(lambda: not any(map(is_alive, one.pids())), 5)


def test_killed_parent_leaves_nobody(start_run) -> None:
    one = start_run(*TWO, "helper")
    one.await_notes(2)
    one.process.kill()
    assert len(one.pids()) == 4
    until(lambda: not any(map(is_alive, one.pids())), 5)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signal_is_passed_on_once(start_run, name: str) -> None:
    """SIGINT goes to the whole process group, as from a terminal."""
    one = start_run(*TWO, "count-signals")
    one.await_notes(2)
    send = os.killpg if name == "SIGINT" else os.kill
    send(one.process.pid, getattr(signal, name))
    assert one.wait() == (0, "")
    assert [note["names"] for note in one.notes() if "names" in note] == [[name], [name]]


@linux
def test_signal_that_nobody_handles(start_run) -> None:
    """It comes while the children are starting, or after: the code is the signal's, and one line says so."""
    one = start_run(*TWO, "sleep")
    until(lambda: len(children_of(one.process.pid)) > 2)  # two ranks and multiprocessing's resource tracker
    one.process.terminate()
    code, stderr = one.wait()
    assert code == 143
    assert stderr.count("\n") == 1
    assert "was ended by SIGTERM" in stderr


def test_second_interrupt_kills(start_run) -> None:
    one = start_run(*TWO, "ignore-signals")
    one.await_notes(2)
    os.kill(one.process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert one.process.poll() is None
    start = time.monotonic()
    os.kill(one.process.pid, signal.SIGINT)
    assert one.wait() == (130, "interrupted twice: all processes were killed\n")
    assert time.monotonic() - start < 5
