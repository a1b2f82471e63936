"""Operators from a file of the user's: `--corruption-file my_op.py --corrupt my-op`.

No checkpoint makes us run a file that the user does not know: one that a checkpoint names is run only if it is, byte
for byte, the one that it was trained with, and this user has named the same bytes before; any other has to be named on
the command line.  (The checksum alone would not do: who hands on a checkpoint may put a file beside it.)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corruption.names import OperatorFile, check_task, is_built_in, read_operators
from corruption.registry import load_file, place_in_file
from i2sb.errors import UserError, one_line


def load_operators(opt: Any, given: str | None, log: Any) -> None:
    """Make the task `opt.corrupt` known, where it is none of those that come with the package.

    Afterwards `corruption_file` and `corruption_sha256` of `opt` say which file it is from; they are saved.

    Args:
        opt: options of a training, or of a checkpoint (which may lack these two).
        given: --corruption-file of this run.

    Raises:
        UserError: the file is needed and not there, or is another than the checkpoint's; or there is a fault in it.
    """
    if is_built_in(opt.corrupt):
        return
    known, saved = getattr(opt, "corruption_sha256", None), getattr(opt, "corruption_file", None)
    file = _read(given) if given else _read_saved(opt.corrupt, saved, known)
    if known not in (None, file.sha256):
        log.warning(f"[Corrupt] {file.path}: is another file than before, or has changed since the training")
    with operator_errors():
        check_task(opt.corrupt, file)
        load_file(file)
    if given:
        _remember(file.sha256)
    opt.corruption_file, opt.corruption_sha256 = file.path, file.sha256


def _read(path: str) -> OperatorFile:
    with operator_errors():
        return read_operators(path)


def _read_saved(task: str, path: str | None, sha256: str | None) -> OperatorFile:
    """The file that a checkpoint names, if it is the same."""
    if not path:
        reason = "is no task of this package, and the checkpoint does not say which file it is from"
    elif not Path(path).is_file():
        reason = f"comes from {one_line(path)}, which is not there"
    else:
        file = _read(path)
        if file.sha256 == sha256 and _is_known(sha256):
            return file
        why = "you have not named before" if file.sha256 == sha256 else "has changed since the training"
        reason = f"comes from {one_line(path)}, which {why}"
    raise UserError(f"the task '{one_line(task)}' {reason}; give --corruption-file FILE")


def _known_files() -> Path:
    """A folder with an empty file for each operator file that this user has named, called by its SHA-256."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "i2sb" / "operators"


def _is_known(sha256: str) -> bool:
    try:
        return (_known_files() / sha256).is_file()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return False


def _remember(sha256: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # then it is asked for again
        _known_files().mkdir(parents=True, exist_ok=True)
        (_known_files() / sha256).touch()


@contextlib.contextmanager
def operator_errors() -> Iterator[None]:
    """Faults in a user's operator as UserErrors with file and line; what operators refuse, as UserErrors as well."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if place := place_in_file(error):
            raise UserError(f"{place}: {type(error).__name__}: {one_line(error, 200)}") from error
        if isinstance(error, ValueError):
            raise UserError(one_line(error, 600)) from error
        raise
