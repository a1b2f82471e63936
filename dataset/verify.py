"""Reading every image of an LMDB to find the bad ones."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataset.build import Faults, ahead, chunks, why_not_an_image
from dataset.index import index_path, read_index
from dataset.names import NameIndex
from dataset.store import LmdbImages
from i2sb.errors import UserError, one_line
from i2sb.runtime.progress import Progress


def verify_lmdb(lmdb_path: str | os.PathLike, *, threads: int = 8, show_progress: bool = True) -> tuple[int, Faults]:
    """Decode every image of an LMDB, and look up every image of its index.

    Returns:
        the number of images in the LMDB, and a list of (path, reason) of the bad and the missing ones.

    Raises:
        UserError: the LMDB or its index cannot be opened.
    """
    store, bad = LmdbImages(lmdb_path), Faults()
    count, keys = len(store), []
    try:
        keys.extend(store)
    except UserError as error:  # a damaged page
        bad.append((str(store.path), f"{error}; the images after it were not read"))
    if index_path(lmdb_path).is_file():
        names = NameIndex(keys)
        samples = read_index(index_path(lmdb_path)).samples
        bad += [(path, "is in the index but not in the LMDB") for path, _ in samples if path not in names]
    else:
        bad.append((str(index_path(lmdb_path)), "there is no such file: the LMDB cannot be used without it"))

    def check(part: list[str]) -> Faults:
        return [(key, why) for key in part if (why := _fault(store, key))]

    title, done = f"Verifying {one_line(Path(lmdb_path).name)}", 0
    with ThreadPoolExecutor(max(1, threads)) as pool, Progress(title, len(keys), shown=show_progress) as progress:
        for part, faults in ahead(pool, check, chunks(keys, 64), 2 * threads):
            bad += faults
            done += len(part)
            progress.update(done, f"{done}/{len(keys)} images")
    return count, bad


def _fault(store: LmdbImages, key: str) -> str:
    try:
        return why_not_an_image(store.get(key))
    except UserError as error:
        return str(error)
