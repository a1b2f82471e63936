"""Scripts in forks of one process that has all libraries: a start costs nothing, so that tests can try many."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import ROOT, free_port, is_alive, until

SERVER = """
import contextlib, ctypes, importlib, json, os, resource, signal, subprocess, sys, traceback
sys.path[:0] = [sys.argv[1] + part for part in ("", "/scripts", "/tests", "/tests/training")]
import sample, train
import dataset.imagenet, i2sb.restore, i2sb.runner, torch.distributed, torch.utils.data
JUDGING = "scipy.stats", "torchmetrics", "evaluation.judge", "evaluation.report"
SWEEPING = *JUDGING, "matplotlib.figure", "evaluation.sweep"
LIBRARIES = {"compute_metrices": JUDGING, "report": JUDGING, "sweep_nfe": SWEEPING}
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody else waits for the children
def unshared(command):
    assert ctypes.CDLL(None, use_errno=True).unshare(0x20000) == 0, "unshare"
    subprocess.run(["bash", "-c", f"mount --make-rprivate / && {command}"], check=True)
    os.chdir(os.getcwd())
def inside(pid):
    setns = ctypes.CDLL(None, use_errno=True).setns
    assert setns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), 0x40000000) == 0, "setns"
def limited(mib):
    size = 4096 * int(open("/proc/self/statm").read().split()[0]) + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
for line in sys.stdin:
    script, argv, folder, said, before = json.loads(line)
    for name in (script, *LIBRARIES.get(script, ())):
        importlib.import_module(name)
    if (pid := os.fork()) == 0:
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.chdir(folder)
            for number, path, how in ((0, os.devnull, os.O_RDONLY), (1, said, os.O_WRONLY), (2, said, os.O_WRONLY)):
                os.dup2(os.open(path, how | os.O_APPEND), number)
            sys.argv[0] = script + ".py"
            exec(before)
            code = sys.modules[script].main(argv)
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(AttributeError, OSError):
            sys.stdout.flush()
        sys.stderr.write(f"exit code {code}\\n")
        os._exit(code)
    print(pid, flush=True)
"""


# What a launcher around the tests may have set must not reach the runs.
FOREIGN = ("OMPI_", "PMIX_", "PMI_", "MPI_", "SLURM_", "PRTE_", "TORCHELASTIC_")
FOREIGN += ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Child:
    """A script that runs in a fork; `pid` leads a session of its own."""

    def __init__(self, pid: int, said: Path):
        self.pid, self._said = pid, said

    def said(self) -> str:
        return self._said.read_text()

    def until(self, words: str) -> None:
        """Wait until it has said so, or has ended."""
        until(lambda: words in self.said() or not is_alive(self.pid))

    def kill(self, number: int, seconds: float = 0) -> bool:
        """Send a signal after some time; False where it had ended before."""
        time.sleep(seconds)
        if not is_alive(self.pid):
            return False
        os.kill(self.pid, number)
        return True

    def wait(self) -> tuple[int, str]:
        """(exit code, last line); without one where it was killed."""
        until(lambda: not is_alive(self.pid), 900)
        lines = self.said().splitlines() or [""]
        if not lines[-1].startswith("exit code "):
            return -1, lines[-1]
        return int(lines[-1].split()[-1]), (lines[-2] if len(lines) > 1 else "")

    def left(self) -> list[int]:
        """The processes of its session that run: ranks, loaders, itself."""
        found = {self.pid}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if path.read_text().rpartition(")")[2].split()[3] == str(self.pid):
                    found.add(int(path.parent.name))
        return [*filter(is_alive, found)]


@pytest.fixture(scope="session", name="server")
def server_fixture(tmp_path_factory) -> Iterator[Callable[..., Child]]:
    """server("train", argv, before="code that the fork runs first") -> Child, in the current folder."""
    folder, numbers = tmp_path_factory.mktemp("said"), itertools.count()
    command = [sys.executable, "-c", SERVER, str(ROOT)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)

    def start(script: str, argv: list, before: str = "") -> Child:
        said = folder / str(next(numbers))
        said.touch()
        process.stdin.write(json.dumps([script, [*map(str, argv)], str(Path.cwd()), str(said), before]) + "\n")
        process.stdin.flush()
        return Child(int(process.stdout.readline()), said)

    yield start
    process.kill()
    process.communicate()


@pytest.fixture(name="warm")
def warm_fixture(server) -> Iterator[Callable[..., Child]]:
    """As `server`; no test leaves behind what it has started."""
    children = []

    def start(*args: object) -> Child:
        children.append(server(*args))
        return children[-1]

    yield start
    for child in children:
        for pid in child.left():
            os.kill(pid, signal.SIGKILL)


def two_ranks(warm, script: str, argv: list, before: str = "") -> list[Child]:
    """Both ranks of a run, as torchrun would start them; `before` runs first in each, with its RANK set."""
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = ({**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1))
    return [warm(script, argv, f"os.environ.update({place})\n{before}") for place in places]


def both_end_well(*ranks: Child) -> None:
    assert [rank.wait()[0] for rank in ranks] == [0, 0], "\n".join(rank.said()[-3000:] for rank in ranks)
