"""torch files opened as weights: nothing in them is executed, and what does not fit is refused in one line.

`torch.load(weights_only=True)` keeps code out, but it believes every size a file states, and broken files
make it raise errors of any kind. So the file is looked at first: its zip directory must describe what is
there, its pickle is read by `pickle_machine`, and every tensor must lie within its stored numbers.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from i2sb.errors import UserError, one_line
from i2sb.runtime import pickle_machine
from i2sb.runtime.pickle_machine import Made, Refused
from i2sb.runtime.torch_pickle import ObjectPolicy, TensorPolicy

MAX_PICKLE = 8 * 2**20  # a checkpoint of 553 M parameters has 0.4 MiB beside its tensors
MAX_OBJECT_PICKLE = 256 * 2**20  # the list of ImageNet's training files has 110 MiB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def load_torch(
    path: str | os.PathLike,
    *,
    allow: Iterable[type] = (),
    map_location: Any = "cpu",
    mmap: bool = False,
    verify: bool = False,
) -> Any:
    """What `torch.save` put into `path`: tensors in plain containers, and objects of the classes `allow`.

    Args:
        map_location: where the tensors go, as in `torch.load`.
        mmap: leave the tensors on the disk until they are used (files of torch >= 1.6).
        verify: first read the whole file and compare its checksums.

    Raises:
        UserError: no such file, or a file that is broken, hostile or no torch file (`FILE: refused: REASON`).
    """
    allow = tuple(allow)
    policy = TensorPolicy(frozenset(f"{kind.__module__} {kind.__qualname__}" for kind in allow))
    try:
        is_zip = _inspect(path, policy, verify)
        with torch.serialization.safe_globals(list(allow)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=map_location, mmap=mmap and is_zip, weights_only=True)
    except UserError:
        raise
    except Refused as error:
        raise _refusal(path, error) from None
    except Exception as error:  # whatever torch stumbles over
        raise UserError(f"{one_line(path, 400)}: cannot be loaded: {_torch_reason(error)}") from error


def check_torch(path: str | os.PathLike, *, verify: bool = False) -> None:
    """Look at a file of tensors without loading it; `verify`: also read all of it and compare its checksums.

    Raises:
        UserError: as `load_torch`.
    """
    try:
        _inspect(path, TensorPolicy(frozenset()), verify)
    except Refused as error:
        raise _refusal(path, error) from None


def load_object(path: str | os.PathLike, kind: str, opaque: Iterable[str] = ()) -> dict[str, Any]:
    """The attributes of the one object that `torch.save` put into `path`, without its class.

    This is how `.lmdb.pt` files are read: torch itself opens pickle protocol 4 only by running it.

    Args:
        kind: the object's class, such as "torchvision.datasets.folder.ImageFolder".
        opaque: names of further classes or functions that attributes may refer to; such attributes, as any
            that are not plain values, are returned as None.

    Raises:
        UserError: as `load_torch`.
    """
    try:
        with _open(path) as file:
            value = pickle_machine.load(_object_pickle(file), ObjectPolicy((kind, *opaque)))
        if not (isinstance(value, Made) and str(value.kind) == kind):
            raise Refused(f"it does not hold one {kind}")
        attributes = {}
        for state in value.state:
            attributes |= state
    except Refused as error:
        raise _refusal(path, error) from None
    return {name: _without_objects(item) for name, item in attributes.items()}


def check_state(
    path: str | os.PathLike, state: Any, expected: Mapping[str, Any], what: str = "its network"
) -> None:
    """Raise a UserError unless `state` has the names and shapes of `expected` (tensors or shapes).

    Args:
        path: the file that the state comes from, for the message.
        what: what is compared, for the message.
    """
    name = one_line(path, 400)
    if not isinstance(state, Mapping):
        raise UserError(f"{name}: {what} is no state dict but {type(state).__name__}")
    faults = [
        _listing("lacks", [key for key in expected if key not in state]),
        _listing("has the unknown", [one_line(key) for key in state if key not in expected]),
    ]
    for key, reference in expected.items():
        wanted = tuple(getattr(reference, "shape", reference))
        if key not in state:
            continue
        if not isinstance(state[key], torch.Tensor):
            faults.append(f"has no tensor at {key}")
        elif tuple(state[key].shape) != wanted:
            faults.append(f"has {key} of shape {list(state[key].shape)} instead of {list(wanted)}")
    faults = [fault for fault in faults if fault]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise UserError(f"{name}: {what} does not fit: it {'; '.join(faults[:3])}{more}")


def _listing(verb: str, keys: list) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{verb} {', '.join(map(str, keys[:3]))}{more}" if keys else ""


def _torch_reason(error: Exception) -> str:
    """The reason alone: around it torch advises to load without protection, which nobody should."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    return one_line(text, 200) or type(error).__name__


