"""Files that are whole or not there: atomic writing, locks between processes, careful reading of JSON."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from i2sb.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: one process at a time is all we can offer there
    fcntl = None

_MAX_JSON = 2**26
_NO_LOCKS_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


def read_json(path: str | os.PathLike) -> Any:
    """What a small JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or too large or too deep to be one of ours.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise ValueError("it is no regular file")
    with Path(path).open("rb") as file:
        content = file.read(_MAX_JSON + 1)
    if len(content) > _MAX_JSON:
        raise ValueError(f"it is larger than {_MAX_JSON} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Draft(io.FileIO):
    """An unbuffered file that writes all it is given and remembers the first error of the disk.

    Libraries such as torch wrap an error of `write` into one of their own; remembering it lets us report the
    cause.
    """

    error: OSError | None = None

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = self.error or error
            raise
        return done


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[io.FileIO]:
    """Open a binary file that takes the place of `path` when the block ends well, and never before.

    The data lie in a hidden file of the same folder (made when missing) until they are on the disk. When the
    block fails, that file goes and `path` stays as it was; what a killed process left, the next one sweeps.
    Where `path` is a link, the file takes the link's place, and what it pointed to stays: a folder from a stranger
    may have links to anywhere.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        draft = _open_draft(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield draft
        _finish(draft, path)
    except BaseException as error:
        _discard(draft)
        if isinstance(error.__context__, KeyboardInterrupt):  # libraries make errors of their own of it
            raise error.__context__ from None
        if draft.error is not None and isinstance(error, Exception):
            raise _unwritable(path, draft.error) from error
        raise


def _finish(draft: _Draft, path: Path) -> None:
    try:
        os.fsync(draft.fileno())
        Path(draft.name).replace(path)
        draft.close()
        sync_folder(path.parent)
    except OSError as error:
        draft.error = error
        raise


def _discard(draft: _Draft) -> None:
    with contextlib.suppress(OSError):
        Path(draft.name).unlink()
    with contextlib.suppress(OSError):
        draft.close()


def _open_draft(path: Path) -> _Draft:
    while True:
        draft = _Draft(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"), "x")
        try:
            _flock(draft.fileno())  # tells a sweeper that the writer is alive
        except BaseException:
            _discard(draft)
            raise
        if os.fstat(draft.fileno()).st_nlink:
            return draft
        draft.close()  # swept between its making and its locking


def _sweep(path: Path) -> None:
    """Remove drafts of `path` whose writers are gone: whoever lives holds the lock of its own."""
    for leftover in path.parent.glob(f".{_literal(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), leftover.open("r+b") as file:
            if _flock(file.fileno(), wait=False):
                leftover.unlink()


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _unwritable(path: Path, error: OSError) -> UserError:
    kept = " (the file there is as it was)" if path.exists() else ""
    return UserError(f"{path}: cannot be written: {error.strerror or error}{kept}")


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def lock(path: str | os.PathLike, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the file `path` as a lock between processes (and threads); it goes when the block ends.

    `on_wait` is called once when another holder makes us wait. A holder that dies frees the lock.

    Raises:
        OSError: the lock's file cannot be made (its folder is missing or cannot be written to).
    """
    path = Path(path)
    while True:
        # a link in a stranger's folder may lead anywhere
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if _flock(handle, wait=False) is False:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                _flock(handle)
            if _is_at(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the former holder removed this one: take the file that is there now
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


@contextlib.contextmanager
def only_one(path: Path, busy: str) -> Iterator[None]:
    """Hold the file `path` as a lock while the block runs; its folder is made when missing.

    Raises:
        UserError: with the text `busy`, when another process holds it; or the folder cannot be written to.
    """

    def give_up() -> None:
        raise UserError(busy)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = lock(path, on_wait=give_up)
        guard.__enter__()
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to: {error.strerror or error}") from error
    try:
        yield
    finally:
        guard.__exit__(None, None, None)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _flock(handle: int, wait: bool = True) -> bool | None:
    """Lock an open file; False when another holds it and we do not wait, None where locks are not known."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        return None
    return True
