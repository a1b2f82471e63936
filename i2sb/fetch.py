"""Published files, fetched to where the program looks for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from i2sb import addresses
from i2sb.addresses import CHECKPOINT_FILES, CHECKPOINT_FOLDERS, Remote
from i2sb.errors import UserError
from i2sb.runtime.download import download
from i2sb.runtime.drive import download_drive_file, download_drive_folder
from i2sb.safe_pickle import load_namespace


def fetch(remote: Remote, folder: str | os.PathLike = "data", log: Any = None, **options: Any) -> Path:
    """The local path of a published file, fetched now unless it is there. `options`: as those of `download`.

    Raises:
        UserError: it is not there and cannot be fetched.
    """
    options = {"what": remote.what, "size": remote.size, "sha256": remote.sha256, "log": log, **options}
    path = Path(folder) / remote.name
    if remote.drive_id:
        return download_drive_file(remote.drive_id, path, **options)
    return download(remote.url, path, **options)


def download_ckpt(ckpt_dir: str | os.PathLike = "data/", log: Any = None) -> Path:
    """The pretrained ADM weights in `ckpt_dir`, fetched unless they are there (2.2 GB).

    Raises:
        UserError: they are not there and cannot be fetched.
    """
    return fetch(addresses.ADM_WEIGHTS, ckpt_dir, log)


def fetch_checkpoint(name: str, results: str | os.PathLike = "results", log: Any = None, **options: Any) -> Path:
    """The folder `results`/NAME with the published latest.pt and options.pkl, fetched unless they are there.

    What was fetched is checked before we return: the options are readable, the weights whole.

    Args:
        options: as those of `download_drive_folder`.

    Raises:
        UserError: no checkpoint has that name, it cannot be fetched, or it is damaged.
    """
    if name not in CHECKPOINT_FOLDERS:
        raise UserError(f"{name}: no published checkpoint has this name; there are {', '.join(CHECKPOINT_FOLDERS)}")
    folder = Path(results) / name
    fetched = download_drive_folder(
        CHECKPOINT_FOLDERS[name],
        folder,
        CHECKPOINT_FILES,
        what=f"the published checkpoint {name}",
        log=log,
        **options,
    )
    for path in fetched:
        _check(path, log)
    return folder


def _check(path: Path, log: Any) -> None:
    try:
        if path.name == "options.pkl":
            load_namespace(path)
        else:
            from i2sb.runtime.safe_torch import check_torch

            if log is not None:
                log.info(f"checking {path}")
            check_torch(path, verify=True)
    except UserError as error:
        raise UserError(f"{error}; remove it to have it fetched anew") from None
