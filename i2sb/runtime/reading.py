"""Files from anywhere, opened without running them: torch files, pickled options, LMDB indices, npz and JSON.

Torch files go through `torch.load(weights_only=True)`, other pickles through `pickles.load`.  Whatever is wrong with a
file is a UserError of one line.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2sb.errors import UserError, one_line
from i2sb.runtime import pickles
from i2sb.runtime.pickles import Refused, plain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch >= 1.6 and older files begin
_REMAP_BYTES = 4 * 2**20  # a mapped file counts as memory as far as it was read: it is mapped again so often


# --- torch files


def load_torch(path: str | os.PathLike) -> Any:
    """What `torch.save` put into a file: tensors (on the CPU) in plain containers.  No code in it is run.

    The tensors stay on the disk until they are used (files of torch >= 1.6).  Their bytes are not compared with the
    file's checksums here: see `check_tensors` and `verified_pieces`.

    Raises:
        UserError: there is no such file, or it is cut, damaged, or holds other things than tensors and plain values.
    """
    import torch

    with _reasons(path):
        if is_zip := _is_zip(path):
            _data_pickle(path)  # torch itself does not look at checksums
        with Path(path).open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = os.fsdecode(path)
            if name.encode("utf-8", "replace") != os.fsencode(name):
                name = f"/proc/self/fd/{file.fileno()}"  # torch takes no names but those in UTF-8
            return torch.load(name, map_location="cpu", mmap=is_zip, weights_only=True)


def check_tensors(path: str | os.PathLike, tensors: Iterable[Tensor], log: Any = None) -> str:
    """Compare the bytes of tensors that `load_torch` gave with the checksums in their file.

    Takes 0.4 s per GB besides the reading.  Files that are no zip archives (torch before 1.6, safetensors) have no
    checksums: their bytes are identified only.

    Args:
        tensors: as they were loaded, neither moved nor converted.
        log: is given a warning if the file was written without checksums.

    Returns:
        16 hex digits that identify types, shapes and bytes as they were read.

    Raises:
        UserError: bytes have changed since they were written.
    """
    declared = _checksums(path, log)
    identity = hashlib.sha256()
    with _reasons(path):
        for tensor in tensors:
            stored = _bytes_of(tensor)
            crc = zlib.crc32(stored)
            if declared and len(stored) and (crc, len(stored)) not in declared:
                raise _damaged(path)
            if not _is_whole(tensor):  # a view of storage that it shares
                crc = zlib.crc32(_bytes_of(tensor.detach().contiguous().clone()))
            identity.update(f"{tensor.dtype} {list(tensor.shape)} {crc:08x}\n".encode())
    return identity.hexdigest()[:16]


def verified_pieces(path: str | os.PathLike, key: str, rows: int) -> Iterator[Tensor]:
    """Consecutive pieces [<=rows, ...] of the tensor `key` in a torch file, in constant memory.

    Whether the bytes are sound is known when all were read: damage is raised after the last piece.  So keep
    nothing of what was computed from the pieces before the loop has ended.

    Raises:
        UserError: as `load_torch`; there is no such tensor; or its bytes have changed since they were written.
    """
    declared = _checksums(path)
    arr, mapped, crc, size = _member(path, key), 0, 0, 0
    if not (whole := _is_whole(arr)):
        check_tensors(path, [arr])
    for start in range(0, len(arr), rows):
        if mapped > _REMAP_BYTES:
            arr, mapped = _member(path, key), 0
        piece = arr[start : start + rows].clone()
        stored = _bytes_of(piece)
        crc, size, mapped = zlib.crc32(stored, crc), size + len(stored), mapped + len(stored)
        yield piece
    if declared and whole and size and (crc, size) not in declared:
        raise _damaged(path)


def check_file(path: str | os.PathLike) -> None:
    """Read all of a torch file and compare its checksums, in constant memory.

    Raises:
        UserError: as `load_torch`; or bytes have changed since they were written.
    """
    load_torch(path)
    if _checksums(path):
        with _reasons(path), zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise _damaged(path)


def _is_zip(path: str | os.PathLike) -> bool:
    """Whether a torch file has the format of torch >= 1.6."""
    with Path(path).open("rb") as file:
        start = file.read(len(_LEGACY))
    if start.startswith(_ZIP):
        return True
    if start != _LEGACY:
        raise Refused("it is not a torch file" if start else "the file is empty")
    return False


def _data_pickle(path: str | os.PathLike) -> bytes:
    """The description of a torch file's content, checked where the file has checksums."""
    with zipfile.ZipFile(path) as archive:
        found = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(found) != 1:
            raise Refused("it is a zip archive but holds no weights")
        if not _is_sound(archive, found[0]):
            if _has_checksums(archive):
                raise _damaged(path)
            found[0].CRC = None  # read it unchecked
        return archive.read(found[0])


