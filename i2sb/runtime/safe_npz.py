"""NumPy's npz files from anywhere: sizes are checked first, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterable

import numpy as np

from i2sb.errors import one_line

MAX_BYTES = 2**30  # of an array; FID's covariance has 32 MiB


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
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            wanted = [*names, *(name for name in optional if f"{name}.npy" in there)]
            return {name: _array(archive, name, limit) for name in wanted}
    except Exception as error:  # whatever zipfile, its decompressors and NumPy stumble over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(one_line(error, 200) or type(error).__name__) from None


def _array(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no array {name}") from None
    if entry.file_size > limit:
        raise ValueError(f"its array {name} has {entry.file_size} bytes, more than the {limit} that are accepted")
    content = io.BytesIO(archive.read(entry))
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(content)
    if dtype.hasobject:
        raise ValueError(f"its array {name} holds Python objects")
    if math.prod(shape) * max(dtype.itemsize, 1) != len(content.getbuffer()) - content.tell():
        raise ValueError(f"its array {name} has not the {list(shape)} values of {dtype} that it states")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)
