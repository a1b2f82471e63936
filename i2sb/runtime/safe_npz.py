"""NumPy's npz files from anywhere: sizes are checked first, and nothing is unpickled."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from i2sb.errors import one_line

MAX_BYTES = 2**27  # of an array; FID's covariance has 32 MiB
_MAX_HEADER = 2**16  # NumPy accepts 10,000 characters, but reads any number first


def load_npz(
    path: str | os.PathLike, names: Iterable[str], *, optional: Iterable[str] = (), limit: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """The arrays `names` of an npz file, and those of `optional` that are there.

    np.load alone believes the sizes that a file states, and raises errors of any kind for a damaged one.

    Args:
        limit: bytes that an array may have.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or it lacks an array, or has one of objects or above the limit; one line says which.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("it is no regular file")
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            wanted = [*names, *(name for name in optional if f"{name}.npy" in there)]
            return {name: _array(archive, name, limit) for name in wanted}
    except Exception as error:  # whatever zipfile, its decompressors and NumPy stumble over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(one_line(error, 200) or type(error).__name__) from None


def open_array(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """The stream of an array, header first; what is read from it takes no more memory than was asked for.

    Raises:
        KeyError: there is none.
        ValueError: it is compressed in another way than NumPy's: those are unpacked in steps of any size.
    """
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its array {name} is compressed in a way that NumPy does not use")
    return archive.open(entry)


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran's order, dtype), with the numbers to be read next.

    Raises:
        ValueError: it is no header.
    """
    careful = _Careful(stream)
    version = np.lib.format.read_magic(careful)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(careful)


class _Careful(NamedTuple):
    """A stream that gives a header and no more."""

    stream: IO[bytes]

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER:
            raise ValueError("the header of an array is too large")
        return self.stream.read(size)


def _array(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    try:
        stream = open_array(archive, name)
    except KeyError:
        raise ValueError(f"it has no array {name}") from None
    with stream:
        stated = archive.getinfo(f"{name}.npy").file_size
        if stated > limit:
            raise ValueError(f"its array {name} has {stated} bytes, more than the {limit} that are accepted")
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(f"its array {name} holds Python objects")
        if math.prod(shape) * max(dtype.itemsize, 1) != stated - stream.tell():
            raise ValueError(f"its array {name} has not the {list(shape)} values of {dtype} that it states")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
