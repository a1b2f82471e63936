"""Runs of `launch_worker.py` for tests: started, waited for with a limit, and swept away."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("launch_worker.py")
BIN = Path(sys.executable).parent
PATIENCE = 60  # seconds; a run takes 3 to 6 on an idle machine

# What a launcher around the tests may have set must not reach the runs.
_FOREIGN = ("OMPI_", "PMIX_", "PMI_", "MV2_", "MPI_", "SLURM_", "PRTE_", "TORCHELASTIC_")
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Run:
    """One command that leads to `launch_worker.py`, in a session of its own; its ranks write into `folder`."""

    def __init__(self, folder: Path, command: list[str], **variables: str):
        self.folder = folder
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN) and name not in _TORCHRUN
        }
        environ |= {"OMP_NUM_THREADS": "1", "I2SB_RENDEZVOUS_SECONDS": "50", **variables}
        environ["PATH"] = f"{BIN}{os.pathsep}{environ['PATH']}"
        self.process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> tuple[int, str]:
        """(exit code, stderr)."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stderr

    def notes(self) -> list[dict]:
        """What the ranks wrote, in the order of the ranks."""
        paths = sorted(self.folder.glob("rank-*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def await_notes(self, number: int) -> list[dict]:
        until(lambda: len(self.notes()) >= number or self.process.poll() is not None)
        notes = self.notes()
        assert len(notes) >= number, self.process.communicate()
        return notes

    def pids(self) -> set[int]:
        return {note[name] for note in self.notes() for name in ("pid", "helper") if name in note}

    def sweep(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pid in filter(is_alive, self.pids()):  # before the pipes are read to their end: these hold them open
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(name="start_run")
def start_run_fixture(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """start_run("--flag", "value", ..., VARIABLE="value"); `via` is the command to put before the worker."""
    runs = []

    def start(*flags: object, via: tuple = (sys.executable,), **variables: str) -> Run:
        command = [*via, str(WORKER), "--folder", str(tmp_path), *map(str, flags)]
        runs.append(Run(tmp_path, command, **variables))
        return runs[-1]

    yield start
    for one in runs:
        one.sweep()


def stand_in_for_ssh(folder: Path) -> Path:
    """A program that Open MPI's mpirun may take for ssh: whatever the node's name is, it is this machine."""
    agent = folder / "agent.sh"
    agent.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    agent.chmod(0o755)
    return agent


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and only not yet collected does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
