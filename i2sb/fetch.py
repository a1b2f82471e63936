"""Published files, fetched to where the program looks for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from i2sb import addresses
from i2sb.addresses import CHECKPOINT_FOLDERS, Remote
from i2sb.errors import UserError, those_there
from i2sb.runtime.download import download, download_drive_folder
from i2sb.runtime.reading import check_tensors, load_options, load_torch


def fetch(remote: Remote, folder: str | os.PathLike = "data", log: Any = None, **options: Any) -> Path:
    """The local path of a published file, fetched now unless it is there. `options`: as those of `download`.

    Raises:
        UserError: it is not there and cannot be fetched, or what is there is another file.
    """
    known = {"what": remote.what, "size": remote.size, "sha256": remote.sha256}
    return download(remote.url, Path(folder) / remote.name, log=log, **known, **options)


def download_ckpt(ckpt_dir: str | os.PathLike = "data/", log: Any = None) -> Path:
    """The pretrained weights in `ckpt_dir`: ADM's, fetched unless they are there (2.2 GB).

    Nothing is fetched where the original has left a network's description and weights of a kind,
    256x256_diffusion_{uncond,cond}_fixedsigma.pkl and .pt: those weights are returned.

    Raises:
        UserError: they are not there and cannot be fetched.
    """
    for kind in ("uncond", "cond"):
        weights = Path(ckpt_dir) / f"256x256_diffusion_{kind}_fixedsigma.pt"
        if weights.is_file() and weights.with_suffix(".pkl").is_file():
            return weights
    return fetch(addresses.ADM_WEIGHTS, ckpt_dir, log)


def fetch_checkpoint(name: str, log: Any = None) -> Path:
    """The folder results/NAME with the published latest.pt and options.pkl, fetched unless they are there.

    What was fetched is checked before we return: the options are readable, the weights whole.
    """
    if name not in CHECKPOINT_FOLDERS:
        raise UserError(f"{name}: no published checkpoint has this name; {those_there(name, CHECKPOINT_FOLDERS)}")
    folder, what = Path("results") / name, f"the published checkpoint {name}"
    checks = {"options.pkl": load_options, "latest.pt": lambda path: check_tensors(path, load_torch(path))}
    for path in download_drive_folder(CHECKPOINT_FOLDERS[name], folder, checks, what=what, log=log):
        try:
            checks[path.name](path)
        except UserError as error:
            raise UserError(f"{error}; remove it to have it fetched again") from None
    return folder
