"""Restored images on disk, read in pieces: recon.pt, or its parts recon_I_N.pt, whoever wrote them.

`recon_store` tells where they lie and how they come there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import read_json
from i2sb.runtime.safe_torch import load_torch

SECONDS = "seconds_per_image"  # measured, so no setting
_NOT_IDENTITY = {SECONDS, "partition"}
_NOTES = (("seed", (int,), 0, 2**32), ("nfe", (int,), 1, 2**31), (SECONDS, (int, float, type(None)), 0, 2**31))
_REMAP_BYTES = 4 * 2**20  # a mapped file counts as memory as far as it was read: it is mapped anew so often


def sample_folder(name: str, nfe: int, clip_denoise: bool, results: str | Path = "results") -> Path:
    """results/NAME/samples_nfeN[_clip]."""
    return Path(results) / name / f"samples_nfe{nfe}{'_clip' if clip_denoise else ''}"


class Recon:
    """The images in one recon.pt, whoever wrote it, or in all the parts of one; read in pieces.

    Args:
        paths: the files, in the order of their images.

    Raises:
        UserError: a file cannot be read or holds something else.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths
        shapes = [self._check(path) for path in paths]
        if len({shape[1:] for shape in shapes}) > 1:
            raise UserError(f"{paths[0].parent}: its parts hold images of different sizes")
        self._counts = [shape[0] for shape in shapes]
        self.image_shape = shapes[0][1:]
        self.labels = torch.cat([load_torch(path, mmap=True)["label_arr"].clone() for path in paths])

    def _check(self, path: Path) -> tuple[int, ...]:
        content = load_torch(path, mmap=True)
        arr, labels = (content.get(k) if isinstance(content, dict) else None for k in ("arr", "label_arr"))
        sound = isinstance(arr, Tensor) and arr.ndim == 4 and isinstance(labels, Tensor) and labels.ndim == 1
        if not sound or arr.shape[1] != 3 or len(arr) != len(labels) or not len(arr):
            raise UserError(f"{path}: refused: it holds no restored images (arr [n,3,S,S] and label_arr [n])")
        if not (arr.is_floating_point() or arr.dtype == torch.uint8):
            raise UserError(f"{path}: refused: its images are {arr.dtype}, not floating point or uint8")
        return tuple(arr.shape)

    def __len__(self) -> int:
        return sum(self._counts)

    def batch_sizes(self, batch_size: int) -> list[int]:
        """The lengths of what `batches` gives."""
        return [min(batch_size, n - i) for n in self._counts for i in range(0, n, batch_size)]

    def take(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers [b,3,S,S] as stored, from any of the files."""
        images: dict[int, Tensor] = {}
        first = 0
        for path, count in zip(self.paths, self._counts):
            wanted = [number for number in numbers if first <= number < first + count]
            arr = load_torch(path, mmap=True)["arr"] if wanted else None
            images |= {number: arr[number - first].clone() for number in wanted}
            first += count
        return torch.stack([images[number] for number in numbers])

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Consecutive [b,3,S,S] as stored, b = batch_size but at the end of a file; in constant memory."""
        for path, count in zip(self.paths, self._counts):
            arr, read = load_torch(path, mmap=True)["arr"], 0
            for start in range(0, count, batch_size):
                if read > _REMAP_BYTES:
                    arr, read = load_torch(path, mmap=True)["arr"], 0
                piece = arr[start : start + batch_size].clone()
                read += piece.numel() * piece.element_size()
                yield piece


def made_with(recon: Path) -> dict[str, Any]:
    """What is known of how a recon.pt was made: see `ReconStore`'s settings, and SECONDS.  The original's: {}.

    Raises:
        UserError: the file beside it is damaged.
    """
    side = recon.with_suffix(".json")
    if not side.is_file():
        return {}
    try:
        found = read_json(side)
    except (OSError, ValueError):
        raise UserError(f"{side}: refused: it is no JSON; remove it to have the images judged as they are") from None
    if not isinstance(found, dict):
        raise UserError(f"{side}: refused: it holds no settings")
    for name, kinds, lowest, end in _NOTES:
        if name in found and (type(found[name]) not in kinds or not lowest <= (found[name] or 0) < end):
            raise UserError(f"{side}: refused: its {name} is {one_line(found[name], 60)}")
    return found


def run_identity(folder: Path) -> dict[str, Any]:
    """What tells the run whose samples a folder holds from other runs: its settings; {} for the original's files.

    Raises:
        UserError: as `find_recon` and `made_with`.
    """
    return _identity(find_recon(folder)[0])


def _identity(recon: Path) -> dict[str, Any]:
    return {key: value for key, value in made_with(recon).items() if key not in _NOT_IDENTITY}


def image_checksums(recon: Path) -> list[int] | None:
    """The CRC-32 of the bytes of each image file that a recon.pt was made from, in its order; None where unknown.

    Raises:
        UserError: the file beside it is damaged.
    """
    path = recon.with_suffix(".crc32.npy")
    if not path.is_file():
        return None
    try:
        found = np.load(path, allow_pickle=False)
        if found.dtype != np.uint32 or found.ndim != 1:
            raise ValueError("not a list of checksums")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error, 100)}); remove it") from error
    return found.tolist()


def differences(was: dict[str, Any], now: dict[str, Any]) -> str:
    """The settings that differ between two runs, for a message: "seed was 0, now 1; .."; "" where all agree."""
    keys = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    shown = [f"{one_line(k, 40)} was {one_line(was.get(k), 60)}, now {one_line(now.get(k), 60)}" for k in keys[:5]]
    return "; ".join(shown) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def find_recon(folder: Path) -> list[Path]:
    """recon.pt of a folder, or its parts recon_0_N.pt .. in order.

    Raises:
        UserError: there is none, some parts are missing (the text says which), or they are of several runs.
    """
    if not folder.is_dir():
        there = sorted(p.name for p in folder.parent.glob("samples*")) if folder.parent.is_dir() else []
        hint = f"there are {', '.join(there)}" if there else "sample.py makes one"
        raise UserError(f"--sample-dir {folder.name}: there is no folder {folder}; {hint}")
    if (folder / "recon.pt").is_file():
        return [folder / "recon.pt"]
    parts: dict[int, dict[int, Path]] = {}
    for path in folder.glob("recon_*_*.pt"):
        if found := re.fullmatch(r"recon_(\d+)_(\d+)\.pt", path.name):
            parts.setdefault(int(found[2]), {})[int(found[1])] = path
    if not parts:
        raise UserError(f"{folder}: holds no recon.pt and no parts of one; is sample.py still at work?")
    if len(parts) > 1:
        raise UserError(
            f"{folder}: holds parts of several partitions, in {', '.join(map(str, sorted(parts)))}; remove one"
        )
    count, found = parts.popitem()
    absent = [f"{i}_{count}" for i in range(count) if i not in found]
    if absent:
        raise UserError(f"{folder}: the parts {', '.join(absent)} are missing; sample.py --partition makes them")
    paths = [found[i] for i in range(count)]
    first = _identity(paths[0])
    for path in paths[1:]:
        if different := differences(first, _identity(path)):
            raise UserError(
                f"{folder}: {paths[0].name} and {path.name} are not of one run ({different}); sample.py --partition "
                f"{path.stem.removeprefix('recon_')} --overwrite makes it again"
            )
    return paths
