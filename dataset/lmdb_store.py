"""Reading image files out of an LMDB: key = the image's path when it was built, value = the file's bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dataset.imagefolder_index import class_and_file
from dataset.lmdb_pages import MAX_KEY, LmdbError, LmdbFile
from i2sb.errors import UserError


class LmdbImages:
    """The image files of one LMDB, by path.

    The file is opened at the first access in each process, read-only and without locks, so that a store can be
    forked or pickled into the workers of a DataLoader, and lie on a read-only disk.

    Keys carry the absolute paths of the machine that built the LMDB.  Where the asked path is no key, the key
    with the same CLASS/FILE is taken.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._file: LmdbFile | None = None
        self._by_class_and_file: dict[str, bytes | None] | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["path"])

    def __len__(self) -> int:
        return len(self._open())

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of their bytes."""
        with self._reading() as file:
            for key in file:
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
        with self._reading() as file:
            return file.get(key)

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
    def _reading(self) -> Iterator[LmdbFile]:
        try:
            yield self._open()
        except LmdbError as error:
            raise UserError(f"{self.path}: the LMDB is damaged: {error}") from error
        except OSError as error:
            raise UserError(f"{self.path}: the LMDB cannot be read: {error.strerror}") from error

    def _open(self) -> LmdbFile:
        if self._file is None:
            self._file = _open_lmdb(self.path)
        return self._file


def as_key(path: str) -> bytes:
    """The key of the image at `path`."""
    return path.encode("utf-8", "surrogateescape")  # names that are no UTF-8 keep their bytes


def _open_lmdb(path: Path) -> LmdbFile:
    try:
        return LmdbFile(path)
    except (LmdbError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be opened as an LMDB: {reason}") from error
