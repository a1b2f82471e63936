"""Building an LMDB from a folder of images: one builder at a time, resumable, never taken for whole early.

The LMDB grows as `NAME.lmdb.partial`.  When it holds every image, `NAME.lmdb.pt` is written, then it is renamed to
`NAME.lmdb`.  A build that was interrupted resumes where it stopped.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from dataset.decode import decode, reason
from dataset.folder import Samples, scan
from dataset.index import ImageIndex, how_to_rebuild, index_path, read_index, write_index
from dataset.names import class_and_file
from dataset.store import MAX_KEY, LmdbImages, as_key, entries
from i2sb.errors import UserError, one_line
from i2sb.runtime.files import lock, sync_folder
from i2sb.runtime.progress import Progress

_BATCH_FILES, _BATCH_BYTES = 256, 16 << 20  # about one transaction: what an interruption costs
_SLACK = 32 << 20
_LISTED = 100  # damaged images that are named
_NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS}

Faults = list[tuple[str, str]]  # (path, reason)


class _File(NamedTuple):
    key: bytes
    path: str
    size: int
    changed: float  # seconds since 1970


def is_complete(lmdb_path: str | os.PathLike) -> bool:
    """Whether the LMDB and its index are both there."""
    return Path(lmdb_path).exists() and index_path(lmdb_path).is_file()


def build_lmdb(
    images: str | os.PathLike,
    lmdb_path: str | os.PathLike,
    *,
    threads: int = 8,
    log: Any = None,
    show_progress: bool = True,
    skip_unreadable: int = 0,
) -> ImageIndex:
    """Build `lmdb_path` and its index from the images in `images`/CLASS/, unless they are there already.

    Every image is decoded once, and damaged ones are listed.  Safe to call from several processes at once: one builds,
    the others wait for it.

    Args:
        skip_unreadable: so many images at most may be left out because they cannot be read or decoded.

    Returns:
        the index of the LMDB.

    Raises:
        UserError: no images, too many damaged ones, a full disk, a folder that cannot be written to.
    """
    lmdb_path, log = Path(lmdb_path), log or logging.getLogger(__name__)
    if is_complete(lmdb_path):  # without the lock, which a read-only folder does not allow
        return read_index(index_path(lmdb_path))
    lock_path = lmdb_path.with_name(f".{lmdb_path.name}.lock")
    try:
        lmdb_path.parent.mkdir(parents=True, exist_ok=True)
        with lock(lock_path, on_wait=lambda: log.info(f"Waiting for another process that builds {lmdb_path}")):
            if is_complete(lmdb_path):
                return read_index(index_path(lmdb_path))
            if lmdb_path.exists():
                raise UserError(
                    f"{lmdb_path}: {index_path(lmdb_path).name} is missing beside it: copy it too, or rebuild both: "
                    f"{how_to_rebuild(images, lmdb_path)}"
                )
            samples, classes = scan(images, classes=True, log=log)
            index = ImageIndex(os.fspath(images), classes, {name: i for i, name in enumerate(classes)}, samples)
            log.info(one_line(f"Building {lmdb_path} from {len(samples)} images in {images}", 1000))
            partial = Path(f"{lmdb_path}.partial")
            bad = _fill(partial, samples, threads, show_progress)
            _report(bad, index, skip_unreadable, log)
            left_out = {path for path, _ in bad}
            index.samples = [sample for sample in samples if sample[0] not in left_out]
            write_index(index, index_path(lmdb_path))
            partial.rename(lmdb_path)  # now it is complete
            sync_folder(lmdb_path.parent)
            return index
    except (OSError, lmdb.Error) as error:
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else error
        why = f"{lmdb_path}: cannot be built: {one_line(why, 700)}"
        if getattr(error, "errno", None) in _NO_WRITING:
            why += f"; to build it in another --dataset-dir: python scripts/build_lmdb.py {images} DIR/{lmdb_path.name}"
        raise UserError(why) from error


def differences(images: str | os.PathLike, index: ImageIndex) -> str:
    """In what the images of a folder and of an LMDB's index differ by their names, or nothing."""
    there = {class_and_file(path) for path, _ in scan(images, classes=True)[0]}
    here = {class_and_file(path) for path, _ in index.samples}
    parts = [
        f"{len(only)} only in the {where}, such as {one_line(min(only))}"
        for where, only in (("folder", there - here), ("LMDB", here - there))
        if only
    ]
    return "; ".join(parts)


