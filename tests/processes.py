"""Other processes for tests: a fresh Python, a forked child, one that is not root; hosts with networks of their own."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
BIN = Path(sys.executable).parent
PATIENCE = 90  # seconds; a run takes 3 to 6 on an idle machine


def python(code: str, *args: object) -> subprocess.Popen:
    """Another Python process that runs `code` with `args` in sys.argv."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_child(function: Callable[[], object], *, no_root: bool = False, memory: int | None = None) -> str:
    """What `function()` returns in a forked child, or the kind and text of the error that it raises there.

    `no_root`: permissions bind the child, also where the tests run as root.  `memory`: MiB that it may have more.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if no_root and os.getuid() == 0:
                os.setuid(NOBODY)
            if memory is not None:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (memory << 20),) * 2)
            answer = str(function())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes meanwhile: this stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def readonly_folder() -> Iterator[Path]:
    """A folder that everyone may read and nobody but root may write to; it holds one file, "file"."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file").write_bytes(b"old")
        (folder / "file").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(name="two_hosts")
def two_hosts_fixture() -> Iterator[list[tuple[str, ...]]]:
    """What to put before a command so that it runs on one of two hosts, 10.7.0.1 and 10.7.0.2."""
    hosts = []
    try:
        for _ in range(2):
            hosts.append(subprocess.Popen(["unshare", "--net", "sleep", "300"]))
            own = Path("/proc/self/ns/net").readlink()
            until(lambda own=own: Path(f"/proc/{hosts[-1].pid}/ns/net").readlink() != own, 5)
        inside = [("nsenter", "--target", str(host.pid), "--net") for host in hosts]
        link = ["link", "add", "here", "type", "veth", "peer", "name", "here", "netns", str(hosts[1].pid)]
        commands = [(0, link)]
        for host in (0, 1):
            commands += [(host, ["addr", "add", f"10.7.0.{host + 1}/24", "dev", "here"])]
            commands += [(host, ["link", "set", device, "up"]) for device in ("lo", "here")]
        for host, command in commands:
            subprocess.run([*inside[host], "ip", *command], check=True, capture_output=True)
    except (OSError, AssertionError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield inside
    finally:
        for host in hosts:
            host.kill()
            host.wait()


def stand_in_for_ssh(folder: Path, prefix: tuple[str, ...] = ()) -> Path:
    """A program that Open MPI's mpirun may take for ssh: whatever the node's name is, it is this machine.

    prefix: of the command there, such as one of `two_hosts`.
    """
    agent = folder / "agent.sh"
    agent.write_text(f'#!/bin/sh\nshift\nexec {" ".join(prefix)} sh -c "$*"\n')
    agent.chmod(0o755)
    return agent


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs, or a thread of it, which holds its files; one that is only not yet collected does not."""
    with contextlib.suppress(OSError):
        if Path("/proc/self/stat").exists():
            state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return state != "Z" or int(others[16]) > 1
        os.kill(pid, 0)
        return True
    return False


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
