"""Downloads from a real server on this machine, with all that goes wrong with real ones."""

import contextlib
import gzip
import hashlib
import json
import random
import signal
import threading
from pathlib import Path

import pytest
import requests  # noqa: F401  (children that may not read the Python installation need it loaded)
import rich.progress  # noqa: F401
from processes import as_child, names, python, readonly_folder
from webserver import Site, closed_address, serving

from i2sb.errors import UserError
from i2sb.runtime.download import download

DATA = random.Random(0).randbytes(1_000_000)
OTHER = random.Random(1).randbytes(1_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def site():
    with serving(Site(DATA)) as site:
        yield site


class Log(list):
    """A log that keeps its lines."""

    def info(self, line: str) -> None:
        self.append(line)


def get(site: Site, path: Path, **options) -> Path:
    return download(f"{site.url}/weights.pt", path, **{"backoff": 0, **options})


def failure(site_or_url, path: Path, **options) -> str:
    """The one line that the download ends in; the file is not there."""
    url = site_or_url if isinstance(site_or_url, str) else f"{site_or_url.url}/weights.pt"
    with pytest.raises(UserError) as caught:
        download(url, path, **{"backoff": 0, **options})
    message = str(caught.value)
    assert message.isprintable()
    assert message.endswith(f"fetch it by hand from {url} and put it at {path}")
    assert not path.exists()
    assert not path.with_name(path.name + ".lock").exists()
    return message


# --- what goes well


def test_a_file_is_fetched_once(site, tmp_path):
    path = tmp_path / "data" / "weights.pt"
    log = Log()
    assert get(site, path, log=log) == path
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["weights.pt"]
    assert get(site, path) == path
    assert len(site.requests) == 1
    assert log == [f"fetching weights.pt: {site.url}/weights.pt -> {path}"]


def test_the_public_call_takes_two_arguments(site, tmp_path):
    assert download(site.url + "/a", str(tmp_path / "a")).read_bytes() == DATA


def test_size_and_hash_are_checked(site, tmp_path):
    assert get(site, tmp_path / "a", size=len(DATA), sha256=SHA256.upper()).read_bytes() == DATA


def test_a_file_put_there_by_hand_is_used(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(DATA)
    assert download(closed_address(), path, size=len(DATA)) == path
    with pytest.raises(UserError, match=r"weights.pt: has 1000000 bytes where .* has 5; remove it"):
        download(closed_address(), path, size=5)


def test_an_empty_file_is_fetched_again(site, tmp_path):
    (tmp_path / "a").touch()
    assert get(site, tmp_path / "a").read_bytes() == DATA


def test_no_length_announced(site, tmp_path):
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DATA)

    site.answer = answer
    assert get(site, tmp_path / "a").read_bytes() == DATA


# --- interrupted downloads


@pytest.mark.parametrize("validator", ["etag", "last_modified"])
def test_cut_connections_are_resumed(site, tmp_path, validator):
    site.etag = '"one"' if validator == "etag" else 'W/"weak"'
    site.last_modified = None if validator == "etag" else "Mon, 01 Jan 2024 00:00:00 GMT"
    site.cuts = [300_000, 1_000, 400_000]
    log = Log()
    path = get(site, tmp_path / "weights.pt", retries=3, log=log)
    assert path.read_bytes() == DATA
    starts = [int(range_[6:-1]) if range_ else 0 for _, range_ in site.requests]
    assert starts[0] == 0
    assert 150_000 < starts[1] <= 300_000
    assert starts == sorted(starts)
    assert len(starts) == 4
    assert "weights.pt: the connection was cut; trying again" in log
    assert names(tmp_path) == ["weights.pt"]


def test_a_later_call_goes_on(site, tmp_path):
    site.cuts = [500_000]
    assert "the connection was cut" in failure(site, tmp_path / "weights.pt", retries=0)
    assert (tmp_path / "weights.pt.part").stat().st_size > 300_000
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA
    assert site.requests[1][1] is not None


def test_a_changed_file_is_not_joined(site, tmp_path):
    site.cuts = [500_000]
    failure(site, tmp_path / "weights.pt", retries=0)
    site.data, site.etag = OTHER, '"two"'
    assert get(site, tmp_path / "weights.pt").read_bytes() == OTHER
    assert site.requests[1][1] is not None


def test_parts_are_not_joined_without_a_sign_that_they_belong_together(site, tmp_path):
    site.etag = None
    site.cuts = [500_000]
    failure(site, tmp_path / "weights.pt", retries=0)
    site.data = OTHER
    assert get(site, tmp_path / "weights.pt").read_bytes() == OTHER
    assert site.requests[1][1] is None


def test_a_known_hash_is_such_a_sign(site, tmp_path):
    site.etag = None
    site.cuts = [500_000]
    failure(site, tmp_path / "weights.pt", retries=0, sha256=SHA256)
    assert get(site, tmp_path / "weights.pt", sha256=SHA256).read_bytes() == DATA
    assert site.requests[1][1] is not None


def test_wrongly_joined_parts_are_fetched_anew(site, tmp_path):
    site.etag = None
    site.data, site.cuts = OTHER, [500_000]
    failure(site, tmp_path / "weights.pt", retries=0, sha256=SHA256)
    site.data = DATA
    assert get(site, tmp_path / "weights.pt", sha256=SHA256).read_bytes() == DATA
    assert [range_ is None for _, range_ in site.requests] == [True, False, True]


def test_a_partial_file_of_another_address_is_not_used(site, tmp_path):
    site.cuts = [500_000]
    failure(site, tmp_path / "weights.pt", retries=0)
    site.data = OTHER
    download(f"{site.url}/elsewhere", tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").read_bytes() == OTHER


BROKEN_NOTES = [
    *("", "[]", "\0"),
    *({"validator": bad} for bad in (3, "€", '"a"\r\nX: y', " a", "\x7f", "x" * 201)),
    *({"total": bad} for bad in (1000.0, -1, True, "1000", [])),
]


@pytest.mark.parametrize("notes", BROKEN_NOTES, ids=str)
def test_broken_notes_beside_a_partial_file(site, tmp_path, notes):
    if isinstance(notes, dict):
        right = {"source": f"{site.url}/weights.pt", "validator": site.etag, "total": len(DATA)}
        notes = json.dumps(right | notes)
    (tmp_path / "weights.pt.part").write_bytes(b"x" * 1000)
    (tmp_path / "weights.pt.part.json").write_text(notes)
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA
    assert site.requests == [("/weights.pt", None)]
    assert names(tmp_path) == ["weights.pt"]


@pytest.mark.parametrize("etag", ["x" * 201, '"é"'])
def test_a_sign_that_cannot_be_sent_back_is_not_noted(site, tmp_path, etag):
    site.etag, site.last_modified = etag, "Mon, 01 Jan 2024 00:00:00 GMT"
    site.cuts = [500_000]
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA
    assert site.requests[1][1] is not None


def test_a_server_without_ranges_starts_again(site, tmp_path):
    site.ranges = False
    site.cuts = [500_000]
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA


def test_a_file_that_became_shorter(site, tmp_path):
    site.cuts = [500_000]
    failure(site, tmp_path / "weights.pt", retries=0)
    site.data = DATA[:1000]
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA[:1000]


def test_another_part_than_asked_for(site, tmp_path):
    def answer(handler):
        if handler.headers.get("Range"):
            headers = {"Content-Range": f"bytes 0-{len(DATA) - 1}/{len(DATA)}", "ETag": site.etag}
            handler.send_page(DATA, 206, headers)
        else:
            handler.send_part(site)

    site.answer, site.cuts = answer, [500_000]
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA


def test_a_part_that_begins_at_no_number(site, tmp_path):
    def answer(handler):
        if handler.headers.get("Range"):
            handler.send_page(DATA, 206, {"Content-Range": f"bytes {'9' * 5000}-1/2", "ETag": site.etag})
        else:
            handler.send_part(site)

    site.answer, site.cuts = answer, [500_000]
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA


def test_a_whole_partial_file_only_needs_its_name(site, tmp_path):
    """The process was killed between the last byte and the renaming."""
    site.cuts = [500_000]
    failure(site, tmp_path / "weights.pt", retries=0)
    (tmp_path / "weights.pt.part").write_bytes(DATA)
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA
    assert len(site.requests) == 1


def test_attempts_that_get_further_do_not_count(site, tmp_path):
    site.cuts = [200_000] * 5
    assert get(site, tmp_path / "weights.pt", retries=1).read_bytes() == DATA


def short_parts(site: Site, count: int):
    """A server that cuts its first answer and then sends `count` bytes of what it is asked for."""

    def answer(handler):
        if not (asked := handler.headers.get("Range")):
            handler.send_part(site)
            return
        start = int(asked[6:-1])
        body = DATA[start : start + count]
        range_ = f"bytes {start}-{start + len(body) - 1}/{len(DATA)}"
        handler.send_page(body, 206, {"Content-Range": range_, "ETag": site.etag})

    site.cuts = [500_000]
    return answer


def test_parts_that_are_shorter_than_asked_for(site, tmp_path):
    site.answer = short_parts(site, 200_000)
    assert get(site, tmp_path / "weights.pt", retries=1).read_bytes() == DATA
    assert len(site.requests) == 5


def test_attempts_that_get_a_few_bytes_further_count(site, tmp_path):
    site.answer = short_parts(site, 1000)
    failure(site, tmp_path / "weights.pt", retries=2)
    assert len(site.requests) == 3


# --- what goes wrong


def test_retries_end(site, tmp_path):
    site.cuts = [0] * 10
    assert "the connection was cut" in failure(site, tmp_path / "weights.pt", retries=2)
    assert len(site.requests) == 3


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(site, tmp_path, status):
    answers = iter([status, status])

    def answer(handler):
        code = next(answers, 200)
        handler.send_page(b"busy", code) if code != 200 else handler.send_part(site)

    site.answer = answer
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA
    assert len(site.requests) == 3


@pytest.mark.parametrize("status", [403, 404])
def test_error_pages(site, tmp_path, status):
    site.answer = lambda handler: handler.send_page(b"<html><title>Not\n here</title>", status)
    message = failure(site, tmp_path / "weights.pt")
    assert f"the server answered {status} " in message
    assert "(Not here)" in message
    assert len(site.requests) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_page_in_place_of_the_file(site, tmp_path, content_type):
    site.data, site.content_type = b"\n <!DocType HTML><title>Sign in</title>", content_type
    assert "web page" in failure(site, tmp_path / "weights.pt")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "before",
    [b"\xef\xbb\xbf", b"<!-- hi -->", b"\xef\xbb\xbf\r\n<!-- a\nb --> <!---->\n", b'<?xml version="1.0"?>\n'],
)
@pytest.mark.parametrize("tag", [b"<!DOCTYPE html>", b"<html lang='en'>", b"<!doctype\nHTML PUBLIC>"])
def test_a_page_that_hides_its_beginning(site, tmp_path, before, tag):
    site.data = before + tag + b"<title>Sign in</title>"
    assert "the server sent a web page" in failure(site, tmp_path / "weights.pt")
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [None, 1_000_000])
def test_a_packed_answer(site, tmp_path, size):
    """It is not unpacked: a small one may unfold to whatever it likes."""
    site.answer = lambda handler: handler.send_page(gzip.compress(DATA), 200, {"Content-Encoding": "gzip"})
    message = failure(site, tmp_path / "weights.pt", size=size)
    assert "its answer 200 came packed as 'gzip', but the plain file was asked for" in message
    assert names(tmp_path) == []
    assert len(site.requests) == 1


