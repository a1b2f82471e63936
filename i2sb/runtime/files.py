"""Files that are whole or not there: atomic writing, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from i2sb.errors import UserError, printable

_NOT_KNOWN_HERE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}  # some network file systems, and FUSE


class _Draft(io.FileIO):
    """An unbuffered file that writes all it is given and remembers the first error of the disk.

    Libraries such as torch wrap an error of `write` into one of their own: this is how the cause is known.
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

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _open_draft(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield draft
        try:
            sync(draft.fileno())
            Path(draft.name).replace(path)
        except OSError as error:
            draft.error = error
            raise
    except BaseException as error:
        with contextlib.suppress(OSError):
            Path(draft.name).unlink()
        with contextlib.suppress(OSError):
            draft.close()
        if isinstance(error.__context__, KeyboardInterrupt):  # libraries make errors of their own of it
            raise error.__context__ from None
        if draft.error is not None and isinstance(error, Exception):
            raise unwritable(path, draft.error) from error
        raise
    draft.close()
    sync_folder(path.parent)


def _open_draft(path: Path) -> _Draft:
    """A new draft of `path`, locked as long as its writer lives; those of the dead are removed."""
    stem = os.fsdecode(os.fsencode(path.name)[:220])  # names may have 255 bytes
    for leftover in path.parent.glob(f".{glob.escape(stem)}.*.tmp"):
        with contextlib.suppress(OSError), leftover.open("r+b") as file:
            if _flock(file.fileno(), wait=False):
                leftover.unlink()
    while True:
        draft = _Draft(path.with_name(f".{stem}.{secrets.token_hex(4)}.tmp"), "x")
        _flock(draft.fileno())
        if os.fstat(draft.fileno()).st_nlink:
            return draft
        draft.close()  # swept between its making and its locking


def unwritable(path: Path, error: OSError) -> UserError:
    """The one line for a file or folder that cannot be written."""
    text = f"{printable(path)}: cannot be written: {error.strerror or error}"
    if path.is_file():
        text += " (the file there is as it was)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        text += "; choose a folder that can be, or start there: data/ and results/ lie where the program is started"
    return UserError(text)


def sync(handle: int) -> None:
    """Put an open file's bytes on the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_KNOWN_HERE:
            raise


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

    Its folder is made when missing, and then goes, too, where the block fails and leaves it empty. `on_wait` is called
    once when another holder makes us wait. A holder that dies frees the lock. Where the file system has no locks,
    nobody waits.
    """
    path = Path(path)
    was_there = path.parent.exists()
    with contextlib.ExitStack() as stack:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab"))
            if _flock(file.fileno(), wait=False) is False:
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                _flock(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            stack.close()  # the former holder removed this one: take the file that is there now
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
                if not was_there:
                    path.parent.rmdir()
            raise
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def only_if_used(folder: Path, rank: int = 0) -> Iterator[None]:
    """Remove a folder that the block has made, where it fails and has left nothing there but a log (rank 0 does)."""
    was_there = folder.exists()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if rank == 0 and not was_there and [path.name for path in folder.iterdir()] == ["log.txt"]:
                (folder / "log.txt").unlink()
                folder.rmdir()
                folder.parent.rmdir()  # where that was empty before
        raise


@contextlib.contextmanager
def only_one(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock `path`, in a folder that is made when missing; a UserError `busy` when another process holds it."""

    def give_up() -> None:
        raise UserError(busy)

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(path, on_wait=give_up))
        except OSError as error:
            raise unwritable(path.parent, error) from error
        yield


def _flock(handle: int, wait: bool = True) -> bool | None:
    """Lock an open file; False when another holds it and we do not wait, None where locks are not known."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NOT_KNOWN_HERE:
            raise
        return None
    return True
