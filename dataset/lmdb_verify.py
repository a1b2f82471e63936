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

_CHUNK = 64


def verify_lmdb(
    lmdb_path: str | os.PathLike, *, threads: int = 8, show_progress: bool = True
) -> tuple[int, list[tuple[str, str]]]:
    """Decode every image of an LMDB, and look up every image of its index.

    Returns:
        the number of images in the LMDB, and a list of (path, reason) of the bad and the missing ones.

    Raises:
        UserError: the LMDB or its index cannot be read at all.
    """
    store = LmdbImages(lmdb_path)
    count = len(store)
    bad: list[tuple[str, str]] = []
    if index_path(lmdb_path).is_file():
        samples = read_index(index_path(lmdb_path)).samples
        bad += [
            (path, "is in the index but not in the LMDB") for path, _ in samples if store.find(path) is None
        ]
    else:
        bad.append(
            (str(index_path(Path(lmdb_path))), "there is no such file: the LMDB cannot be used without it")
        )
    with ThreadPoolExecutor(max(1, threads)) as pool, Steps(show_progress) as steps:
        steps.start(f"Verifying {Path(lmdb_path).name}", count)
        waiting: deque = deque()
        for chunk in _chunks(store):
            waiting.append((len(chunk), pool.submit(_bad_ones, store, chunk)))
            while len(waiting) > 2 * threads:
                _collect(waiting, bad, steps)
        while waiting:
            _collect(waiting, bad, steps)
    return count, bad


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