def _fill(partial: Path, samples: Samples, threads: int, show_progress: bool) -> Faults:
    """Write all images but the damaged ones, which are returned.  Threads read and decode ahead."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        files = [file for part in pool.map(_describe, chunks(samples, 1000)) for file in part]
        present, written = _present(partial)
        todo = [file for file in files if present.get(file.key) != file.size or file.changed > written]
        _check_space(partial.parent, todo)
        environment = lmdb.open(os.fsencode(partial), map_size=_map_size(files), lock=False)
        try:
            bad: Faults = []
            _write(environment, {}, present.keys() - {file.key for file in files})
            done = len(files) - len(todo)
            with Progress(f"Building {one_line(partial.stem)}", len(files), done, shown=show_progress) as progress:
                for batch, contents in ahead(pool, _read, _batches(todo), threads + 1):
                    read = dict(zip([file.key for file in batch], contents))
                    good = {key: content for key, content in read.items() if isinstance(content, bytes)}
                    bad += [(file.path, why) for file in batch if isinstance(why := read[file.key], str)]
                    _write(environment, good, read.keys() - good.keys())
                    done += len(batch)
                    progress.update(done, f"{done}/{len(files)} images")
            return bad
        finally:
            environment.close()


def _write(environment: lmdb.Environment, images: dict[bytes, bytes], gone: Iterable[bytes]) -> None:
    with environment.begin(write=True) as transaction:
        for key in gone:
            transaction.delete(key)
        for key, content in images.items():
            transaction.put(key, content)


def _report(bad: Faults, index: ImageIndex, skip_unreadable: int, log: Any) -> None:
    for path, why in bad[:_LISTED]:
        log.warning(f"{one_line(path, 400)}: {why}")
    if len(bad) > skip_unreadable:
        path, why = bad[0]
        raise UserError(
            f"{index.root}: {len(bad)} of {len(index.samples)} images cannot be used: {one_line(path, 600)} {why}"
            f"{', others are listed above' if len(bad) > 1 else ''}; replace or remove them, or leave them out: "
            f"--skip-unreadable {len(bad)}"
        )
    if bad:
        log.warning(f"{index.root}: {len(bad)} images were left out, see above (--skip-unreadable {skip_unreadable})")


def _describe(samples: list[tuple[str, int]]) -> list[_File]:
    files = []
    for path, _ in samples:
        key = as_key(path)
        if len(key) > MAX_KEY:
            raise UserError(
                f"{one_line(path, 700)}: the path is {len(key)} bytes long, an LMDB takes {MAX_KEY}; use a shorter "
                "folder, or a link to it with a short name"
            )
        status = os.stat(path)  # noqa: PTH116  (pathlib is slow by the million)
        files.append(_File(key, path, status.st_size, status.st_ctime))
    return files


def _present(partial: Path) -> tuple[dict[bytes, int], float]:
    """(sizes of the images that an interrupted build has written, time of its last write).

    A damaged draft (power cut) is thrown away.
    """
    try:
        len(LmdbImages(partial))
        return {key: size for key, size, _ in entries(partial)}, (partial / "data.mdb").stat().st_mtime
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        return {}, 0


def _map_size(files: list[_File]) -> int:
    """An upper bound of the LMDB's size: values in whole pages, keys in leaves that may be half empty."""
    page = mmap.PAGESIZE
    values = sum((file.size + 16 + page - 1) // page for file in files) * page
    keys = sum(4 * (len(file.key) + 64) for file in files)
    total = values + keys + values // 20 + _SLACK
    return (total + page - 1) // page * page


def _check_space(folder: Path, todo: list[_File]) -> None:
    needed, free = _map_size(todo) - _SLACK, shutil.disk_usage(folder).free
    if needed > free:
        needed, free = needed / 2**30, free / 2**30
        raise UserError(f"{folder}: the LMDB needs about {needed:.1f} GiB more, but only {free:.1f} GiB are free there")


def _batches(files: list[_File]) -> Iterator[list[_File]]:
    ends = accumulate(max(file.size, _BATCH_BYTES // _BATCH_FILES) for file in files)
    for _, group in groupby(zip(files, ends), key=lambda pair: pair[1] // _BATCH_BYTES):
        yield [file for file, _ in group]


def _read(batch: list[_File]) -> list[bytes | str]:
    """The bytes of each image, or the reason why there are none."""
    contents: list[bytes | str] = []
    for file in batch:
        try:
            content = Path(file.path).read_bytes()
            contents.append(why_not_an_image(content) or content)
        except OSError as error:
            contents.append(f"cannot be read: {error.strerror}")
    return contents


def why_not_an_image(content: bytes) -> str:
    """Why the bytes of an image file cannot be decoded, or nothing."""
    try:
        decode(content)
    except Exception as error:  # Pillow's plug-ins raise errors of many types
        return f"cannot be decoded: {reason(error)}"
    return ""


def chunks(items: list, size: int) -> Iterator[list]:
    """Consecutive pieces of `size` items; the last one may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def ahead(pool: ThreadPoolExecutor, work: Callable, parts: Iterable, count: int) -> Iterator[tuple[Any, Any]]:
    """(part, work(part)) in order, while up to `count` parts are in the making."""
    parts, waiting = iter(parts), deque()
    while True:
        waiting += [(part, pool.submit(work, part)) for part in islice(parts, count - len(waiting))]
        if not waiting:
            return
        part, future = waiting.popleft()
        yield part, future.result()
