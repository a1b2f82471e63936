"""Reading every image of an LMDB to find the bad ones."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from dataset.imagefolder_index import read_index
from dataset.images import decode
from dataset.lmdb_build import index_path
from dataset.lmdb_store import LmdbImages
from dataset.steps import Steps
from i2sb.errors import UserError

_CHUNK = 64


def verify_lmdb(
    lmdb_path: str | os.PathLike, *, threads: int = 8, show_progress: bool = True
) -> tuple[int, list[tuple[str, str]]]:
    """Decode every image of an LMDB, and look up every image of its index.

    Returns:
        the number of images in the LMDB, and a list of (path, reason) of the bad and the missing ones.

    Raises:
        UserError: the LMDB or its index cannot be opened.
    """
    store = LmdbImages(lmdb_path)
    count = len(store)
    bad: list[tuple[str, str]] = []
    if index_path(lmdb_path).is_file():
        samples = read_index(index_path(lmdb_path)).samples
        reasons = ((path, _why_not_there(store, path)) for path, _ in samples)
        bad += [(path, reason) for path, reason in reasons if reason]
    else:
        bad.append(
            (str(index_path(Path(lmdb_path))), "there is no such file: the LMDB cannot be used without it")
        )
    with ThreadPoolExecutor(max(1, threads)) as pool, Steps(show_progress) as steps:
        steps.start(f"Verifying {Path(lmdb_path).name}", count)
        waiting: deque = deque()
        for chunk in _chunks(_keys(store, bad)):
            waiting.append((len(chunk), pool.submit(_bad_ones, store, chunk)))
            while len(waiting) > 2 * threads:
                _collect(waiting, bad, steps)
        while waiting:
            _collect(waiting, bad, steps)
    return count, bad


def _why_not_there(store: LmdbImages, path: str) -> str:
    """Why the image of the index is not found, or nothing."""
    try:
        return "" if store.find(path) is not None else "is in the index but not in the LMDB"
    except UserError as error:
        return str(error)


def _keys(store: LmdbImages, bad: list[tuple[str, str]]) -> Iterator[str]:
    """The keys up to the first damaged page, which goes to the bad ones."""
    try:
        yield from store
    except UserError as error:
        bad.append((str(store.path), f"{error}; the images after it were not read"))


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(keys)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _collect(waiting: deque, bad: list[tuple[str, str]], steps: Steps) -> None:
    size, future = waiting.popleft()
    bad += future.result()
    steps.advance(size)


def _bad_ones(store: LmdbImages, keys: list[str]) -> list[tuple[str, str]]:
    bad = []
    for key in keys:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd metadata is none of our business
                decode(store.get(key))
        except Exception as error:  # Pillow's plug-ins raise errors of many types
            bad.append((key, " ".join(str(error).split()) or type(error).__name__))
    return bad
