"""A file of torch.save whose tensors are written piece by piece: more data than memory, one file at the end."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from i2sb.runtime.files import atomic_write

_ALIGNMENT = 64  # where torch puts tensors, so that they can be mapped into memory
_STORAGES = {
    np.dtype(np.float32): torch.FloatStorage,
    np.dtype(np.uint8): torch.ByteStorage,
    np.dtype(np.int64): torch.LongStorage,
}


class Stream(NamedTuple):
    """A tensor to be written: its dtype, its shape, and its values as arrays in C order, one after another."""

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Iterable[np.ndarray]


class _Storage(NamedTuple):
    kind: type
    key: str
    numel: int


class _Tensor:
    """Pickles as a contiguous CPU tensor does."""

    def __init__(self, storage: _Storage, shape: tuple[int, ...]):
        strides = np.cumprod((1, *shape[:0:-1]))[::-1]
        self.args = (storage, 0, shape, tuple(map(int, strides)), False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            return ("storage", obj.kind, obj.key, "cpu", obj.numel)
        return None


def save_stream(path: str | os.PathLike, tensors: Mapping[str, Stream], **plain: Any) -> None:
    """Write {name: tensor, name: plain value} so that `torch.load` reads it, without ever holding a tensor in memory.

    The same numbers give the same bytes: the entries bear no time.
    """
    storages = {
        name: _Storage(_STORAGES[np.dtype(t.dtype)], str(i), int(np.prod(t.shape)))
        for i, (name, t) in enumerate(tensors.items())
    }
    buffer = io.BytesIO()
    written = {name: _Tensor(storages[name], t.shape) for name, t in tensors.items()}
    _Pickler(buffer, protocol=2).dump({**written, **plain})
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), buffer.getvalue())
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
        for name, tensor in tensors.items():
            _write_storage(archive, file, storages[name], tensor, name)
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def _write_storage(archive: zipfile.ZipFile, file: io.FileIO, storage: _Storage, tensor: Stream, name: str) -> None:
    entry = zipfile.ZipInfo(f"archive/data/{storage.key}")
    # Local header, name, zip64 field of 20 bytes, our own field of 4 bytes and its padding, then the data
    begin = file.tell() + 30 + len(entry.filename) + 20 + 4
    padding = -begin % _ALIGNMENT
    entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    written = 0
    with archive.open(entry, "w", force_zip64=True) as member:
        for piece in tensor.pieces:
            data = np.ascontiguousarray(piece, dtype=np.dtype(tensor.dtype).newbyteorder("<"))
            member.write(data.data.cast("B"))
            written += data.size
    if written != storage.numel:
        raise ValueError(f"{name}: {written} values were given for the shape {list(tensor.shape)}")