def test_an_answer_that_says_it_is_not_packed(site, tmp_path):
    site.answer = lambda handler: handler.send_page(DATA, 200, {"Content-Encoding": "Identity"})
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA


def test_a_page_that_is_wanted(site, tmp_path):
    site.data, site.content_type = b"<html>", "text/html"
    assert get(site, tmp_path / "page.html").read_bytes() == b"<html>"


def test_a_wrong_length(site, tmp_path):
    assert "it has 1000000 bytes there, 5 are expected" in failure(site, tmp_path / "a", size=5)
    site.length = len(DATA) + 5
    assert "the connection was cut" in failure(site, tmp_path / "a", retries=0)
    site.length = len(DATA) - 5  # the rest is not read: the file is what was announced
    assert get(site, tmp_path / "b").read_bytes() == DATA[:-5]
    assert "995" in failure(site, tmp_path / "c", size=len(DATA))


@pytest.mark.parametrize("length", ["²", "-5", "9" * 5000])
def test_a_length_that_is_no_number(site, tmp_path, length):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(DATA)

    site.answer = answer
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA


def test_a_wrong_hash(site, tmp_path):
    message = failure(site, tmp_path / "weights.pt", sha256="0" * 64)
    assert f"its sha256 is {SHA256}, {'0' * 64} is expected" in message
    assert names(tmp_path) == []
    assert len(site.requests) == 1


