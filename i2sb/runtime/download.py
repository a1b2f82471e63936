"""Fetch a file once: resumable, checked, whole or not there, and by one process while the others wait."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests

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
        size, sha256: in bytes and hex digits (all or the first ones), where known: also of a file that is there.
        retries: how many attempts in a row may fail without any progress.
        timeout: seconds of silence of the server that end an attempt.
        log: anything with `info`.

    Raises:
        UserError: one line with the reason, the address, and where to put the file by hand.
    """
    path = Path(local_path)
    part, what = path.with_name(f"{path.name}.part"), what or path.name
    say = (lambda text: None) if log is None else log.info
    if path.is_file():
        if fault := _fault(path, size, sha256):
            raise UserError(f"{path}: not {what}: {fault}; remove it to have it fetched again from {url}")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that fetches {what} to {path}"
        with lock(path.with_name(f"{path.name}.lock"), lambda: say(waiting)):
            if not path.is_file():
                say(f"fetching {what}: {url} -> {path}")
                if url.startswith(_DRIVE):
                    _fetch_from_drive(url, part, retries, timeout)
                else:
                    _fetch(url, part, retries, timeout, say)
                if fault := _fault(part, size, sha256):
                    _forget(part)
                    raise requests.RequestException(fault)
                part.replace(path)
                _forget(part)
                sync_folder(path.parent)
        return path
    except requests.RequestException as error:
        reason = _reason(error, url)
    except OSError as error:
        reason = f"cannot write to {path.parent}: {error.strerror or error}"
    raise UserError(f"{what}: could not fetch {url} ({reason}); fetch it by hand from {url} and put it at {path}")


def download_drive_folder(
    folder_id: str, folder: str | os.PathLike, names: Iterable[str], *, what: str, log: Any = None
) -> list[Path]:
    """Fetch the files `names` of a shared Google Drive folder into `folder`, but those there; returns the new ones."""
    folder, url = Path(folder), f"{_DRIVE}drive/folders/{folder_id}"
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return []
    import gdown

    try:
        files = gdown.download_folder(id=folder_id, skip_download=True, quiet=True, use_cookies=False, timeout=20)
        urls = {file.path: f"{_DRIVE}file/d/{file.id}/view" for file in files}
        absent = [name for name in missing if name not in urls]
        reason = f"it holds no {' and no '.join(absent)}" if absent else ""
    except Exception as error:  # of many kinds
        reason = _reason(error, url)
    if reason:
        raise UserError(
            f"{what}: could not fetch {url} ({reason}); fetch {' and '.join(missing)} by hand from there and put them "
            f"into {folder}"
        )
    return [download(urls[name], folder / name, what=f"{what} {name}", log=log) for name in missing]


def _fetch(url: str, part: Path, retries: int, timeout: float, say: Callable[[str], None]) -> None:
    """Fill `part` from a web server, by as many requests as it takes."""
    failures = 0
    while True:
        before = _length(part)
        try:
            return _request(url, part, timeout)
        except requests.RequestException as error:
            failures = 1 if _length(part) > before else failures + 1
            status = 500 if error.response is None else error.response.status_code
            if failures > retries or (status < 500 and status not in (408, 416, 429)):
                raise
            say(f"{url}: {_reason(error, url)}; trying again")
        time.sleep(failures - 1)


def _request(url: str, part: Path, timeout: float) -> None:
    """One request for what `part` lacks."""
    headers, start, version = {"Accept-Encoding": "identity", "User-Agent": "i2sb"}, _length(part), _version_of(part)
    if start and version.exists():  # else parts of two files could be joined
        headers |= {"Range": f"bytes={start}-", "If-Range": version.read_text("latin-1")}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code in (200, 416):  # the whole file follows, or the server's is another one now
            start = 0
            _forget(part)
        answer.raise_for_status()
        if known := answer.headers.get("Last-Modified") or answer.headers.get("ETag"):
            version.write_text(known, "latin-1")
        total = start + int(answer.headers.get("Content-Length", 0))
        with part.open("ab") as file, Progress(part.stem, total or None, done=start) as bar:
            for chunk in answer.iter_content(2**16):
                file.write(chunk)
                bar.update(file.tell(), f"{file.tell() / 1e6:.1f} MB")
            file.flush()
            sync(file.fileno())
    if _length(part) < total:
        raise requests.ConnectionError("the connection was cut")


def _fetch_from_drive(url: str, part: Path, retries: int, timeout: float) -> None:
    """Fill `part` through gdown, which answers the pages that Google puts before large files."""
    import gdown

    def show(done: int, total: int | None) -> None:
        bar.update(done, f"{done / 1e6:.1f} MB", total)

    options = {"quiet": True, "use_cookies": False, "resume": True, "timeout": timeout, "retries": retries}
    with Progress(part.stem, None) as bar:
        try:
            gdown.download(url, str(part), progress=show, **options)
        except gdown.exceptions.DownloadError as error:
            raise requests.RequestException(str(error)) from error


def _reason(error: Exception, url: str) -> str:
    """What a failure of the connection means for the user."""
    reason = one_line(str(error).partition(" for url: ")[0], 200)
    if re.search("resolve|Name or service not known|refused|unreachable", str(error)):
        reason = "the server cannot be reached: is this machine offline?"
    elif "timed out" in str(error):
        reason = "the server does not answer"
    return f"{reason}; {_DRIVE_HINT}" if url.startswith(_DRIVE) else reason


def _fault(path: Path, size: int | None, sha256: str | None) -> str:
    """What is wrong with the file at `path`; empty: nothing."""
    if _length(path) == 0:
        return "it is empty"
    if size not in (None, _length(path)):
        return f"it has {_length(path)} bytes, {size} are expected"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(2**12)
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "it is a web page: a login, or a missing permission"
        file.seek(0)
        while sha256 and (chunk := file.read(2**20)):
            digest.update(chunk)
    if sha256 and not digest.hexdigest().startswith(sha256.lower()):
        return f"its sha256 is {digest.hexdigest()}, {sha256} is expected"
    return ""


def _version_of(part: Path) -> Path:
    """The file with the server's ETag or date of what `part` is a part of."""
    return part.with_name(f"{part.name}.version")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_of(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
