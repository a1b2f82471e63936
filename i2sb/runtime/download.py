"""Fetch a file once: resumable, checked, whole or not there, and by one process while the others wait."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import requests

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import lock, sync_folder
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

    The file takes the final name when size and hash are right. An interrupted download is resumed. Of several
    processes one fetches, the others wait.

    Args:
        what: what the file is, for messages.
        size, sha256: in bytes and hex digits (all or the first ones), where known: also of a file that is there.
        retries: how many attempts may fail before the last.
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
        waiting = f"waiting for another process that fetches {what} to {path}"
        with lock(path.with_name(f"{path.name}.lock"), lambda: say(waiting)):
            if not path.is_file():
                say(f"fetching {what}: {url} -> {path}")
                _fetch(url, part, retries, timeout)
                if fault := _fault(part, size, sha256):
                    part.unlink()
                    raise requests.RequestException(fault)
                part.replace(path)
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


def _fetch(url: str, part: Path, retries: int, timeout: float) -> None:
    """Fill `part` through gdown, which resumes, and answers the pages that Google puts before large files."""
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


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
