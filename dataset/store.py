"""Reading image files out of an LMDB: key = the image's path when it was built, value = the file's bytes."""

from __future__ import annotations

import io
import mmap
import os
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import lmdb

from dataset.index import how_to_rebuild
from dataset.names import Ambiguous, NameIndex
from i2sb.errors import UserError, one_line

MAX_KEY = 511  # bytes; compiled into the library
_OPENED: weakref.WeakValueDictionary[tuple[int, int], lmdb.Environment] = weakref.WeakValueDictionary()


class LmdbImages:
    """The image files of one LMDB, by path.

    The file is opened at the first access, read-only and without locks, so that a store can lie on a read-only disk and
    be pickled into the workers of a DataLoader.  Forked workers share the parent's: no process writes to the map.

    Keys carry the absolute paths of the machine that built the LMDB.  Where the asked path is no key, the key that ends
    in the same CLASS/FILE is taken, see `NameIndex`.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._environment: lmdb.Environment | None = None
        self._by_name: NameIndex | None = None

    def __reduce__(self) -> tuple:
        return LmdbImages, (self.path,)

    def __len__(self) -> int:
        return self._open().stat()["entries"]

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of their bytes."""
        for key, _, _ in entries(self.path):
            yield key.decode("utf-8", "surrogateescape")

    def get(self, path: str) -> bytes:
        """The bytes of the image file that was at `path`.  Raises UserError where there is none, or it is damaged."""
        value = self._value(path)
        if value is None and (key := self.key_of(path)) is not None:
            value = self._value(key)
        if value is None:
            raise UserError(f"{self.path}: holds no image {path}")
        return value

    def key_of(self, path: str) -> str | None:
        """The key that ends in the same CLASS/FILE as `path`; None where none does, or several do alike."""
        if self._by_name is None:
            self._by_name = NameIndex(self)
        try:
            return self._by_name.find(path)
        except Ambiguous:  # better none than the wrong one
            return None

    def open(self, path: str) -> BinaryIO:
        """The image file, to read from."""
        return io.BytesIO(self.get(path))

    def sizes(self, paths: list[str]) -> list[int]:
        """Of the image files [bytes]; -1 where one is missing.  No image is read: 1.3 million take about 10 s."""
        known = {key: size for key, size, _ in entries(self.path)}
        keys = map(as_key, paths)
        return [
            known[key] if key in known else known.get(as_key(self.key_of(path) or ""), -1)
            for path, key in zip(paths, keys)
        ]

    def how_to_replace(self, root: str) -> str:
        """What to do about a damaged image; `root`: where the images lay when the LMDB was built."""
        images = root if root and Path(root).is_dir() else "IMAGES"
        return f"replace or remove it and rebuild the LMDB: {how_to_rebuild(images, self.path)}"

    def _value(self, path: str) -> bytes | None:
        key = as_key(path)
        if len(key) > MAX_KEY:
            return None
        try:
            with self._open().begin() as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise _damaged(self.path, one_line(error)) from error

    def _open(self) -> lmdb.Environment:
        """Open the file, once per process: the library refuses a second time."""
        if self._environment is not None:
            return self._environment
        path = self.path
        try:
            status = _data_file(path).stat()
            environment = _OPENED.get((status.st_dev, status.st_ino))
            if environment is None:
                # with read-ahead: whole images are read, and page by page they would take three times as long
                environment = lmdb.open(os.fsencode(path), subdir=path.is_dir(), readonly=True, lock=False)
                if status.st_size < (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]:
                    # it is cut short (reading it would end us by SIGBUS), or ends before pages that were never written
                    needed = max((end for _, _, end in entries(path)), default=0)
                    if status.st_size < needed:
                        raise _damaged(path, f"it has {status.st_size} bytes of at least {needed}")
        except OSError as error:
            raise UserError(f"{path}: cannot be opened as an LMDB: {error.strerror}") from error
        except lmdb.MemoryError as error:
            raise MemoryError(f"{path}: its {status.st_size >> 20} MiB are mapped into memory as a whole") from error
        except lmdb.Error as error:
            raise _damaged(path, one_line(error)) from error
        self._environment = _OPENED[status.st_dev, status.st_ino] = environment
        return environment


def as_key(path: str) -> bytes:
    """The key of the image at `path`; names that are not UTF-8 keep their bytes."""
    return path.encode("utf-8", "surrogateescape")


def entries(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """(key, size of its value, where in the file the value ends) in the order of the keys.  Raises UserError."""
    # Read from the tree's own pages, as py-lmdb touches every page of a value to say its size: all 140 GB of ImageNet.
    # A leaf's node holds its value, or the size of a long one and its first page (LMDB 0.9, 64-bit little-endian).
    try:
        with _data_file(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            first = _META.unpack_from(data)
            second = _META.unpack_from(data, page_size := first[4])
            *_, root, _, _ = max(first, second, key=lambda meta: meta[-1])
            if root != _NO_PAGE:
                yield from _nodes_below(data, page_size, root)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (struct.error, ValueError) as error:
        raise _damaged(path, str(error)) from error


_META = struct.Struct("<16x II2Q IHH5Q IHH5Q 2Q")  # magic, version, map, trees (second: data), last page, time
_PAGE = struct.Struct("<QHHHH")  # number, -, kind, end of the nodes' offsets, -
_NODE = struct.Struct("<4H")  # number of a child, or size of a value (2) and flags (1); length of the key
_BRANCH, _LONG_VALUE, _NO_PAGE = 1, 1, 2**64 - 1


def _nodes_below(data: mmap.mmap, page_size: int, number: int) -> Iterator[tuple[bytes, int, int]]:
    page = data[number * page_size : (number + 1) * page_size]
    found, _, kind, lower, _ = _PAGE.unpack_from(page)
    if found != number:
        raise ValueError(f"page {number} is not in its place")
    for offset in struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size):
        low, high, flags, length = _NODE.unpack_from(page, offset)
        if kind & _BRANCH:
            yield from _nodes_below(data, page_size, low | high << 16 | flags << 32)
            continue
        start = offset + _NODE.size
        size, end, value = low | high << 16, (number + 1) * page_size, start + length
        if flags & _LONG_VALUE:
            end = int.from_bytes(page[value : value + 8], "little") * page_size + _PAGE.size + size
        yield page[start:value], size, end


def _data_file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: the LMDB is cut short or damaged ({reason}): copy it again, or delete it and its .pt and rebuild it: "
        f"python scripts/build_lmdb.py IMAGES {path}"
    )
