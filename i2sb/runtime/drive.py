"""Files and folders that are shared through Google Drive."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from i2sb.errors import UserError
from i2sb.runtime.download import connection_reason, download
from i2sb.runtime.partial import WebPage

FILES = "https://drive.usercontent.google.com"
_HINT = "Google Drive asks for a permission for some files, and limits how often a file is fetched in a day"


def download_drive_file(
    file_id: str, local_path: str | os.PathLike, *, base: str = FILES, by_hand: str = "", **options: Any
) -> Path:
    """`download` for a file on Google Drive; `options` are those of `download`.

    Large files come behind a page that says that they were not searched for viruses; it is answered.

    Raises:
        UserError: as `download`.
    """
    by_hand = by_hand or f"https://drive.google.com/file/d/{file_id}/view"
    query = {"id": file_id, "export": "download", "confirm": "t"}
    try:
        try:
            return download(f"{base}/download?{urlencode(query)}", local_path, by_hand=by_hand, **options)
        except WebPage as error:
            answer = _hidden_fields(error.page)
            if "confirm" not in answer:
                raise
            return download(f"{base}/download?{urlencode(answer)}", local_path, by_hand=by_hand, **options)
    except WebPage as error:
        raise UserError(f"{error} ({_HINT})") from error


def _hidden_fields(page: str) -> dict[str, str]:
    """The fields that the page's form would send."""
    fields = {}
    for tag in re.findall(r"<input[^>]*>", page):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        if attributes.get("type") == "hidden" and "name" in attributes:
            fields[attributes["name"]] = html.unescape(attributes.get("value", ""))
    return fields


def list_drive_folder(folder_id: str, timeout: float = 20) -> dict[str, str]:
    """{name: file id} of the files in a shared folder. Raises whatever the network or gdown raises."""
    import gdown

    files = gdown.download_folder(
        id=folder_id, skip_download=True, quiet=True, use_cookies=False, timeout=timeout
    )
    return {file.path: file.id for file in files}


def download_drive_folder(
    folder_id: str,
    folder: str | os.PathLike,
    names: Iterable[str],
    *,
    list_folder: Callable[[str], dict[str, str]] = list_drive_folder,
    base: str = FILES,
    what: str = "",
    **options: Any,
) -> list[Path]:
    """Fetch the files `names` of a shared folder into `folder`; those there are kept. Returns the new ones.

    Args:
        list_folder, base: how the folder is listed and where its files are fetched from.
        options: as those of `download`.

    Raises:
        UserError: as `download`; the message names the folder's address and where the files belong.
    """
    folder = Path(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return []
    address = f"https://drive.google.com/drive/folders/{folder_id}"
    try:
        ids = list_folder(folder_id)
    except Exception as error:  # gdown and what it is made of raise many kinds
        reason = f"its list of files cannot be had: {_list_failure(error)}"
        raise _failure(what, address, reason, missing, folder) from error
    absent = [name for name in missing if name not in ids]
    if absent:
        reason = f"it holds no {' and no '.join(absent)}; {_HINT}"
        raise _failure(what, address, reason, missing, folder)
    return [
        download_drive_file(
            ids[name], folder / name, base=base, by_hand=address, what=f"{what} {name}".strip(), **options
        )
        for name in missing
    ]


def _list_failure(error: Exception) -> str:
    if isinstance(error, ImportError):
        package = (error.name or "gdown").partition(".")[0]
        return f"the package {package} is missing or too old: pip install -r requirements.txt"
    import requests

    if isinstance(error, requests.exceptions.ConnectionError):
        return f"{connection_reason(error)}; {_HINT}"
    return f"{' '.join(str(error).split())[:200]}; {_HINT}"


def _failure(what: str, address: str, reason: str, names: list[str], folder: Path) -> UserError:
    return UserError(
        f"{what}: could not fetch {address} ({reason}); "
        f"fetch {' and '.join(names)} by hand from there and put them into {folder}"
    )
