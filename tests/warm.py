"""Scripts in forks of one process that has all libraries: a start costs nothing, so that long tests can try many."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import ROOT, is_alive, until

SERVER = """
import ctypes, json, os, resource, signal, subprocess, sys, traceback
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/scripts"]
import build_lmdb, compute_metrices, report, sample, sweep_nfe, train
import dataset.imagenet, evaluation.judge, evaluation.report, evaluation.sweep, i2sb.restore, i2sb.runner
import matplotlib.figure, scipy.stats, torchmetrics, torch.utils.data
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody else waits for the children
def unshared(command):
    assert ctypes.CDLL(None, use_errno=True).unshare(0x20000) == 0, "unshare"
    subprocess.run(["bash", "-c", f"mount --make-rprivate / && {command}"], check=True)
    os.chdir(os.getcwd())
def limited(mib):
    size = 4096 * int(open("/proc/self/statm").read().split()[0]) + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
for line in sys.stdin:
    script, argv, folder, said, before = json.loads(line)
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
            code = globals()[script].main(argv)
        except BaseException:
            traceback.print_exc()
        sys.stderr.write(f"exit code {code}\\n")
        os._exit(code)
    print(pid, flush=True)
"""


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
        found = subprocess.run(["pgrep", "--session", str(self.pid)], capture_output=True, text=True).stdout
        return [*filter(is_alive, map(int, found.split()))]


@pytest.fixture(scope="module", name="warm")
def warm_fixture(tmp_path_factory) -> Iterator[Callable[..., Child]]:
    """warm("train", argv, before="code that the fork runs first") -> Child, in the current folder."""
    folder, children = tmp_path_factory.mktemp("said"), []
    command = [sys.executable, "-c", SERVER, str(ROOT)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(script: str, argv: list, before: str = "") -> Child:
        said = folder / str(len(children))
        said.touch()
        server.stdin.write(json.dumps([script, [*map(str, argv)], str(Path.cwd()), str(said), before]) + "\n")
        server.stdin.flush()
        children.append(Child(int(server.stdout.readline()), said))
        return children[-1]

    yield start
    for pid in children[-1].left():  # all others were awaited
        os.kill(pid, signal.SIGKILL)
    server.kill()
    server.communicate()
