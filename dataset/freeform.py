"""The published bank of free-form masks: 10,000 masks of 256 x 256 for each range of hole ratios.

Published as one file, `imagenet_freeform_masks.npz`, of packed bits per kind; unpacked once per kind into
`imagenet_freeform1020_masks.npz` and so on (key `mask`, uint8 [10000,256,256], 1 = hole).  The unpacked file
is stored uncompressed and mapped into memory, so that the processes of a machine share it.
"""

from __future__ import annotations

import functools
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from corruption.registry import lookup
from dataset.steps import Steps
from i2sb.addresses import FREEFORM_BANK
from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write, lock
from i2sb.runtime.safe_npz import open_array, read_header

KINDS = {  # kind -> (key in the published file, hole ratios)
    "freeform1020": ("10-20% freeform", (0.10, 0.20)),
    "freeform2030": ("20-30% freeform", (0.20, 0.30)),
    "freeform3040": ("30-40% freeform", (0.30, 0.40)),
}
IMAGE_SIZE = 256
NUM_MASKS = 10_000
_TOLERANCE = 0.05  # how far a single mask's ratio may lie outside of its range
_CHUNK = 64  # masks at a time


def bank_path(data_dir: str | os.PathLike = "data") -> Path:
    """Where the published file is looked for."""
    return Path(data_dir) / FREEFORM_BANK.name


def fetch_bank(log: Any = None, data_dir: str | os.PathLike = "data") -> Path:
    """Fetch the published file (250 MB at most) unless it is there.

    Raises:
        UserError: it cannot be fetched; the text says where to put it by hand.
    """
    from i2sb.fetch import fetch

    return fetch(FREEFORM_BANK, data_dir, log)


def bank_for(opt: Any, imagenet: bool, log: Any) -> Callable[[str], np.ndarray | None] | None:
    """What `corruption` takes as its bank: a function from kind to masks; None for tasks without such holes.

    The published masks are fetched for ImageNet at 256 px; where they cannot be had, and for all other data,
    brush strokes take their place, which the log tells.

    opt: corrupt and image_size are read.
    """
    if not lookup(opt.corrupt).uses_mask_bank:
        return None
    unpacked = [Path("data") / f"imagenet_{kind}_masks.npz" for kind in KINDS]
    if imagenet and opt.image_size == IMAGE_SIZE and not any(path.is_file() for path in unpacked):
        try:
            fetch_bank(log)
        except UserError as error:
            log.warning(f"[Freeform] {error}; until then brush strokes take the place of the masks")
    return functools.partial(load_bank, image_size=opt.image_size, log=log)


def load_bank(
    kind: str, image_size: int, log: Any, data_dir: str | os.PathLike = "data", num_masks: int = NUM_MASKS
) -> np.ndarray | None:
    """The published masks of one kind, as far as they are on this disk; nothing is fetched.

    Args:
        kind: 'freeform1020', 'freeform2030' or 'freeform3040' (also with 'inpaint-' before it).
        image_size: the bank has masks of 256 x 256 only.

    Returns:
        uint8 [num_masks,256,256] of 0 and 1 (1 = hole), read-only and usually mapped from the disk; None for
        another image size, or where the bank is absent.

    Raises:
        UserError: no such kind; a damaged file; masks of other shape, values or hole ratios.
    """
    kind = _checked_kind(kind)
    if image_size != IMAGE_SIZE:
        log.info(f"[Freeform] the published masks are of {IMAGE_SIZE} px: not used at {image_size} px")
        return None
    unpacked = Path(data_dir) / f"imagenet_{kind}_masks.npz"
    shape = (num_masks, IMAGE_SIZE, IMAGE_SIZE)
    if not unpacked.is_file():
        if not bank_path(data_dir).is_file():
            log.info(f"[Freeform] no published masks in {bank_path(data_dir)} or {unpacked.name}")
            return None
        _unpack(kind, bank_path(data_dir), unpacked, shape, log)
    masks = _read(unpacked, shape)
    _check_ratios(masks, kind, unpacked)
    log.info(f"[Freeform] {len(masks)} masks from {unpacked}")
    return masks


def _checked_kind(kind: str) -> str:
    name = kind.removeprefix("inpaint-")
    if name not in KINDS:
        raise UserError(f"{kind}: no such kind of free-form masks; there are {', '.join(KINDS)}")
    return name


