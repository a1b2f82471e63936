"""Network weights and statistics that other people publish: found, fetched, or asked for in one line."""

from pathlib import Path

import torch.hub

from evaluation.metrics import MetricUnavailable
from i2sb.addresses import Remote
from i2sb.errors import UserError, one_line
from i2sb.fetch import fetch
from i2sb.runtime.reading import load_script, load_torch


def find(remote: Remote, folder: Path | None = None) -> Path:
    """The file in `folder` (default: torch.hub's), fetched unless it is there.

    Raises MetricUnavailable, whose line has the reason, the address, and where to put the file by hand.
    """
    try:  # without network the other metrics must not wait for long
        return fetch(remote, _folder(folder), timeout=10, retries=1)
    except UserError as error:
        raise MetricUnavailable(str(error)) from error


def load(remote: Remote, *, script: bool = False) -> dict:
    """The state dict in the file in torch.hub's folder; no code in it runs.  Raises MetricUnavailable.

    script: of a TorchScript archive.
    """
    read = load_script if script else load_torch
    try:
        return dict(read(find(remote)))  # without _metadata, which may be anything
    except (UserError, TypeError, ValueError) as error:  # the last two: no mapping
        raise broken(remote, error) from error


def broken(remote: Remote, reason: object, folder: Path | None = None) -> MetricUnavailable:
    """The exception for a file that is here and unusable."""
    path, why = _folder(folder) / remote.name, one_line(reason, 200)
    return MetricUnavailable(f"{remote.what} at {path}: unusable ({why}): remove it, or replace it by {remote.url}")


def _folder(folder: Path | None) -> Path:
    """By default where torchvision and clean-fid look too, which follows TORCH_HOME."""
    return Path(folder or Path(torch.hub.get_dir(), "checkpoints")).absolute()
