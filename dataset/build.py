"""Building an LMDB from a folder of images, and verifying one.

The LMDB grows as `NAME.lmdb.partial`.  When it holds every image, `NAME.lmdb.pt` is written, then it is renamed to
`NAME.lmdb`: it is whole or not there.  A build that was interrupted resumes where it stopped.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

from dataset.decode import decode
from dataset.folder import scan
from dataset.index import ImageIndex, how_to_rebuild, index_path, read_index, write_index
from dataset.names import NameIndex
from dataset.store import MAX_KEY, LmdbImages, as_key, entries
from i2sb.errors import UserError, one_line
from i2sb.photographs import is_deep, parse
from i2sb.runtime.files import lock, sync_folder
from i2sb.runtime.progress import Progress

_BATCH = 64  # images of one transaction: what an interruption costs
_LISTED = 100  # damaged images that are named

Faults = list[tuple[str, str]]  # (path, reason)


def is_complete(lmdb_path: str | os.PathLike) -> bool:
    """Whether the LMDB and its index are both there."""
    return Path(lmdb_path).exists() and index_path(lmdb_path).is_file()


def build_lmdb(
    images: str | os.PathLike,
    lmdb_path: str | os.PathLike,
    *,
    threads: int = 8,
    log: Any = None,
    skip_unreadable: int = 0,
) -> ImageIndex:
    """Build `lmdb_path` and its index from the images in `images` (see `scan`), unless they are there already.

    Every image is decoded once, and damaged ones are listed; up to `skip_unreadable` of them are left out.  Several
    processes may call this at once: one builds, the others wait for it.

    Raises:
        UserError: no images, too many damaged ones, a full disk, a folder that cannot be written to.
    """
    lmdb_path, log = Path(lmdb_path), log or logging.getLogger(__name__)
    lock_path = lmdb_path.with_name(f".{lmdb_path.name}.lock")
    try:
        if not is_complete(lmdb_path):  # else without the lock, which a read-only folder does not allow
            with lock(lock_path, on_wait=lambda: log.info(f"Waiting for another process that builds {lmdb_path}")):
                if not is_complete(lmdb_path):
                    _build(images, lmdb_path, threads, log, skip_unreadable)
        return read_index(index_path(lmdb_path))
    except (OSError, lmdb.Error) as error:
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else error
        why = f"{lmdb_path}: cannot be built: {one_line(why, 700)}"
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
            why += f"; to build it in another --dataset-dir: python scripts/build_lmdb.py {images} DIR/{lmdb_path.name}"
        raise UserError(why) from error


def _build(images: str | os.PathLike, lmdb_path: Path, threads: int, log: Any, skip_unreadable: int) -> None:
    if lmdb_path.exists():
        raise UserError(
            f"{lmdb_path}: {index_path(lmdb_path).name} is missing beside it: copy it too, or rebuild both: "
            f"{how_to_rebuild(images, lmdb_path)}"
        )
    samples, classes = scan(images, log=log)
    log.info(one_line(f"Building {lmdb_path} from {len(samples)} images in {images}", 1000))
    partial = Path(f"{lmdb_path}.partial")
    bad = dict(_fill(partial, [path for path, _ in samples], threads))
    _list_damaged(images, bad, len(samples), skip_unreadable, log)
    index = ImageIndex(os.fspath(images), classes, [sample for sample in samples if sample[0] not in bad])
    write_index(index, index_path(lmdb_path))
    partial.rename(lmdb_path)  # now it is complete
    sync_folder(lmdb_path.parent)


def damaged(
    images: str | os.PathLike, paths: list[str], skip_unreadable: int, log: Any, decoding: dict, threads: int = 8
) -> set[str]:
    """Decode all images of the folder `images`: those that cannot be; a UserError if more than `skip_unreadable`."""
    batches = in_threads(lambda path: _read(path, decoding)[1], paths, threads, f"Checking {one_line(images)}")
    bad = {path: why for batch in batches for path, why in batch if why}
    _list_damaged(images, bad, len(paths), skip_unreadable, log)
    return set(bad)


def _list_damaged(images: str | os.PathLike, bad: dict[str, str], count: int, skip_unreadable: int, log: Any) -> None:
    for path, why in islice(bad.items(), _LISTED):
        log.warning(f"{one_line(path, 400)}: {why}")
    if len(bad) > skip_unreadable:
        path, why = next(iter(bad.items()))
        others = ", others are listed above" if len(bad) > 1 else ""
        raise UserError(
            f"{images}: {len(bad)} of {count} images cannot be used: {one_line(path, 600)} {why}{others}; "
            f"replace or remove them, or leave them out: --skip-unreadable {len(bad)}"
        )


def _fill(partial: Path, paths: list[str], threads: int) -> Faults:
    """Write all images but the damaged ones, which are returned."""
    present, written = _present(partial)
    todo, sizes, bad = [], [], Faults()
    for path in paths:
        key = as_key(path)
        if len(key) > MAX_KEY:
            raise UserError(
                f"{one_line(path, 700)}: the path is {len(key)} bytes long, an LMDB takes {MAX_KEY}; use a shorter "
                "folder, or a link to it with a short name"
            )
        status = os.stat(path)  # noqa: PTH116  (pathlib is slow by the million)
        sizes.append(status.st_size)
        if present.get(key) != status.st_size or status.st_ctime > written:
            todo.append(path)
    needed, free = sum(sizes) - sum(present.values()), shutil.disk_usage(partial.parent).free
    if needed > free:
        lack = f"the LMDB needs {needed / 2**30:.1f} GiB more, but {free / 2**30:.1f} GiB are free"
        raise UserError(f"{partial.parent}: {lack}")
    # an upper bound: values in whole pages, keys in leaves that may be half empty
    pages = sum(size // mmap.PAGESIZE + 3 for size in sizes)
    map_size = (pages + pages // 20) * mmap.PAGESIZE + (32 << 20)
    title, done = f"Building {one_line(partial.stem)}", len(paths) - len(todo)
    with lmdb.open(os.fsencode(partial), map_size=map_size, lock=False) as environment:
        _write(environment, dict.fromkeys(present.keys() - set(map(as_key, paths))))
        for batch in in_threads(_read, todo, threads, title, done):
            bad += [(path, why) for path, (_, why) in batch if why]
            _write(environment, {as_key(path): None if why else content for path, (content, why) in batch})
    return bad


def _write(environment: lmdb.Environment, images: dict[bytes, bytes | None]) -> None:
    """In one transaction; an image that is None is deleted."""
    with environment.begin(write=True) as transaction:
        for key, content in images.items():
            if content is None:
                transaction.delete(key)
            else:
                transaction.put(key, content)


def _present(partial: Path) -> tuple[dict[bytes, int], float]:
    """(sizes of the images that an interrupted build has written, time of its last write)."""
    try:
        len(LmdbImages(partial))
        return {key: size for key, size, _ in entries(partial)}, (partial / "data.mdb").stat().st_mtime
    except UserError:  # none, or one that a power cut has damaged
        shutil.rmtree(partial, ignore_errors=True)
        return {}, 0


def _read(path: str, decoding: dict | None = None) -> tuple[bytes, str]:
    """The bytes of an image, and why it cannot be used ("" if it can)."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return b"", f"cannot be read: {error.strerror}"
    return content, _why_not_an_image(content, decoding)


