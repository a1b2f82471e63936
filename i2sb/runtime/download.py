"""Fetch a file once: resumable, checked, whole or not there, and by one process while the others wait."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2sb.errors import UserError
from i2sb.runtime.answers import ask, chunks
from i2sb.runtime.files import lock, sync_folder
from i2sb.runtime.partial import Job, TryAgain, WebPage, can_be_sent
from i2sb.runtime.transfer_bar import transfer_bar

if TYPE_CHECKING:
    import requests

_CHUNK = 128 * 1024
_HEAD_OF_PAGE = 64 * 1024
_BEFORE_PAGE = re.compile(rb"\s+|\xef\xbb\xbf|<!--.*?-->|<\?.*?\?>", re.DOTALL)  # the second is a byte order mark
_PAGE = re.compile(rb"<(!doctype\s+html|html)\b", re.IGNORECASE)


def download(
    url: str,
    local_path: str | os.PathLike,
    *,
    sha256: str | None = None,
    size: int | None = None,
    what: str = "",
    by_hand: str = "",
    retries: int = 3,
    timeout: float = 20,
    patience: float = 60,
    backoff: float = 1,
    log: Any = None,
) -> Path:
    """Fetch `url` to `local_path` unless it is there; return that path.

    The data grow in `local_path` + ".part" and take the final name when their length and hash are right. An
    interrupted download goes on where it was, if the server tells that its file is still the same. Of several
    processes one fetches and the others wait for it.

    Args:
        sha256, size: what the file must have (size in bytes), where known.
        what: what the file is, for messages; `by_hand`: where a person finds it, if not at `url`.
        retries: how many attempts in a row may fail without getting further before we give up.
        timeout: seconds of silence of the server that end an attempt.
        patience: seconds in which an answer must begin, and each 128 KiB of it come, or the attempt ends.
        backoff: seconds before the first retry; doubled each time.
        log: anything with `info`; without it only the progress bar speaks.

    Raises:
        UserError: one line with the reason, the address, and where to put the file by hand.
        WebPage: the server sent a page for people instead (a login, a missing permission, an error).
    """
    path = Path(local_path)
    job = Job(str(url), path, sha256, size, what or path.name, by_hand, timeout, patience, log)
    try:
        if _is_there(job):
            return path
        if not re.match("https?://", job.url):
            raise job.failure("the address does not begin with http:// or https://")
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(path.name + ".lock"), lambda: _say_waiting(job)):
            if not _is_there(job):
                _fetch(job, retries, backoff)
    except OSError as error:
        raise job.failure(f"cannot write to {path.parent}: {error.strerror or error}") from error
    return path


def _say_waiting(job: Job) -> None:
    job.say(f"waiting for another process that fetches {job.what} to {job.path}")


def _is_there(job: Job) -> bool:
    if not job.path.is_file():
        return False
    found = job.path.stat().st_size
    if job.size is not None and found != job.size:
        raise UserError(
            f"{job.path}: has {found} bytes where {job.what} has {job.size}; "
            f"remove it to have it fetched anew from {job.by_hand or job.url}"
        )
    return found > 0


def _fetch(job: Job, retries: int, backoff: float) -> None:
    job.say(f"fetching {job.what}: {job.url} -> {job.path}")
    failures, furthest = 0, -1
    while True:
        try:
            _attempt(job)
            return
        except TryAgain as error:
            reached = job.part.stat().st_size if job.part.exists() else 0
            is_further = 0 <= furthest <= reached - _CHUNK  # a few bytes each time would never come to an end
            failures = 1 if is_further else failures + 1
            furthest = max(furthest, reached)
            if failures > retries:
                raise job.failure(error) from None
            job.say(f"{job.what}: {error}; trying again")
            time.sleep(backoff * 2 ** (failures - 1))


def _attempt(job: Job) -> None:
    import requests

    if job.is_complete():  # an earlier run ended just before it gave the file its name
        _finish(job, resumed=True)
        return
    start, headers = job.resume_headers()
    try:
        with ask(job, headers) as response:
            _check_answer(job, response)
            start = _check_range(job, response, start)
            total = _total(job, response, start)
            _receive(job, response, start, total)
    except requests.exceptions.SSLError as error:
        raise job.failure(f"its certificate is not accepted: {error}") from error
    except requests.exceptions.ConnectionError as error:
        raise TryAgain(connection_reason(error, job.timeout)) from error
    except requests.exceptions.Timeout as error:
        raise TryAgain(f"no answer within {job.timeout:g} s") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TryAgain("the connection was cut") from error
    except requests.exceptions.RequestException as error:
        raise job.failure(error) from error
    _finish(job, resumed=start > 0)


def _check_answer(job: Job, response: requests.Response) -> None:
    """Refuse error pages, pages where the file should be, and what would have to be unpacked."""
    status = response.status_code
    is_page = "text/html" in response.headers.get("Content-Type", "").lower()
    if status == 416:  # the partial file is no part of what is there now
        job.forget()
        raise TryAgain("the server has a shorter file now")
    if status >= 500 or status in (408, 429):
        raise TryAgain(f"the server answered {status} {response.reason}")
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    if packing not in ("", "identity"):  # its announced length would not bind what it unfolds to
        raise job.failure(f"its answer {status} came packed as {packing[:40]!r}, but the plain file was asked for")
    if status >= 400 or (is_page and job.path.suffix not in (".html", ".htm")):
        page = next(chunks(job, response, _HEAD_OF_PAGE), b"").decode("utf-8", "replace")
        title = f" ({_title(page)})" if is_page and _title(page) else ""
        if status < 400:
            raise _page_failure(job, f"the server sent a web page{title} instead of the file", page)
        reason = f"the server answered {status} {response.reason}{title}"
        raise _page_failure(job, reason, page) if is_page else job.failure(reason)
    if status not in (200, 206):
        raise job.failure(f"the server answered {status} {response.reason}")


def _page_failure(job: Job, reason: str, page: str) -> UserError:
    error = job.failure(reason, WebPage)
    error.page = page
    return error


def _title(page: str) -> str:
    found = re.search(r"<title[^>]*>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    text = " ".join(found.group(1).split()) if found else ""
    return "".join(c for c in text if c.isprintable())[:80]


def _check_range(job: Job, response: requests.Response, start: int) -> int:
    """Where the answer begins: at `start`, or at 0 if the server sends everything (again)."""
    if response.status_code == 200:
        return 0
    found = re.match(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", response.headers.get("Content-Range", ""))
    total = job.read_notes().get("total")
    if start == 0 or not found or int(found[1]) != start or (total and found[3] not in ("*", str(total))):
        job.forget()
        raise TryAgain("the server sent another part of the file than the one asked for")
    return start


def _total(job: Job, response: requests.Response, start: int) -> int | None:
    """The length of the whole file as the server has it; what is needed to resume is noted."""
    length = response.headers.get("Content-Length", "")
    whole = re.search(r"/(\d{1,19})$", response.headers.get("Content-Range", ""))
    if start > 0 and whole:  # the answer may hold less than the rest
        total = int(whole[1])
    else:
        total = start + int(length) if re.fullmatch("[0-9]{1,19}", length) else job.size
    if job.size is not None and total != job.size:
        raise job.failure(f"it has {total} bytes there, {job.size} are expected")
    if start == 0:
        etag = response.headers.get("ETag", "")
        signs = ("" if etag.startswith("W/") else etag, response.headers.get("Last-Modified"))
        validator = next(filter(can_be_sent, signs), None)
        notes = {"source": job.source(), "validator": validator, "total": total}
        job.part.unlink(missing_ok=True)
        job.notes.write_text(json.dumps(notes), encoding="utf-8")
    free = shutil.disk_usage(job.path.parent).free
    if total is not None and total - start > free:
        raise job.failure(
            f"it needs {_giga(total - start)}, but only {_giga(free)} are free at {job.path.parent}"
        )
    return total


def _receive(job: Job, response: requests.Response, start: int, total: int | None) -> None:
    with job.part.open("ab") as file, transfer_bar(job.path.name, start, total) as advance:
        file.truncate(start)
        for chunk in chunks(job, response, _CHUNK):
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        reached = file.tell()
    if total is not None and reached < total:
        raise TryAgain(f"the connection was cut after {reached} of {total} bytes")
    if total is not None and reached > total:
        job.forget()
        raise job.failure(f"the server sent more than the {total} bytes it announced")


def _finish(job: Job, resumed: bool) -> None:
    """Check the whole file and give it its name."""
    with job.part.open("rb") as file:
        head = file.read(_HEAD_OF_PAGE)
    if not head:
        job.forget()
        raise job.failure("the server sent an empty file")
    if _is_page(head) and job.path.suffix not in (".html", ".htm"):
        job.forget()
        page = head.decode("utf-8", "replace")
        raise _page_failure(job, "the server sent a web page instead of the file", page)
    found = _sha256(job.part) if job.sha256 else None
    if job.sha256 and found != job.sha256.lower():
        job.forget()
        if resumed:
            raise TryAgain("the resumed file has a wrong sha256")
        raise job.failure(f"its sha256 is {found}, {job.sha256} is expected")
    job.part.replace(job.path)
    job.notes.unlink(missing_ok=True)
    sync_folder(job.path.parent)


def _is_page(head: bytes) -> bool:
    """Whether a file with this beginning is a web page; space and comments may stand before its first tag."""
    start = 0
    while found := _BEFORE_PAGE.match(head, start):
        start = found.end()
    return _PAGE.match(head, start) is not None


def _giga(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def connection_reason(error: Exception, timeout: float = 20) -> str:
    """What the failure to connect means for the user."""
    text = str(error)
    if "Name or service not known" in text or "resolve" in text:
        return "the server's name cannot be resolved: is this machine offline?"
    if "refused" in text or "unreachable" in text:
        return "the server cannot be reached: is this machine offline?"
    if "timed out" in text:
        return f"no answer within {timeout:g} s"
    return "the connection was cut"
