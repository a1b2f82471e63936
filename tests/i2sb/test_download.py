"""Downloads from a real server on this machine, with what goes wrong with real ones."""

import hashlib
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import rich.progress  # noqa: F401  (children that may not read the Python installation need it loaded)
from processes import as_child, largest_file, names, python, readonly_folder
from webserver import Site, closed_address, serving

from i2sb import download
from i2sb.errors import UserError

DATA = random.Random(0).randbytes(4_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def site():
    with serving(Site(DATA)) as site:
        yield site


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


class Log(list):
    """A log that keeps its lines."""

    info = list.append


def failure(url: str, path: Path, **options) -> str:
    """The one line that the download ends in; the file is not there."""
    with pytest.raises(UserError) as caught:
        download(url, path, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.endswith(f"fetch it by hand from {url} and put it at {path}")
    assert not path.is_file()
    assert not path.with_name(path.name + ".lock").exists()
    return message


def test_a_file_is_fetched_once(site, tmp_path):
    path, log = tmp_path / "data" / "weights.pt", Log()
    assert download(site.url, str(path), log=log) == path
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["weights.pt"]
    assert download(site.url, path) == path
    assert len(site.requests) == 1
    assert log == [f"fetching weights.pt: {site.url} -> {path}"]


def test_size_and_hash_are_checked(site, path):
    assert f"its sha256 is {SHA256}, 00000000 is expected" in failure(site.url, path, sha256="0" * 8)
    assert "it has 4000000 bytes, 5 are expected" in failure(site.url, path, size=5)
    assert names(path.parent) == []
    assert download(site.url, path, size=len(DATA), sha256=SHA256[:8].upper()).read_bytes() == DATA
    assert len(site.requests) == 3


def test_a_file_that_is_there_is_checked_too(path):
    path.write_bytes(DATA)
    assert download(closed_address(), path, size=len(DATA), sha256=SHA256) == path
    with pytest.raises(UserError, match=r"weights.pt: not AlexNet: it has 4000000 bytes, 5 are expected; remove it"):
        download(closed_address(), path, size=5, what="AlexNet")
    with pytest.raises(UserError, match=r"weights.pt: .*: its sha256 is .*, abc is expected; remove it"):
        download(closed_address(), path, sha256="abc")
    assert path.read_bytes() == DATA


# --- interrupted downloads


def test_cut_connections_are_resumed(site, path):
    site.cuts = [1_500_000, 1_500_000]
    assert download(site.url, path).read_bytes() == DATA
    starts = [int(range_[6:-1]) if range_ else 0 for _, range_ in site.requests]
    assert len(starts) == 3
    assert all(900_000 * i < start <= 1_500_000 * i for i, start in enumerate(starts) if i)  # what a packet held may go
    assert names(path.parent) == ["weights.pt"]


def test_a_later_call_resumes(site, path):
    site.cuts = [2_000_000]
    assert "ncomplete" in failure(site.url, path, retries=0)
    (part,) = path.parent.glob("weights.pt.part*")
    reached = part.stat().st_size
    assert 1_400_000 < reached <= 2_000_000
    assert download(site.url, path).read_bytes() == DATA
    assert site.requests[-1][1] == f"bytes={reached}-"


# --- what goes wrong


@pytest.mark.parametrize(
    ("answer", "reason", "count"),
    [
        (lambda handler: handler.send_page(b"<html>gone</html>", 404), "404 Client Error: Not Found", 1),
        (lambda handler: handler.send_page(b"busy", 503), "503 Server Error: Service Unavailable", 1),
        (lambda handler: handler.send_page(b""), "it is empty", 1),
        (lambda handler: handler.send_page(b"\n <!DocType HTML><title>Sign in"), "it is a web page", 1),
        (lambda handler: time.sleep(1), "the server does not answer", 2),
    ],
)
def test_a_server_that_does_not_serve(site, path, answer, reason, count):
    site.answer = answer
    assert reason in failure(site.url, path, retries=1, timeout=0.2)
    assert len(site.requests) == count


def test_where_nothing_can_be_written(site, path):
    path.write_text("x")
    assert f"cannot write to {path}/below: " in failure(site.url, path / "below" / "weights.pt")
    with readonly_folder() as folder:
        answer = as_child(lambda: download(site.url, folder / "weights.pt"), no_root=True)
        assert f"(cannot write to {folder}: Permission denied); fetch it by hand" in answer
        assert as_child(lambda: download(site.url, folder / "file"), no_root=True) == f"{folder}/file"


def test_a_full_disk_keeps_what_came(site, path):
    with largest_file(300_000):
        assert f"(cannot write to {path.parent}: File too large); fetch it by hand" in failure(site.url, path)
    assert download(site.url, path).read_bytes() == DATA
    assert site.requests[-1][1] == "bytes=300000-"


FETCH = """
import sys
from i2sb import download
class Log:
    def info(self, line): print(line, flush=True)
download(sys.argv[1], sys.argv[2], log=Log())
"""


@pytest.mark.parametrize("end", ["well", "killed"])
def test_of_several_processes_one_fetches(site, path, end):
    asked, waiting = threading.Event(), threading.Event()

    def answer(handler):
        asked.set()
        waiting.wait(60)
        handler.send_part(site)

    site.answer = answer
    first = python(FETCH, site.url, path)
    assert asked.wait(60)
    others = [python(FETCH, site.url, path) for _ in range(2)]
    for process in others:
        assert process.stdout.readline().startswith("waiting for another process that fetches weights.pt")
    if end == "killed":
        first.kill()
        first.wait()
    waiting.set()
    outputs = [process.communicate() for process in (first, *others)]
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["weights.pt"]
    assert len(site.requests) == (1 if end == "well" else 2)
    assert first.returncode == (0 if end == "well" else -signal.SIGKILL), outputs
    assert not any(process.returncode for process in others), outputs