def _why_not_an_image(content: bytes, decoding: dict | None = None) -> str:
    """decoding: arguments of `decode`; None: an LMDB takes images of any channels and values."""
    try:
        if decoding is None and is_deep(content):
            parse(content, 3, (0, 1))
        else:
            decode(content, **(decoding or {}))
    except ValueError as error:
        return f"cannot be decoded: {error}"
    return ""


def in_threads(work: Callable, paths: Sequence, threads: int, title: str, done: int = 0) -> Iterator[list[tuple]]:
    """Batches of (path, work(path)) in order, with a progress bar; `done` other images were done before."""
    total = done + len(paths)
    with ThreadPoolExecutor(threads) as pool, Progress(title, total, done) as progress:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            yield list(zip(batch, pool.map(work, batch)))
            done += len(batch)
            progress.update(done, f"{done}/{total} images")


def verify_lmdb(lmdb_path: str | os.PathLike, *, threads: int = 8) -> tuple[int, Faults]:
    """(number of images in an LMDB, (path, reason) of those that cannot be decoded, or that only its index has).

    Raises:
        UserError: the LMDB or its index is missing or damaged.
    """
    store, index = LmdbImages(lmdb_path), read_index(index_path(lmdb_path))
    keys = list(store)
    names = NameIndex(keys)
    bad = [(path, "is in the index but not in the LMDB") for path, _ in index.samples if path not in names]

    def fault(key: str) -> str:
        return _why_not_an_image(store.get(key))

    for batch in in_threads(fault, keys, threads, f"Verifying {one_line(Path(lmdb_path).name)}"):
        bad += [(key, why) for key, why in batch if why]
    return len(keys), bad