def _unpack(kind: str, packed: Path, unpacked: Path, shape: tuple[int, ...], log: Any) -> None:
    """Unpack one kind, chunk by chunk; one process does, the others wait."""
    key = KINDS[kind][0]
    try:
        with lock(unpacked.with_name(f".{unpacked.name}.lock")):
            if unpacked.is_file():
                return
            log.info(f"[Freeform] unpacking '{key}' of {packed} to {unpacked}")
            with zipfile.ZipFile(packed) as archive, _member(archive, packed, key) as source:
                _check_packed(read_header(source), packed, key, shape)
                with atomic_write(unpacked) as file:
                    _copy_bits(source, file, shape)
    except UserError:
        raise
    except Exception as error:  # a broken zip file raises whatever its parser stumbles over
        raise UserError(
            f"{packed}: cannot be unpacked to {unpacked}: {error or type(error).__name__}"
        ) from error


def _member(archive: zipfile.ZipFile, path: Path, key: str) -> IO[bytes]:
    try:
        return open_array(archive, key)
    except KeyError:
        raise UserError(f"{path}: refused: it holds no '{key}'") from None


def _check_packed(header: tuple, path: Path, key: str, shape: tuple[int, ...]) -> None:
    found, fortran, dtype = header
    # packed as a whole or along the last axis: the bytes are the same, since a row has a whole number of them
    proper = {
        (math.prod(shape) // 8,),
        (shape[0], shape[1], shape[2] // 8),
        (shape[0], shape[1] * shape[2] // 8),
    }
    if dtype != np.uint8 or fortran or found not in proper:
        raise UserError(
            f"{path}: refused: '{key}' is {dtype} {list(found)}, not the packed bits of {list(shape)}"
        )


def _copy_bits(source: IO[bytes], target: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive,
        archive.open("mask.npy", "w", force_zip64=True) as member,
        Steps() as steps,
    ):
        steps.start("Unpacking free-form masks", shape[0])
        np.lib.format.write_array_header_1_0(member, header)
        for start in range(0, shape[0], _CHUNK):
            count = min(_CHUNK, shape[0] - start)
            bits = source.read(count * shape[1] * shape[2] // 8)
            if len(bits) != count * shape[1] * shape[2] // 8:
                raise ValueError("it is cut short")
            member.write(np.unpackbits(np.frombuffer(bits, np.uint8)))
            steps.advance(count)


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The array `mask` of an npz file: mapped where it is stored as it is, else read."""
    try:
        with zipfile.ZipFile(path) as archive, open_array(archive, "mask") as member:
            found, fortran, dtype = read_header(member)
            if found != shape or dtype != np.uint8 or fortran:
                raise UserError(
                    f"{path}: refused: its masks are {dtype} {list(found)}, not uint8 {list(shape)}"
                )
            info = archive.getinfo("mask.npy")
            if info.compress_type == zipfile.ZIP_STORED:
                return np.memmap(path, np.uint8, "r", _offset(path, info) + member.tell(), shape)
            data = member.read(math.prod(shape))
            return np.frombuffer(data, np.uint8).reshape(shape)
    except UserError:
        raise
    except KeyError:
        raise UserError(f"{path}: refused: it holds no 'mask'") from None
    except Exception as error:
        raise UserError(
            f"{path}: refused: it is damaged ({error or type(error).__name__}); delete it"
        ) from error


def _offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin: after its local header, whose name and extra field vary in length."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise ValueError("no header where its directory says")
    return (
        info.header_offset
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )


def _check_ratios(masks: np.ndarray, kind: str, path: Path) -> None:
    low, high = KINDS[kind][1]
    ratios = np.empty(len(masks))
    for start in range(0, len(masks), _CHUNK):
        chunk = np.asarray(masks[start : start + _CHUNK]).reshape(-1, masks[0].size)
        if chunk.max() > 1:
            raise UserError(f"{path}: refused: its masks hold other values than 0 and 1")
        ratios[start : start + len(chunk)] = chunk.mean(axis=1)
    outside = np.flatnonzero((ratios < low - _TOLERANCE) | (ratios > high + _TOLERANCE))
    if len(outside) or not low <= ratios.mean() <= high:
        some = (
            f"mask {outside[0]} has {ratios[outside[0]]:.0%}"
            if len(outside)
            else f"{ratios.mean():.1%} on average"
        )
        raise UserError(
            f"{path}: refused: the holes should cover {low:.0%} to {high:.0%} of the image, but {some}"
        )
