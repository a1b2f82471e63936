"""Reading an LMDB file with every number in it checked before it is used.

The lmdb library trusts the file that it maps: one wrong number in a page, and it reads outside of the map, which
ends the process.  Data sets come from strangers, so they are read here: pages by `pread`, nothing mapped,
nothing written.  (Building one is the library's work: `dataset.lmdb_build`.)

The format, of LMDB 0.9 on 64-bit little-endian machines.  The file is an array of pages of equal size.  Pages 0
and 1 are the meta pages, of which the one with the higher transaction number counts; each holds the roots of two
B+ trees, that of the free pages and that of the data.  A page begins with a header of 16 bytes: its number, a
field of no use here, its kind, and the two ends of its free space.  Offsets of its nodes follow (2 bytes each),
in the order of the nodes' keys; the nodes fill the page from its end.  A node has a head of 8 bytes, its key, and
in a leaf its value.  A value that is too long lies in overflow pages, consecutive ones under one header.
"""

from __future__ import annotations

import bisect
import os
import stat
import struct
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<QHHHH")  # page number, -, kind, start and end of the free space
_OVERFLOW_HEAD = struct.Struct("<QHHI")  # page number, -, kind, how many pages
_META = struct.Struct("<IIQQ")  # magic number, version, address of the map, size of the map
_TREE = struct.Struct("<IHHQQQQQ")  # page size (first tree), flags, depth, branches, leaves, overflow, entries, root
_TAIL = struct.Struct("<QQ")  # last page, transaction
_NODE = struct.Struct("<HHHH")  # two numbers that depend on the kind of the page, flags, length of the key
_NUMBER = struct.Struct("<Q")

_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 0x01, 0x02, 0x04, 0x08
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_LONG_VALUE = 0x01  # flag of a node: its value is the number of an overflow page
_NONE = 2**64 - 1  # root of an empty tree
_MAX_DEPTH = 32  # as in the library
_MAX_VALUE = 2**30
_PAGE_SIZES = [2**power for power in range(9, 17)]


MAX_KEY = 511  # bytes; compiled into the library


class LmdbError(ValueError):
    """The file is no LMDB, or a damaged one; the text says what is wrong with it, but not its name."""


class Tree(NamedTuple):
    """What a meta page says of one B+ tree."""

    flags: int
    depth: int
    entries: int
    root: int


class Page:
    """A branch or leaf page: keys in ascending order, with a child page or a value for each.

    Attributes:
        number: which page it is.
        is_leaf: whether it has values.
        content: all of its bytes.
        lower, upper: the ends of its free space.
        offsets: where in `content` its nodes begin.
    """

    def __init__(self, number: int, content: bytes) -> None:
        self.number = number
        found, _, kind, self.lower, self.upper = _HEAD.unpack_from(content)
        self.is_leaf = kind == _LEAF
        if found != number or kind not in (_LEAF, _BRANCH):
            raise LmdbError(f"page {number} is neither a branch nor a leaf")
        if not _HEAD.size < self.lower <= len(content) or self.lower % 2:
            raise LmdbError(f"page {number} has no sensible number of nodes")
        self.content = content
        self.offsets = struct.unpack_from(f"<{(self.lower - _HEAD.size) // 2}H", content, _HEAD.size)

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, index: int) -> bytes:
        """Of the first node of a branch it has no meaning."""
        _, _, _, start, end = self._node(index)
        return self.content[start:end]

    def child(self, index: int) -> int:
        """Of a branch: the number of the page with the keys from `key(index)` on."""
        low, middle, high, _, _ = self._node(index)
        return low | middle << 16 | high << 32

    def value(self, index: int) -> tuple[int, bytes, bool]:
        """Of a leaf: (length of the value, the value, False), or the number of its page and True."""
        low, high, flags, _, start = self._node(index)
        length, is_long = low | high << 16, flags == _LONG_VALUE
        if flags & ~_LONG_VALUE:
            raise LmdbError(f"page {self.number}: a value is no image but another database")
        held = self.content[start : start + (_NUMBER.size if is_long else length)]
        if len(held) < (_NUMBER.size if is_long else length):
            raise LmdbError(f"page {self.number}: a value reaches beyond it")
        return length, held, is_long

    def find(self, key: bytes) -> int | None:
        """Of a leaf: which node has this key."""
        index = bisect.bisect_left(range(len(self)), key, key=self.key)
        return index if index < len(self) and self.key(index) == key else None

    def find_child(self, key: bytes) -> int:
        """Of a branch: the number of the page where this key is, if anywhere."""
        return self.child(bisect.bisect_right(range(1, len(self)), key, key=self.key))

    def _node(self, index: int) -> tuple[int, int, int, int, int]:
        """The first three numbers of the head, and where the key begins and ends."""
        offset = self.offsets[index]
        start = offset + _NODE.size
        if start > len(self.content):
            raise LmdbError(f"page {self.number}: a node lies beyond it")
        first, second, third, length = _NODE.unpack_from(self.content, offset)
        if start + length > len(self.content) or length > MAX_KEY:
            raise LmdbError(f"page {self.number}: a key reaches beyond it")
        return first, second, third, start, start + length


