"""Checking all of an LMDB file but the images themselves, before the lmdb library may write to it.

The library trusts what it finds.  It moves nodes about in their pages and reuses the pages that are listed as free:
where a file lies about either, it would write outside of its memory or over an image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from dataset.lmdb_pages import LmdbError, LmdbFile, Page, Tree

_NODE_HEAD, _NUMBER = 8, 8  # bytes
_FEW = 10**5  # pages that may be counted without being there, see `LmdbFile`
_INTEGER_KEYS = 0x08  # the flags of the tree of free pages: its keys are transaction numbers


def check_whole(file: LmdbFile) -> None:
    """Read every page of both trees.

    Raises:
        LmdbError: what is wrong, of several things one.
    """
    if file.free.flags != _INTEGER_KEYS:
        raise LmdbError("its list of free pages is of an unknown kind")
    if file.last > 2 * file.num_pages + _FEW:
        raise LmdbError(f"it counts {file.last} pages and has {file.num_pages}")
    used: list[tuple[int, int]] = []  # first page, number of pages
    for page in _checked_pages(file, file.tree, order=bytes):
        used += _pages_of(file, page)
    for page in _checked_pages(file, file.free, order=_as_number):
        used += _pages_of(file, page)
        for index in range(len(page)) if page.is_leaf else ():
            used += _free_pages(file, file.value(page, index))
    used.sort()
    for (first, count), (after, _) in pairwise(used):
        if first + count > after:
            raise LmdbError(f"page {after} is used twice")


def _checked_pages(file: LmdbFile, tree: Tree, order: Callable[[bytes], Any]) -> Iterator[Page]:
    """The pages of a tree; its keys are in order and as many as the file says."""
    before: list = []  # the last key so far
    entries = 0
    for page, least in file.pages(tree):
        _check_nodes(page)
        yield page
        if not page.is_leaf:
            continue
        keys = [order(page.key(index)) for index in range(len(page))]
        if any(key >= after for key, after in pairwise(before + keys)):
            raise LmdbError(f"page {page.number}: its keys are not in order")
        if least is not None and not before[0] < order(least) <= keys[0]:
            raise LmdbError(f"page {page.number}: its keys are not those of its place in the tree")
        before, entries = keys[-1:], entries + len(keys)
    if entries != tree.entries:
        raise LmdbError(f"it holds {entries} entries instead of {tree.entries}")


def _check_nodes(page: Page) -> None:
    """The nodes must fill the page from the end of its free space to its own end, each at an even place."""
    end = page.upper
    for index in sorted(range(len(page)), key=page.offsets.__getitem__):
        size = _NODE_HEAD + len(page.key(index)) + (len(page.value(index)[1]) if page.is_leaf else 0)
        if page.offsets[index] != end:
            raise LmdbError(f"page {page.number}: a node is not where it should be")
        end += size + size % 2
    if end != len(page.content) or page.lower > page.upper:
        raise LmdbError(f"page {page.number}: its nodes do not fill it")
    if not page.is_leaf and len(page) < 2:
        raise LmdbError(f"page {page.number} has a single child")


def _pages_of(file: LmdbFile, page: Page) -> Iterator[tuple[int, int]]:
    """The page itself and those of its long values."""
    yield page.number, 1
    for index in range(len(page)) if page.is_leaf else ():
        length, held, is_long = page.value(index)
        if is_long:
            yield file.long_value(held, length)


def _free_pages(file: LmdbFile, value: bytes) -> Iterator[tuple[int, int]]:
    """A list of free pages: how many there are, then their numbers from the highest down."""
    if not value or len(value) % _NUMBER:
        raise LmdbError("its list of free pages ends within a number")
    count, *numbers = struct.unpack(f"<{len(value) // _NUMBER}Q", value)
    if count > len(numbers) or any(number <= after for number, after in pairwise(numbers[:count])):
        raise LmdbError("its list of free pages is too short or not in order")
    for number in numbers[:count]:
        file.check_number(number, 1)
        yield number, 1


def _as_number(key: bytes) -> int:
    if len(key) != _NUMBER:
        raise LmdbError("its list of free pages has keys that are no transaction numbers")
    return int.from_bytes(key, "little")
