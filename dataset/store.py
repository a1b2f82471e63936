"""Reading image files out of an LMDB: key = the image's path when it was built, value = the file's bytes."""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

import lmdb

from dataset.names import Ambiguous, NameIndex
from i2sb.errors import UserError, one_line

MAX_KEY = 511  # bytes; compiled into the library


class LmdbImages:
    """The image files of one LMDB, by path.

    The file is opened at the first access, read-only and without locks, so that a store can lie on a read-only disk and
    be pickled into the workers of a DataLoader.  Forked workers share the parent's: no process writes to the map.

    Keys carry the absolute paths of the machine that built the LMDB.  Where the asked path is no key, the key that ends
    in the same CLASS/FILE is taken.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._environment: lmdb.Environment | None = None
        self._by_name: NameIndex | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["path"])

    def __len__(self) -> int:
        return self._open().stat()["entries"]

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of their bytes."""
        for key, _ in self.sizes():
            yield as_path(key)

    def sizes(self) -> Iterator[tuple[bytes, int]]:
        """(key, size of the image file in bytes) of all images, in the order of the keys.  The images are not read."""
        for key, size, _ in entries(self.path):
            yield key, size

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
        value = self._value(as_key(path))
        if value is None and (key := self.key_of(path)) is not None:
            value = self._value(as_key(key))
        return value

    def key_of(self, path: str) -> str | None:
        """The key that ends in the same CLASS/FILE as `path`; None where none does, or several do alike."""
        if self._by_name is None:
            self._by_name = NameIndex(self)
        try:
            return self._by_name.find(path)
        except Ambiguous:  # better none than the wrong one
            return None

    def _value(self, key: bytes) -> bytes | None:
        if not 0 < len(key) <= MAX_KEY:
            return None
        try:
            with self._open().begin() as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise damaged(self.path, one_line(error)) from error

    def _open(self) -> lmdb.Environment:
        if self._environment is None:
            self._environment = _open_lmdb(self.path)
        return self._environment


def as_key(path: str) -> bytes:
    """The key of the image at `path`."""
    return path.encode("utf-8", "surrogateescape")  # names that are not UTF-8 keep their bytes


def as_path(key: bytes) -> str:
    """The path of the image with `key`."""
    return key.decode("utf-8", "surrogateescape")


def damaged(path: Path, reason: str) -> UserError:
    """The error for an LMDB that cannot be used, with the ways out."""
    return UserError(
        f"{path}: the LMDB is cut short or damaged ({reason}): copy it again, or delete it and its .pt and rebuild it: "
        f"python scripts/build_lmdb.py IMAGES {path}"
    )


_OPENED: weakref.WeakValueDictionary[tuple[int, int], lmdb.Environment] = weakref.WeakValueDictionary()


def _open_lmdb(path: Path) -> lmdb.Environment:
    """The library refuses to open a file twice in one process: those that are open are shared."""
    try:
        data = _data_file(path)
        status = data.stat()
        environment = _OPENED.get((status.st_dev, status.st_ino))
        if environment is None:
            if not data.is_file() or status.st_size == 0:
                raise damaged(path, "it is empty or no file")
            # with read-ahead: whole images are read, and page by page they would take three times as long
            environment = lmdb.open(os.fsencode(path), subdir=path.is_dir(), readonly=True, lock=False)
            if status.st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]:
                _check_reach(path, status.st_size)
            _OPENED[status.st_dev, status.st_ino] = environment
        return environment
    except OSError as error:
        raise UserError(f"{path}: cannot be opened as an LMDB: {error.strerror}") from error
    except lmdb.Error as error:
        raise damaged(path, one_line(error)) from error


def _check_reach(path: Path, size: int) -> None:
    """Tell a file that is cut short, where reading would end the process (SIGBUS), from one that ends early.

    Pages that were taken and given back within one transaction are counted but never written; if they are the last
    ones, the file ends before them.
    """
    needed = max((end for _, _, end in entries(path)), default=0)
    if size < needed:
        raise damaged(path, f"it has {size} bytes of at least {needed}")


def _data_file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


# --- sizes of the values, which the library cannot tell without reading each value


_META = struct.Struct("<II2Q IHH5Q IHH5Q 2Q")  # magic, version, map, two trees (the second: data), last page, time
_PAGE = struct.Struct("<QHHHH")  # number, -, kind, end of the node offsets, -
_NODE = struct.Struct("<4H")  # child or size of the value (low, high), flags, length of the key
_LEAF, _LONG = 2, 1
_NONE = 2**64 - 1  # root of an empty tree


def entries(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """(key, size of its value, where in the file the value ends) in the order of the keys, from the leaf pages alone.

    LMDB 0.9's format on 64-bit little-endian machines.  A node of a leaf holds its value, or the number of the page
    where a long one begins.

    Raises:
        UserError: the file cannot be read, is cut short or damaged.
    """
    try:
        with _data_file(Path(path)).open("rb", buffering=0) as file:
            page_size, root = _newest_tree(file)
            waiting = [] if root == _NONE else [root]
            while waiting:
                number = waiting.pop()
                file.seek(number * page_size)
                page = file.read(page_size)
                nodes = [_node(page, offset) for offset in _offsets(page, number)]
                if not _PAGE.unpack_from(page)[2] & _LEAF:
                    waiting += [low | high << 16 | flags << 32 for low, high, flags, _, _ in reversed(nodes)]
                    continue
                for low, high, flags, key, start in nodes:
                    size, end = low | high << 16, (number + 1) * page_size
                    if flags & _LONG:
                        end = int.from_bytes(page[start : start + 8], "little") * page_size + _PAGE.size + size
                    yield key, size, end
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (struct.error, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise damaged(path, str(error)) from error


def _newest_tree(file) -> tuple[int, int]:
    """(page size, root page of the data) of the newer of the two meta pages."""
    first = _META.unpack_from(file.read(4096), _PAGE.size)
    page_size = first[4]
    file.seek(page_size)
    second = _META.unpack_from(file.read(4096), _PAGE.size)
    return page_size, max(first, second, key=lambda meta: meta[-1])[-3]


def _offsets(page: bytes, number: int) -> tuple[int, ...]:
    found, _, kind, lower, _ = _PAGE.unpack_from(page)
    if found != number or kind not in (1, _LEAF):
        raise ValueError(f"page {number} is not in its place")
    return struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)


def _node(page: bytes, offset: int) -> tuple[int, int, int, bytes, int]:
    low, high, flags, length = _NODE.unpack_from(page, offset)
    start = offset + _NODE.size
    return low, high, flags, page[start : start + length], start + length
