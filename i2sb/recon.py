"""Restored images on disk: batch by batch while they come, one recon.pt at the end, read back in pieces.

results/NAME/samples_nfeN[_clip]/
    recon[_I_N].pt          {"arr": [n,3,S,S], "label_arr": [n]} in data set order
    recon[_I_N].json        what it was made with
    .recon[_I_N].parts/     START_STOP.npz, each a whole batch; gone when recon.pt is there
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write, lock
from i2sb.runtime.safe_torch import load_torch
from i2sb.runtime.torch_stream import Stream, save_stream

DTYPES = {"float32": np.float32, "uint8": np.uint8}
_PART = re.compile(r"(\d{8})_(\d{8})\.npz")
_REMAP_BYTES = 64 * 2**20  # a mapped file counts as memory as far as it was read: it is mapped anew so often


def sample_folder(name: str, nfe: int, clip_denoise: bool, results: str | Path = "results") -> Path:
    """results/NAME/samples_nfeN[_clip]."""
    return Path(results) / name / f"samples_nfe{nfe}{'_clip' if clip_denoise else ''}"


def partition_range(partition: str | None, count: int) -> tuple[int, int]:
    """The images [start, stop) of part "I_N" of `count`: the parts together are the whole, in order."""
    if partition is None:
        return 0, count
    part, parts = map(int, partition.split("_"))
    return part * count // parts, (part + 1) * count // parts


class ReconStore:
    """Where one run (or one part of a partition) puts its images [start, stop) of the data set.

    Args:
        folder: see `sample_folder`.
        partition: "I_N" or None.
        settings: what the images depend on; another run with other settings is refused.
        image_shape: (3, S, S).
        dtype: "float32", or "uint8" for pixels.
    """

    def __init__(
        self,
        folder: Path,
        partition: str | None,
        start: int,
        stop: int,
        settings: dict[str, Any],
        image_shape: tuple[int, ...],
        dtype: str = "float32",
    ):
        stem = f"recon_{partition}" if partition else "recon"
        self.folder, self.start, self.stop = folder, start, stop
        self.path, self.side = folder / f"{stem}.pt", folder / f"{stem}.json"
        self.parts = folder / f".{stem}.parts"
        self.settings = json.loads(json.dumps({**settings, "recon_dtype": dtype}, default=str))
        self.image_shape, self.dtype = image_shape, dtype

    @contextlib.contextmanager
    def only_run(self) -> Iterator[None]:
        """Hold this store against other runs.

        Raises:
            UserError: another process is at work in it, or the folder cannot be written to.
        """

        def busy() -> None:
            raise UserError(f"{self.folder}: another process is restoring images into it; wait for its end")

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            guard = lock(self.folder / f".{self.path.stem}.lock", on_wait=busy)
            guard.__enter__()
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to: {error.strerror or error}") from error
        try:
            yield
        finally:
            guard.__exit__(None, None, None)

    def open(self, overwrite: bool) -> bool:
        """Get ready to write.  True when recon.pt is there already, made with the same settings.

        A recon.pt of which nothing tells how it was made (the original's) is kept under another name.

        Raises:
            UserError: the folder holds images made with other settings.
        """
        if overwrite:
            for path in (self.path, self.side):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.parts, ignore_errors=True)
        found = self._read_side()
        if found is None and self.path.exists():  # the original's, or a stranger's: nothing is lost
            self.path.rename(_free_name(self.path))
        different = sorted(k for k in found or {} if found[k] != self.settings.get(k))
        if different:
            shown = "; ".join(f"{key} was {found[key]}, now {self.settings.get(key)}" for key in different)
            raise UserError(f"{self.folder}: holds images made with other settings ({shown}); --overwrite starts anew")
        if self.path.exists():
            shutil.rmtree(self.parts, ignore_errors=True)
            return True
        if found is None:
            shutil.rmtree(self.parts, ignore_errors=True)
            with atomic_write(self.side) as file:
                file.write((json.dumps(self.settings, indent=2) + "\n").encode())
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.parts}: cannot be made: {error.strerror or error}") from error
        return False

    def _read_side(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.side.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.side}: cannot be read; --overwrite starts anew")
        return found

    def missing(self, batch_size: int) -> list[list[int]]:
        """The numbers of the images still to be restored, in batches of neighbours."""
        batches, position = [], self.start
        for start, stop in [*self._done(), (self.stop, self.stop)]:
            for begin in range(position, start, batch_size):
                batches.append(list(range(begin, min(begin + batch_size, start))))
            position = max(position, stop)
        return batches

    def _done(self) -> list[tuple[int, int]]:
        ranges = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.parts.iterdir():
                if found := _PART.fullmatch(path.name):
                    ranges.append((int(found[1]), int(found[2])))
        return sorted(ranges)

    def write(self, numbers: list[int], images: Tensor, labels: Tensor) -> None:
        """Keep a batch of restored images [b,3,S,S] in about [-1,1], of neighbouring numbers."""
        arr = images.cpu().float()
        if self.dtype == "uint8":
            arr = ((arr + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        with atomic_write(self.parts / f"{numbers[0]:08d}_{numbers[-1] + 1:08d}.npz") as file:
            np.savez(file, arr=arr.numpy(), label_arr=labels.cpu().to(torch.int64).numpy())

    def finish(self) -> Path:
        """Join the batches to recon.pt and remove them.

        Raises:
            UserError: a batch is missing or damaged, or the disk is full (the batches stay).
        """
        done = self._done()
        if self.missing(1):
            raise UserError(f"{self.parts}: {len(self.missing(1))} images are missing; run the same command again")
        count = self.stop - self.start
        save_stream(
            self.path,
            {
                "arr": Stream(DTYPES[self.dtype], (count, *self.image_shape), self._pieces(done, "arr")),
                "label_arr": Stream(np.int64, (count,), self._pieces(done, "label_arr")),
            },
        )
        shutil.rmtree(self.parts, ignore_errors=True)
        return self.path

    def _pieces(self, done: list[tuple[int, int]], key: str) -> Iterator[np.ndarray]:
        position = self.start
        for start, stop in done:
            path = self.parts / f"{start:08d}_{stop:08d}.npz"
            if stop <= position:  # another batch size restored these as well
                continue
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    piece = arrays[key][position - start :]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise UserError(f"{path}: is damaged ({error}); remove it and run the same command again") from error
            position = stop
            yield piece


def _free_name(path: Path) -> Path:
    """recon.pt -> recon.previous.pt, recon.previous2.pt, ..: the first that is not taken."""
    number = 1
    while True:
        free = path.with_name(f"{path.stem}.previous{number if number > 1 else ''}{path.suffix}")
        if not free.exists():
            return free
        number += 1


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


def find_recon(folder: Path) -> list[Path]:
    """recon.pt of a folder, or its parts recon_0_N.pt .. in order.

    Raises:
        UserError: there is none, or some parts are missing (the text says which).
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
    return [found[i] for i in range(count)]