def _checksums(path: str | os.PathLike, log: Any = None) -> set[tuple[int, int]] | None:
    """(CRC-32, size) of each record of a torch file; None if there are no checksums."""
    with _reasons(path):
        with Path(path).open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                return None
        with zipfile.ZipFile(path) as archive:
            if _has_checksums(archive):
                return {(entry.CRC, entry.file_size) for entry in archive.infolist()}
    if log is not None:
        log.warning(f"{one_line(path, 400)}: was written without checksums, so damage to it goes unnoticed")
    return None


def _has_checksums(archive: zipfile.ZipFile) -> bool:
    """`torch.serialization.set_crc32_options(False)` makes all of them zero: not even one of a small record fits."""
    return any(_is_sound(archive, entry) for entry in archive.infolist() if "/data/" not in entry.filename)


def _is_sound(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        return archive.read(entry) != b""  # whose checksum is zero
    except zipfile.BadZipFile:
        return False


def _member(path: str | os.PathLike, key: str) -> Tensor:
    content = load_torch(path)
    value = content.get(key) if isinstance(content, dict) else None
    if not getattr(value, "ndim", 0):
        raise UserError(f"{one_line(path, 400)}: refused: it has no tensor {key}")
    return value


def _bytes_of(tensor: Tensor) -> memoryview:
    """All bytes of the storage that a tensor lies in."""
    import torch

    return memoryview(torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage()).numpy())


def _is_whole(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()


def _damaged(path: str | os.PathLike) -> UserError:
    return UserError(f"{one_line(path, 400)}: damaged (its bytes do not match their checksum): copy it again")


# --- other pickles


def load_options(path: str | os.PathLike) -> argparse.Namespace:
    """The options in an options.pkl, whatever Python 3 on any system wrote it: plain values, paths as PurePosixPath.

    Raises:
        UserError: there is no such file, or it holds other things.
    """
    with _reasons(path):
        with Path(path).open("rb") as file:
            value = pickles.load(file, pickles.stand_ins("argparse", "Namespace"))
        if type(value).__name__ != "Namespace":
            raise Refused("it holds no options")
        return plain(value)


def load_plain_dict(path: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a pickle of plain values, such as data/256x256_diffusion_uncond_fixedsigma.pkl.

    Raises:
        UserError: there is no such file, or it holds other things.
    """
    with _reasons(path):
        with Path(path).open("rb") as file:
            value = pickles.load(file, {})
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Refused("it holds no dictionary of named values")
        return plain(value)


def load_image_folder(path: str | os.PathLike) -> argparse.Namespace:
    """The torchvision ImageFolder in a `.lmdb.pt` file: root, classes, class_to_idx, samples [(path, class index)].

    The original's are of pickle protocol 4, which torch opens only by running them.

    Raises:
        UserError: there is no such file, or it holds no ImageFolder of that content.
    """
    with _reasons(path):
        if not _is_zip(path):
            raise Refused("written by torch before 1.6: build it again with scripts/build_lmdb.py")
        module = "torchvision.datasets.folder"
        names = {**pickles.stand_ins(module, "ImageFolder"), (module, "default_loader"): None}
        value = pickles.load(io.BytesIO(_data_pickle(path)), names)
        if type(value).__name__ != "ImageFolder":
            raise Refused("it holds no ImageFolder")
        found = vars(value)
        samples = found.get("samples", found.get("imgs"))
        if type(samples) is not list or any(list(map(type, sample)) != [str, int] for sample in samples):
            raise Refused("its samples are not pairs of a path and a class number")
        root, classes, numbers = (plain(found.get(name)) for name in ("root", "classes", "class_to_idx"))
        return argparse.Namespace(root=str(root or ""), classes=classes, class_to_idx=numbers, samples=samples)


# --- arrays and JSON


def load_npz(path: str | os.PathLike, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `keys` of an npz file, and those of `optional` that are there; nothing is unpickled.

    Raises:
        UserError: there is no such file, it is damaged, or an array is missing or of Python objects.
    """
    import numpy as np

    arrays = {}
    with _reasons(path), np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise Refused("it is no npz file")
        if missing := [key for key in keys if key not in archive]:
            raise Refused(f"it has no array {missing[0]}")
        for key in (*keys, *(key for key in optional if key in archive)):
            with archive.zip.open(f"{key}.npy") as file:
                arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read():  # at the end of the record its checksum is compared
                    raise Refused(f"its array {key} has more bytes than its shape says")
    return arrays


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds; a UserError where there is none."""
    with _reasons(path):
        try:
            return json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError) as error:
            raise Refused(f"it is not JSON ({one_line(error)})") from error


@contextlib.contextmanager
def _reasons(path: str | os.PathLike) -> Iterator[None]:
    """Whatever libraries stumble over in a file becomes one line that names it."""
    name = one_line(path, 400)
    try:
        yield
    except UserError:
        raise
    except Refused as error:
        raise UserError(f"{name}: refused: {error}") from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{name}: there is no such file") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{name}: refused: it is cut off or damaged ({one_line(error)}): copy it again") from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{name}: cannot be read: {error.strerror}") from error
        # torch's advice is to load without protection, which nobody should
        text = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
        reason = one_line(text, 200) or type(error).__name__
        raise UserError(f"{name}: refused: it is damaged, or another program's ({reason})") from error
