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
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2sb.errors import UserError, one_line
from i2sb.runtime import pickles
from i2sb.runtime.pickles import Refused, plain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch >= 1.6 and older files begin


# --- torch files


def load_torch(path: str | os.PathLike) -> Any:
    """What `torch.save` put into a file: tensors (on the CPU) in plain containers.  No code in it is run.

    The tensors stay on the disk until they are used (files of torch >= 1.6).  Their bytes are not compared with the
    file's checksums here: see `check_tensors`.

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


def check_tensors(path: str | os.PathLike, content: Any) -> str:
    """Compare the bytes of tensors that `load_torch` gave with the checksums in their file.

    Takes 0.4 s per GB besides the reading.  Where a file has no checksums (torch before 1.6, `set_crc32_options`),
    its bytes are identified only.

    Args:
        content: tensors as they were loaded, neither moved nor converted, in any plain containers.

    Returns:
        16 hex digits that identify types, shapes and bytes as they were read.

    Raises:
        UserError: bytes have changed since they were written.
    """
    declared: set[tuple[int, int]] = set()
    identity = hashlib.sha256()
    with _reasons(path):
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                declared = {(entry.CRC, entry.file_size) for entry in archive.infolist()}
        for tensor in _tensors(content):
            stored = _bytes_of(tensor)
            crc = zlib.crc32(stored)
            if declared and len(stored) and not declared & {(crc, len(stored)), (0, len(stored))}:
                raise UserError(
                    f"{one_line(path, 400)}: damaged (its bytes do not match their checksum): copy it again"
                )
            if not tensor.is_contiguous() or tensor.nbytes < len(stored):  # a view of storage that it shares
                crc = zlib.crc32(_bytes_of(tensor.detach().contiguous().clone()))
            identity.update(f"{tensor.dtype} {list(tensor.shape)} {crc:08x}\n".encode())
    return identity.hexdigest()[:16]


def _tensors(content: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for item in content.values() if isinstance(content, Mapping) else content:
            yield from _tensors(item)


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
        found[0].CRC = found[0].CRC or None  # 0: written without
        return archive.read(found[0])


def _bytes_of(tensor: Tensor) -> memoryview:
    """All bytes of the storage that a tensor lies in."""
    import torch

    return memoryview(torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage()).numpy())


def load_script(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of the outermost module in a TorchScript archive, by name.  The code in it is not even read.

    Raises:
        UserError: there is no such file, or it is damaged, or no such archive.
    """
    import torch

    def tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        return storage.as_strided(size, stride, offset)

    with _reasons(path):
        content = _data_pickle(path) if _is_zip(path) else b""
        globals_ = (arg.split(" ", 1) for code, arg, _ in pickletools.genops(content) if code.name == "GLOBAL")
        names = {(module, name): type("Module", (), {}) for module, name in globals_ if module.startswith("__torch__")}
        names |= {("torch", f"{kind}Storage"): getattr(torch, kind.lower()) for kind in ("Float", "Double", "Long")}
        names |= {("torch._utils", "_rebuild_tensor_v2"): tensor, ("collections", "OrderedDict"): lambda: {}}
        with zipfile.ZipFile(path) as archive:
            folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix(".pkl")

            def stored(pid: Any) -> Tensor:
                _, dtype, key, *_ = pid
                return torch.frombuffer(bytearray(archive.read(f"{folder}/{key}")), dtype=dtype)

            module = pickles.load(io.BytesIO(content), names, stored)
        if type(module).__name__ != "Module":
            raise Refused("it holds no module of TorchScript")
        return {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}


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
            arrays[key] = archive[key]
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
    """Whatever libraries stumble over in a file becomes one line that names it.

    A MemoryError where memory has no room to map it.
    """
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
        if "Cannot allocate memory" in str(error):  # no UserError: those are taken for damage
            raise MemoryError(f"{name}: {one_line(error, 200)}") from error
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{name}: cannot be read: {error.strerror}") from error
        # torch's advice is to load without protection, which nobody should
        text = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
        reason = one_line(text, 200) or type(error).__name__
        raise UserError(f"{name}: refused: it is damaged, or another program's ({reason})") from error
