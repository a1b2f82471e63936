"""Reading image files out of an LMDB: key = the image's path when it was built, value = the file's bytes."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import lmdb

from dataset.imagefolder_index import class_and_file
from i2sb.errors import UserError

MAX_KEY = 511  # bytes; compiled into LMDB

# LMDB forbids opening one file twice in a process, so all stores of a process share its environments.
_environments: weakref.WeakValueDictionary[tuple, lmdb.Environment] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def _close_inherited() -> None:
    """A forked process must not use what its parent opened."""
    global _guard
    _guard = threading.Lock()
    for environment in list(_environments.values()):
        environment.close()
    _environments.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


class LmdbImages:
    """The image files of one LMDB, by path.

    The LMDB is opened read-only and without locks at the first access in each process, so that a store can be
    forked or pickled into the workers of a DataLoader, and lie on a read-only disk.

    Keys carry the absolute paths of the machine that built the LMDB.  Where the asked path is no key, the key
    with the same CLASS/FILE is taken.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._environment: lmdb.Environment | None = None
        self._process: int | None = None
        self._by_class_and_file: dict[str, bytes | None] | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["path"])

    def __len__(self) -> int:
        return self._open().stat()["entries"]

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of their bytes."""
        with self._reading() as transaction:
            for key in transaction.cursor().iternext(keys=True, values=False):
                yield key.decode("utf-8", "surrogateescape")

    def get(self, path: str) -> bytes:
        """The bytes of the image file that was at `path`.

        Raises:
            UserError: there is no LMDB, or it is damaged, or it holds no such image.
        """
        value = self.find(path)
        if value is None:
            raise UserError(f"{self.path}: holds no image {path}")
        return value

    def find(self, path: str) -> bytes | None:
        """As `get`, but None where there is no such image."""
        key = as_key(path)
        if 0 < len(key) <= MAX_KEY and (value := self._value(key)) is not None:
            return value
        key = self._keys_by_name().get(class_and_file(path))
        return None if key is None else self._value(key)

    def _value(self, key: bytes) -> bytes | None:
        with self._reading() as transaction:
            return transaction.get(key)

    def _keys_by_name(self) -> dict[str, bytes | None]:
        if self._by_class_and_file is None:
            table: dict[str, bytes | None] = {}
            for key in self:
                name = class_and_file(key)
                # two images of one name: better none than the wrong one
                table[name] = None if name in table else as_key(key)
            self._by_class_and_file = table
        return self._by_class_and_file

    @contextlib.contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._open().begin() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise UserError(f"{self.path}: the LMDB is damaged: {error}") from error

    def _open(self) -> lmdb.Environment:
        if self._environment is None or self._process != os.getpid():
            self._environment = _shared_environment(self.path)
            self._process = os.getpid()
        return self._environment


def as_key(path: str) -> bytes:
    """The key of the image at `path`."""
    return path.encode("utf-8", "surrogateescape")  # names that are no UTF-8 keep their bytes


def _shared_environment(path: Path) -> lmdb.Environment:
    data = path / "data.mdb" if path.is_dir() else path
    try:
        status = data.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be opened as an LMDB: {error.strerror}") from error
    with _guard:
        identity = (os.path.realpath(data), status.st_dev, status.st_ino)
        environment = _environments.get(identity)
        if environment is None:
            environment = open_readonly(path)
            size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            if status.st_size < size:  # reading beyond the end of a mapped file would kill the process
                environment.close()
                raise UserError(
                    f"{path}: the LMDB is cut short: {status.st_size} of {size} bytes; copy it again"
                )
            _environments[identity] = environment
    return environment


def open_readonly(path: Path) -> lmdb.Environment:
    """Open an LMDB folder (or single file) for reading.

    Raises:
        UserError: it is none, or of another version, or cannot be read.
    """
    try:
        # no readahead: images are drawn at random; no meminit: nothing is written
        return lmdb.open(
            os.fspath(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False
        )
    except lmdb.Error as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: cannot be opened as an LMDB: {reason}") from error