def _refusal(path: str | os.PathLike, reason: Refused) -> UserError:
    return UserError(f"{one_line(path, 400)}: refused: {reason}")


def _open(path: str | os.PathLike) -> BinaryIO:
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"{one_line(path, 400)}: there is no such file")
        if path.stat().st_size == 0:
            raise Refused("the file is empty")
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{one_line(path, 400)}: cannot be read: {error.strerror}") from None


def _inspect(path: str | os.PathLike, policy: TensorPolicy, verify: bool) -> bool:
    """Look at a torch file without loading it; True for the zip format, False for the older one."""
    with _open(path) as file:
        if not _is_zip(file):
            _inspect_legacy(file, policy)
            return False
        with _archive(file) as archive:
            root = _check_directory(archive, _size(file))
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            policy.stored_bytes = lambda key: sizes.get(f"{root}/data/{key}")
            pickle_machine.load(_read_pickle(archive, root, MAX_PICKLE), policy)
            if verify:
                _verify(archive)
        return True


def _is_zip(file: BinaryIO) -> bool:
    start = file.read(4)
    file.seek(0)
    return start == b"PK\x03\x04"


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # zipfile trips over broken directories in many ways
        raise Refused("it is cut off or damaged (the zip directory at its end cannot be read)") from error


def _check_directory(archive: zipfile.ZipFile, size: int) -> str:
    """Check that the entries fit into the file; return the folder they are in."""
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or len(names) != len(entries):
        raise Refused("it is a zip archive but not one that torch wrote")
    root = roots.pop()
    if f"{root}/data.pkl" not in names or f"{root}/constants.pkl" in names:
        raise Refused("it is a zip archive but holds no weights")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused("its entries are compressed, which torch never does")
    if sum(entry.file_size for entry in entries) > size or any(
        entry.file_size != entry.compress_size or entry.header_offset + entry.file_size > size
        for entry in entries
    ):
        raise Refused("its zip directory declares more bytes than the file has")
    return root


def _read_pickle(archive: zipfile.ZipFile, root: str, cap: int) -> bytes:
    entry = archive.getinfo(f"{root}/data.pkl")
    if entry.file_size > cap:
        raise Refused(f"its data.pkl has {entry.file_size} bytes, more than the {cap} that are accepted")
    try:
        return archive.read(entry)
    except Exception as error:
        raise Refused(f"its data.pkl is damaged ({one_line(error)})") from error


def _verify(archive: zipfile.ZipFile) -> None:
    for entry in archive.infolist():
        try:
            with archive.open(entry) as record:
                while record.read(2**20):
                    pass
        except Exception as error:
            raise Refused(f"it is damaged: {one_line(error)}") from error


def _inspect_legacy(file: BinaryIO, policy: TensorPolicy) -> None:
    """The format before torch 1.6: a header, the object, the storages' keys, then their bytes in a row."""
    size = _size(file)
    stream = io.BytesIO(file.read(MAX_PICKLE))
    policy.file_bytes = size
    _skip_legacy_header(stream)
    pickle_machine.load(stream, policy)
    keys = pickle_machine.load(stream)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(policy.seen):
        raise Refused("its list of stored numbers does not match its tensors")
    if stream.tell() + sum(8 + number.nbytes for number in policy.seen.values()) > size:
        raise Refused("it is cut off")


def _skip_legacy_header(stream: BinaryIO) -> None:
    try:
        magic = pickle_machine.load(stream)
    except Refused:
        magic = None
    if magic != _LEGACY_MAGIC:
        raise Refused("it is no torch file (neither a zip archive nor one from before torch 1.6)")
    for _ in ("version", "system"):
        pickle_machine.load(stream)


def _object_pickle(file: BinaryIO) -> bytes | BinaryIO:
    if not _is_zip(file):
        stream = io.BytesIO(file.read(MAX_OBJECT_PICKLE))
        _skip_legacy_header(stream)
        return stream
    with _archive(file) as archive:
        return _read_pickle(archive, _check_directory(archive, _size(file)), MAX_OBJECT_PICKLE)


def _without_objects(value: Any) -> Any:
    """`value` of plain values, or None where it is or holds something else."""
    plain = (str, int, float, type(None))
    todo = [value]
    while todo:
        item = todo.pop()
        if not isinstance(item, (list, tuple, dict, *plain)):
            return None
        todo += [inner for inner in pickle_machine.children(item) if not isinstance(inner, plain)]
    return value