class LmdbFile:
    """The unnamed database of one LMDB file, open for reading.  Threads and forked processes may share it.

    Args:
        path: the folder that holds data.mdb, or the file itself.

    Attributes:
        free, tree: of the free pages, of the data.
        last: the number of the last page that was ever taken.

    Raises:
        OSError: it cannot be read.
        LmdbError: it is no LMDB, is cut short, or is of a kind that holds no images.  Of damage further inside,
            only what is met is noticed, by `get` and iteration; `dataset.lmdb_check` reads all.
    """

    def __init__(self, path: Path) -> None:
        data = path / "data.mdb" if path.is_dir() else path
        if not stat.S_ISREG(data.stat().st_mode):
            raise LmdbError("it is no regular file")
        self._file = data.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._guard = threading.Lock()
        self._size = os.fstat(self._file.fileno()).st_size
        self._page_size, self.free, self.tree, self.last = self._newest_meta()
        if self._size < (self.last + 1) * self._page_size:
            self._check_reach()

    def __len__(self) -> int:
        return self.tree.entries

    @property
    def num_pages(self) -> int:
        """How many pages are there; up to `last` may have been counted."""
        return self._size // self._page_size

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        number = self.tree.root
        if number == _NONE:
            return None
        for level in range(1, self.tree.depth):
            number = self._page(number, level, self.tree).find_child(key)
        leaf = self._page(number, self.tree.depth, self.tree)
        index = leaf.find(key)
        return None if index is None else self.value(leaf, index)

    def __iter__(self) -> Iterator[bytes]:
        """All keys, in the order of their bytes."""
        for page, _ in self.pages(self.tree):
            if page.is_leaf:
                keys = list(map(page.key, range(len(page))))
                if sum(map(len, keys)) + _NODE.size * len(keys) > self._page_size:  # a small file, endless keys
                    raise LmdbError(f"page {page.number}: its nodes overlap")
                yield from keys

    def pages(self, tree: Tree) -> Iterator[tuple[Page, bytes | None]]:
        """The pages of a tree from left to right, each with the key that its parents promise to be its least.

        One that is met a second time, as in a circle, is refused.
        """
        seen: set[int] = set()
        waiting = [] if tree.root == _NONE else [(tree.root, 1, None)]
        while waiting:
            number, level, least = waiting.pop()
            page = self._page(number, level, tree)
            if number in seen:
                raise LmdbError(f"page {number} is used twice")
            seen.add(number)
            yield page, least
            if not page.is_leaf:
                for index in reversed(range(len(page))):
                    waiting.append((page.child(index), level + 1, page.key(index) if index else least))

    def value(self, leaf: Page, index: int) -> bytes:
        """The value of a node of a leaf."""
        length, held, is_long = leaf.value(index)
        if not is_long:
            return held
        if length > _MAX_VALUE:
            raise LmdbError(f"page {leaf.number}: a value of {length} bytes is no image")
        number, _ = self.long_value(held, length)
        return self._read(number * self._page_size + _HEAD.size, length)

    def check_number(self, number: int, count: int) -> None:
        """There must be pages `number` to `number + count - 1`."""
        if not 2 <= number <= self.last + 1 - count:
            raise LmdbError(f"there is no page {number + count - 1}; the last one is {self.last}")

    def long_value(self, held: bytes, length: int) -> tuple[int, int]:
        """(first page, number of pages) of a value with `length` bytes; `held` is what its node holds."""
        (number,) = _NUMBER.unpack(held)
        self.check_number(number, 1)
        found, _, kind, count = _OVERFLOW_HEAD.unpack(self._read(number * self._page_size, _HEAD.size))
        if found != number or kind != _OVERFLOW or _HEAD.size + length > count * self._page_size:
            raise LmdbError(f"page {number} does not hold the value that it should")
        self.check_number(number, count)
        return number, count

    def _newest_meta(self) -> tuple[int, Tree, Tree, int]:
        """(page size, tree of the free pages, tree of the data, last page) of the newest meta page."""
        first = self._meta(0)
        second = self._meta(first[1])
        if second[1] != first[1]:
            raise LmdbError("its two meta pages disagree")
        newest = max(first, second, key=lambda meta: meta[0])
        if newest[0] % 2 != (newest is second) or newest[0] >= 2**63:  # transactions take turns, and count from 0
            raise LmdbError(f"transaction {newest[0]} is not what its meta page can hold")
        return newest[1:]

    def _meta(self, offset: int) -> tuple[int, int, Tree, Tree, int]:
        """(transaction, page size, ...) of the meta page at `offset`."""
        content = self._read(offset, _HEAD.size + _META.size + 2 * _TREE.size + _TAIL.size)
        kind = _HEAD.unpack_from(content)[2]
        magic, version, _, _ = _META.unpack_from(content, _HEAD.size)
        if magic != _MAGIC or kind != _META_PAGE:
            raise LmdbError("it does not begin like the LMDB of a 64-bit little-endian machine")
        if version != _VERSION:
            raise LmdbError(f"it is of format version {version}; version {_VERSION} can be read")
        start = _HEAD.size + _META.size
        page_size, free = self._tree_at(content, start)
        value_size, data = self._tree_at(content, start + _TREE.size)
        last, transaction = _TAIL.unpack_from(content, start + 2 * _TREE.size)
        if page_size not in _PAGE_SIZES:
            raise LmdbError(f"its pages cannot be of {page_size} bytes")
        if data.flags or value_size:
            raise LmdbError("its keys are not of the plain kind that a data set has")
        if data.entries * _NODE.size > self._size:
            raise LmdbError(f"{self._size} bytes cannot hold {data.entries} entries")
        return transaction, page_size, free, data, last

    @staticmethod
    def _tree_at(content: bytes, offset: int) -> tuple[int, Tree]:
        page_size, flags, depth, _, _, _, entries, root = _TREE.unpack_from(content, offset)
        if depth > _MAX_DEPTH or (root != _NONE) != (depth > 0):
            raise LmdbError(f"a tree cannot have depth {depth}")
        return page_size, Tree(flags, depth, entries, root)

    def _check_reach(self) -> None:
        """Tell a file that is cut short from one that ends early.

        Pages that were taken and given back within one transaction are counted but never written; if they are
        the last ones, the file ends before them.  So all pages in use must be there, and no others.
        """
        needed = 0
        try:
            for page, _ in self.pages(self.tree):
                for index in range(len(page)) if page.is_leaf else ():
                    length, held, is_long = page.value(index)
                    if is_long:
                        needed = max(needed, _NUMBER.unpack(held)[0] * self._page_size + _HEAD.size + length)
        except LmdbError as error:
            raise LmdbError(f"it is cut short or damaged: {error}; copy it again") from error
        if self._size < needed:
            raise LmdbError(f"it is cut short: {self._size} of at least {needed} bytes; copy it again")

    def _page(self, number: int, level: int, tree: Tree) -> Page:
        self.check_number(number, 1)
        page = Page(number, self._read(number * self._page_size, self._page_size))
        if page.is_leaf != (level == tree.depth):
            raise LmdbError(f"page {number} is on the wrong level of its tree")
        return page

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            raise LmdbError(f"it ends at byte {self._size}; byte {offset + size} is referred to")
        if hasattr(os, "pread"):
            content = os.pread(self._file.fileno(), size, offset)
        else:  # Windows
            with self._guard:
                self._file.seek(offset)
                content = self._file.read(size)
        if len(content) < size:
            raise LmdbError(f"it ends at byte {offset + len(content)}, in the middle of a page")
        return content