def test_an_empty_answer(site, tmp_path):
    site.data = b""
    assert "the server sent an empty file" in failure(site, tmp_path / "weights.pt")


def test_offline(tmp_path):
    message = failure(
        closed_address() + "/weights.pt", tmp_path / "weights.pt", retries=1, what="the weights"
    )
    assert message.startswith("the weights: could not fetch http://127.0.0.1:")
    assert "is this machine offline?" in message


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/passwd", "weights.pt", "http://[broken/a"])
def test_strange_addresses(tmp_path, url):
    failure(url, tmp_path / "weights.pt")


def test_a_silent_server(site, tmp_path):
    release = threading.Event()
    site.answer = lambda handler: release.wait(60)
    try:
        message = failure(site, tmp_path / "weights.pt", timeout=0.2, retries=1)
    finally:
        release.set()
    assert "no answer within 0.2 s" in message
    assert len(site.requests) == 2


def test_a_server_that_falls_silent(site, tmp_path):
    release = threading.Event()

    def answer(handler):
        handler.send_page(DATA[:400_000], 200, {"ETag": '"one"'}, len(DATA))
        handler.wfile.flush()
        release.wait(60)

    site.answer = answer
    try:
        message = failure(site, tmp_path / "weights.pt", timeout=0.2, retries=0)
    finally:
        release.set()
    assert "no answer within 0.2 s" in message
    assert (tmp_path / "weights.pt.part").stat().st_size > 200_000


