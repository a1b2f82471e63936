"""Fetch a file once: resumable, checked, whole or not there, and by one process while the others wait."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import lock, sync, sync_folder
from i2sb.runtime.progress import Progress

_DRIVE = "https://drive.google.com/"
_DRIVE_HINT = "Google Drive asks for a permission for some files, and limits how often a file is fetched in a day"


def download(
    url: str,
    local_path: str | os.PathLike,
    *,
    what: str = "",
    size: int | None = None,
    sha256: str | None = None,
    retries: int = 3,
    timeout: float = 20,
    log: Any = None,
) -> Path:
    """Fetch `url`, which may be a file on Google Drive, to `local_path` unless it is there; return that path.

    The data grow in `local_path` + ".part", which takes the final name when size and hash are right. An interrupted
    download is resumed if the server's file is still the same. Of several processes one fetches, the others wait.

    Args:
        what: what the file is, for messages.
        size, sha256: what the file must have, where known (bytes; hexadecimal digits, all or the first ones). A file
            that is there already is checked too.
        retries: how many attempts in a row may fail without any progress.
        timeout: seconds of silence of the server that end an attempt.
        log: anything with `info`; None: only the progress bar shows what happens.

    Raises:
        UserError: one line with the reason, the address, and where to put the file by hand.
    """
    path, url = Path(local_path), str(url)
    part, what = path.with_name(path.name + ".part"), what or path.name
    say = (lambda text: None) if log is None else log.info
    fetch = _fetch_from_drive if url.startswith(_DRIVE) else _fetch

    def is_there() -> bool:
        if not path.is_file() or path.stat().st_size == 0:
            return False
        if fault := _fault(path, size, sha256):
            raise UserError(f"{path}: not {what}: {fault}; remove it to have it fetched again from {url}")
        return True

    try:
        if is_there():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that fetches {what} to {path}"
        with lock(path.with_name(path.name + ".lock"), lambda: say(waiting)):
            if not is_there():
                say(f"fetching {what}: {url} -> {path}")
                fetch(url, part, retries, timeout, say)
                if fault := _page_fault(part, path) or _fault(part, size, sha256):
                    _forget(part)
                    raise _Failed(fault)
                part.replace(path)
                _forget(part)
                sync_folder(path.parent)
        return path
    except _Failed as error:
        reason = one_line(error, 300)
    except OSError as error:
        reason = f"cannot write to {path.parent}: {error.strerror or error}"
    raise UserError(f"{what}: could not fetch {url} ({reason}); fetch it by hand from {url} and put it at {path}")


def download_drive_folder(
    folder_id: str, folder: str | os.PathLike, names: Iterable[str], *, what: str = "", log: Any = None
) -> list[Path]:
    """Fetch the files `names` of a shared Google Drive folder into `folder`; those there are kept.

    Returns the new ones. Raises UserError as `download` does.
    """
    folder, url = Path(folder), f"{_DRIVE}drive/folders/{folder_id}"
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return []
    try:
        import gdown

        files = gdown.download_folder(id=folder_id, skip_download=True, quiet=True, use_cookies=False, timeout=20)
        urls = {file.path: f"{_DRIVE}file/d/{file.id}/view" for file in files}
        absent = [name for name in missing if name not in urls]
        reason = f"it holds no {' and no '.join(absent)}; {_DRIVE_HINT}" if absent else ""
    except Exception as error:  # of many kinds
        reason = _gdown_reason(error)
    if reason:
        hand = f"fetch {' and '.join(missing)} by hand from there and put them into {folder}"
        raise UserError(f"{what}: could not fetch {url} ({reason}); {hand}")
    return [download(urls[name], folder / name, what=f"{what} {name}".strip(), log=log) for name in missing]


class _Failed(Exception):
    """The file cannot be had; the text is the reason."""


class _TryAgain(_Failed):
    """A failure that may pass."""


def _fetch(url: str, part: Path, retries: int, timeout: float, say: Callable[[str], None]) -> None:
    """Fill `part` from a web server, by as many requests as it takes."""
    import requests

    passing = (_TryAgain, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    failures = 0
    while True:
        before = _length(part)
        try:
            return _request(url, part, timeout)
        except passing as error:
            reason = _reason(error)
        except requests.RequestException as error:
            raise _Failed(error) from error
        failures = 1 if _length(part) > before else failures + 1
        if failures > retries:
            raise _Failed(reason)
        say(f"{url}: {reason}; trying again")
        time.sleep(failures - 1)


def _request(url: str, part: Path, timeout: float) -> None:
    """One request for what `part` lacks."""
    import requests

    headers, start, version = {"Accept-Encoding": "identity", "User-Agent": "i2sb"}, _length(part), _version_of(part)
    if start and version.exists():  # else parts of two files could be joined
        headers |= {"Range": f"bytes={start}-", "If-Range": version.read_text("latin-1")}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        status, there = answer.status_code, answer.headers
        if status == 416 or (status == 206 and not there.get("Content-Range", "").startswith(f"bytes {start}-")):
            _forget(part)
            raise _TryAgain("the server has another file now")
        if status not in (200, 206):
            passes = status >= 500 or status in (408, 429)
            raise (_TryAgain if passes else _Failed)(f"the server answered {status} {answer.reason}")
        if status == 200:
            start = 0
            _forget(part)
            etag = there.get("ETag", "W/")
            if known := there.get("Last-Modified") if etag.startswith("W/") else etag:
                version.write_text(known, "latin-1")
        length = there.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with part.open("ab") as file, Progress(part.stem, total, done=start) as bar:
            for chunk in answer.iter_content(2**16):
                file.write(chunk)
                bar.update(file.tell(), f"{file.tell() / 1e6:.1f} MB")
            file.flush()
            sync(file.fileno())
    if total is not None and _length(part) < total:
        raise _TryAgain("the connection was cut")


def _fetch_from_drive(url: str, part: Path, retries: int, timeout: float, say: Callable[[str], None]) -> None:
    """Fill `part` through gdown, which answers the pages that Google puts before large files."""
    try:
        import gdown

        with Progress(part.stem, None) as bar:
            gdown.download(
                url,
                str(part),
                quiet=True,
                use_cookies=False,
                resume=True,
                timeout=timeout,
                retries=retries,
                progress=lambda done, total: bar.update(done, f"{done / 1e6:.1f} MB", total),
            )
    except Exception as error:
        if type(error).__module__ == "builtins" and isinstance(error, OSError):  # the disk's
            raise
        if "byte range" not in str(error):
            raise _Failed(_gdown_reason(error)) from error
        for other in part.parent.glob(f"{part.name}*.part"):
            other.unlink()
        raise _Failed("what an earlier run fetched is no part of the file there: it is removed, try again") from error


def _gdown_reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        package = (error.name or "gdown").partition(".")[0]
        return f"the package {package} is missing or too old: pip install -U {package}"
    return f"{one_line(_reason(error), 200)}; {_DRIVE_HINT}"


def _reason(error: Exception) -> str:
    """What a failure of the connection means for the user."""
    text = str(error)
    if re.search("resolve|Name or service not known|refused|unreachable", text):
        return "the server cannot be reached: is this machine offline?"
    if "timed out" in text:
        return "the server does not answer"
    return "the connection was cut" if re.search("broken|aborted|reset", text) else text


def _fault(path: Path, size: int | None, sha256: str | None) -> str:
    """What is wrong with the file at `path`; empty: nothing."""
    if size not in (None, _length(path)):
        return f"it has {_length(path)} bytes, {size} are expected"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while sha256 and (chunk := file.read(2**20)):
            digest.update(chunk)
    if sha256 and not digest.hexdigest().startswith(sha256.lower()):
        return f"its sha256 is {digest.hexdigest()}, {sha256} is expected"
    return ""


def _page_fault(part: Path, path: Path) -> str:
    """Whether a page for people (a login, a missing permission) came in place of the file; empty: no."""
    with part.open("rb") as file:
        head = file.read(2**12).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")) and path.suffix != ".html":
        return "the server sent a web page instead of the file"
    return "" if head else "the server sent an empty file"


def _version_of(part: Path) -> Path:
    """Holds the ETag or date of the file that `part` is a part of."""
    return part.with_name(part.name + ".version")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_of(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
