"""Building an LMDB from a folder of images: one builder at a time, resumable, never taken for whole early.

The LMDB grows as `NAME.lmdb.partial` and is renamed to `NAME.lmdb` when it holds every image; `NAME.lmdb.pt`
follows, atomically.  A build that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb

from dataset.imagefolder_index import ImageIndex, read_index, scan_image_folder, write_index
from dataset.lmdb_check import check_whole
from dataset.lmdb_pages import MAX_KEY, LmdbError, LmdbFile
from dataset.lmdb_store import LmdbImages, as_key
from dataset.steps import Steps
from i2sb.errors import UserError
from i2sb.runtime.files import lock, sync_folder

_BATCH_FILES, _BATCH_BYTES = 256, 16 << 20  # one transaction: what an interruption costs at most
_SLACK = 32 << 20

Batch = list[tuple[bytes, str, int]]  # key, path, size of the file


def index_path(lmdb_path: str | os.PathLike) -> Path:
    """`NAME.lmdb` -> `NAME.lmdb.pt`."""
    return Path(f"{os.fspath(lmdb_path)}.pt")


def is_complete(lmdb_path: str | os.PathLike) -> bool:
    """Whether the LMDB and its index are both there (the index is written last)."""
    return Path(lmdb_path).exists() and index_path(lmdb_path).is_file()


def build_lmdb(
    images: str | os.PathLike,
    lmdb_path: str | os.PathLike,
    *,
    threads: int = 8,
    log: Any = None,
    show_progress: bool = True,
) -> ImageIndex:
    """Build `lmdb_path` and its index from `images`/CLASS/*.ext, unless they are there already.

    Safe to call from several processes at once: one builds, the others wait for it.

    Returns:
        the index of the LMDB.

    Raises:
        UserError: no images, a full disk, a folder that cannot be written to, a file that cannot be read.
    """
    lmdb_path = Path(lmdb_path)
    if is_complete(lmdb_path):  # without the lock, which a read-only folder does not allow
        return read_index(index_path(lmdb_path))
    say = log.info if log is not None else (lambda text: None)
    lock_path = lmdb_path.with_name(f".{lmdb_path.name}.lock")
    try:
        lmdb_path.parent.mkdir(parents=True, exist_ok=True)
        with lock(lock_path, on_wait=lambda: say(f"Waiting for another process that builds {lmdb_path}")):
            if is_complete(lmdb_path):
                return read_index(index_path(lmdb_path))
            index = scan_image_folder(images)
            if lmdb_path.exists():
                _check_holds_all(lmdb_path, index)
            else:
                say(f"Building {lmdb_path} from {len(index.samples)} images in {images}")
                _fill_and_rename(index, lmdb_path, threads, show_progress)
            write_index(index, index_path(lmdb_path))
            return index
    except PermissionError as error:
        raise UserError(
            f"{lmdb_path}: cannot be built: {_reason(error)}; `python scripts/build_lmdb.py {images} "
            f"OTHER_FOLDER/{lmdb_path.name}` builds it elsewhere"
        ) from error
    except (lmdb.CorruptedError, LmdbError) as error:
        raise UserError(
            f"{lmdb_path}: cannot be built: {error}; delete {lmdb_path.name}.partial to start anew"
        ) from error
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{lmdb_path}: cannot be built: {_reason(error)}") from error


def _check_holds_all(lmdb_path: Path, index: ImageIndex) -> None:
    """An LMDB without its index is taken for whole only when it holds every image of the folder."""
    store = LmdbImages(lmdb_path)
    missing = sum(store.find(path) is None for path, _ in index.samples)
    if missing:
        raise UserError(
            f"{lmdb_path}: has no {index_path(lmdb_path).name} beside it and lacks {missing} of "
            f"{len(index.samples)} images of {index.root}; move it away to have it built anew"
        )


def _fill_and_rename(index: ImageIndex, lmdb_path: Path, threads: int, show_progress: bool) -> None:
    partial = Path(f"{lmdb_path}.partial")
    with ThreadPoolExecutor(max(1, threads)) as pool, Steps(show_progress) as progress:
        progress.start("Reading sizes", len(index.samples))
        files = _with_sizes(index.samples, pool, progress)
        environment = _open_partial(partial, _map_size(files))
        try:
            todo = _remaining(environment, files)
            _check_space(partial.parent, todo)
            progress.start(f"Building {lmdb_path.name}", len(files), len(files) - len(todo))
            _write_all(environment, todo, pool, threads, progress)
            environment.sync(True)
            if environment.stat()["entries"] != len(files):
                raise UserError(f"{partial}: holds other images than {index.root}; delete it and start again")
        finally:
            environment.close()
    LmdbFile(partial)  # what reads it must take it
    index_path(lmdb_path).unlink(missing_ok=True)  # one of another LMDB
    partial.rename(lmdb_path)
    sync_folder(lmdb_path.parent)


def _with_sizes(samples: list[tuple[str, int]], pool: ThreadPoolExecutor, progress: Steps) -> Batch:
    paths = [path for path, _ in samples]
    chunks = [paths[i : i + 1000] for i in range(0, len(paths), 1000)]
    files: Batch = []
    for chunk, sizes in zip(chunks, pool.map(_sizes, chunks)):
        files += [(_key(path), path, size) for path, size in zip(chunk, sizes)]
        progress.advance(len(chunk))
    return files


def _sizes(paths: list[str]) -> list[int]:
    return [_or_user_error(path, lambda p: Path(p).stat().st_size) for path in paths]


def _key(path: str) -> bytes:
    key = as_key(path)
    if len(key) > MAX_KEY:
        raise UserError(
            f"{path}: the path is {len(key)} bytes long, an LMDB takes {MAX_KEY}; use a shorter folder"
        )
    return key


def _map_size(files: Batch) -> int:
    """An upper bound of the LMDB's size: values in whole pages, keys in leaves that may be half empty."""
    page = mmap.PAGESIZE
    values = sum((size + 16 + page - 1) // page for _, _, size in files) * page
    keys = sum(4 * (len(key) + 64) for key, _, _ in files)
    total = values + keys + values // 20 + _SLACK
    return (total + page - 1) // page * page


def _open_partial(path: Path, map_size: int) -> lmdb.Environment:
    """The LMDB under construction; a damaged one (after a power cut) is thrown away."""
    if path.exists():
        try:
            check_whole(LmdbFile(path))
        except (LmdbError, FileNotFoundError):
            shutil.rmtree(path)
    return lmdb.open(os.fspath(path), map_size=map_size)


def _remaining(environment: lmdb.Environment, files: Batch) -> Batch:
    """The files not yet in the LMDB (by key and length); what it holds beyond `files` is removed."""
    with environment.begin(buffers=True) as transaction:  # buffers: the values themselves are not read
        present = {bytes(key): len(value) for key, value in transaction.cursor()}
    with environment.begin(write=True) as transaction:
        for stranger in present.keys() - {key for key, _, _ in files}:
            transaction.delete(stranger)
    return [file for file in files if present.get(file[0]) != file[2]]


def _check_space(folder: Path, todo: Batch) -> None:
    needed, free = _map_size(todo) - _SLACK, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the LMDB needs about {_gib(needed)} more, but only {_gib(free)} are free there"
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _write_all(
    environment: lmdb.Environment, todo: Batch, pool: ThreadPoolExecutor, threads: int, progress: Steps
) -> None:
    """Threads read ahead, this one writes; one transaction per batch."""
    reading: deque = deque()
    try:
        for batch in _batches(todo):
            reading.append((batch, pool.submit(_read_batch, batch)))
            if len(reading) > threads + 1:
                _write_batch(environment, *_next(reading), progress)
        while reading:
            _write_batch(environment, *_next(reading), progress)
    finally:
        for _, future in reading:
            future.cancel()


def _next(reading: deque) -> tuple[Batch, list[bytes]]:
    batch, future = reading.popleft()
    return batch, future.result()


def _batches(files: Batch) -> Iterator[Batch]:
    batch: Batch = []
    total = 0
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or total + file[2] > _BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(file)
        total += file[2]
    if batch:
        yield batch


def _read_batch(batch: Batch) -> list[bytes]:
    return [_or_user_error(path, lambda p: Path(p).read_bytes()) for _, path, _ in batch]


def _or_user_error(path: str, action: Callable[[str], Any]) -> Any:
    try:
        return action(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _write_batch(environment: lmdb.Environment, batch: Batch, contents: list[bytes], progress: Steps) -> None:
    for _ in range(8):
        try:
            with environment.begin(write=True) as transaction:
                for (key, _, _), content in zip(batch, contents):
                    transaction.put(key, content)
            break
        except lmdb.MapFullError:  # files have grown since their sizes were read
            environment.set_mapsize(environment.info()["map_size"] * 3 // 2)
    else:
        raise lmdb.MapFullError("the images keep growing")
    progress.advance(len(batch))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