@contextlib.contextmanager
def dripping(site: Site, begin):
    """The first answer's beginning is what `begin(handler)` sends; then a byte comes now and then."""
    release = threading.Event()

    def answer(handler):
        begin(handler)
        with contextlib.suppress(OSError):  # the client has hung up
            for _ in range(250):
                handler.wfile.write(b"x")
                if release.wait(0.02):
                    return

    site.answer = answer
    try:
        yield
    finally:
        release.set()


DRIPS = {
    "headers": lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nETag: "),
    "body": lambda handler: handler.send_page(b"", 200, {"ETag": '"one"'}, len(DATA)),
    "body without length": lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n"),
    "error page": lambda handler: handler.send_page(b"<html>", 403, None, len(DATA)),
}


@pytest.mark.parametrize("begin", DRIPS.values(), ids=DRIPS)
def test_a_server_that_drips(site, tmp_path, begin):
    """It is never silent for long and would never be done."""
    with dripping(site, begin):
        message = failure(site, tmp_path / "weights.pt", patience=0.3, retries=1)
    assert "within 0.3 s" in message
    assert len(site.requests) == 2


def test_a_download_that_began_to_drip_is_resumed(site, tmp_path):
    def begin(handler):
        if len(site.requests) > 1:
            handler.send_part(site)
        else:
            handler.send_page(DATA[:400_000], 200, {"ETag": site.etag}, len(DATA))

    log = Log()
    with dripping(site, begin):
        assert get(site, tmp_path / "weights.pt", patience=0.5, log=log).read_bytes() == DATA
    assert site.requests[1][1] is not None
    assert "weights.pt: fewer than 131072 bytes came within 0.5 s; trying again" in log


# --- the disk


def test_where_nothing_can_be_written(site, tmp_path):
    (tmp_path / "file").write_text("x")
    message = failure(site, tmp_path / "file" / "below" / "weights.pt")
    assert f"cannot write to {tmp_path}/file/below: Not a directory" in message


def test_a_readonly_folder(site):
    with readonly_folder() as folder:
        answer = as_child(lambda: get(site, folder / "weights.pt"), no_root=True)
        assert answer.startswith("UserError: weights.pt: could not fetch")
        assert f"(cannot write to {folder}: Permission denied); fetch it by hand" in answer
        assert as_child(lambda: get(site, folder / "file"), no_root=True) == f"{folder}/file"
        assert names(folder) == ["file"]


def test_more_than_the_disk_holds(site, tmp_path):
    site.length = 10**18
    assert "it needs 1000000000.0 GB, but only" in failure(site, tmp_path / "weights.pt")


def test_a_full_disk_keeps_what_came(site, tmp_path):
    """A limit on the size of files stands for the full disk."""
    import resource

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        return get(site, tmp_path / "weights.pt")

    assert f"(cannot write to {tmp_path}: File too large); fetch it by hand" in as_child(run)
    assert (tmp_path / "weights.pt.part").stat().st_size == 300_000
    assert get(site, tmp_path / "weights.pt").read_bytes() == DATA
    assert site.requests[1][1] == "bytes=300000-"


# --- several processes

FETCH = """
import sys
from i2sb.runtime.download import download
class Log:
    def info(self, line): print(line, flush=True)
download(sys.argv[1], sys.argv[2], log=Log())
"""


@pytest.mark.parametrize(("end", "others"), [("well", 1), ("well", 7), ("refused", 3), ("killed", 3)])
def test_of_several_processes_one_fetches(site, tmp_path, end, others):
    asked, waiting = threading.Event(), threading.Event()
    path = tmp_path / "weights.pt"

    def answer(handler):
        asked.set()
        waiting.wait(60)
        if end == "refused" and len(site.requests) == 1:
            handler.send_page(b"<html>", 403)
        else:
            handler.send_part(site)

    site.answer = answer
    first = python(FETCH, site.url + "/a", path)
    assert first.stdout.readline().startswith("fetching")
    assert asked.wait(60)
    others = [python(FETCH, site.url + "/a", path) for _ in range(others)]
    for process in others:
        assert process.stdout.readline().startswith("waiting for another process that fetches weights.pt")
    if end == "killed":
        first.kill()
        first.wait()
    waiting.set()
    outputs = [process.communicate() for process in (first, *others)]
    assert path.read_bytes() == DATA
    assert names(tmp_path) == ["weights.pt"]
    assert len(site.requests) == (1 if end == "well" else 2)
    assert first.returncode == {"well": 0, "refused": 1, "killed": -signal.SIGKILL}[end], outputs
    assert not any(process.returncode for process in others), outputs
