"""Where restored images lie while they come: batch by batch, and one recon.pt at the end.

results/NAME/samples_nfeN[_clip]/
    recon[_I_N].pt          {"arr": [n,3,S,S], "label_arr": [n]} in data set order
    recon[_I_N].json        what it was made with, and how long an image took
    .recon[_I_N].parts/     START_STOP.npz, each a whole batch; gone when recon.pt is there
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2sb.errors import UserError, one_line
from i2sb.recon import SECONDS
from i2sb.runtime.files import atomic_write, only_one, read_json
from i2sb.runtime.safe_npz import load_npz
from i2sb.runtime.torch_stream import Stream, save_stream

DTYPES = {"float32": np.float32, "uint8": np.uint8}
_HEADER = 2**10  # bytes before the numbers of an array, at most
_PART = re.compile(r"(\d{8})_(\d{8})\.npz")


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

    def only_run(self) -> contextlib.AbstractContextManager[None]:
        """Hold this store against other runs.

        Raises:
            UserError: another process is at work in it, or the folder cannot be written to.
        """
        busy = f"{self.folder}: another process is restoring images into it; wait for its end"
        return only_one(self.folder / f".{self.path.stem}.lock", busy)

    def open(self, overwrite: bool) -> bool:
        """Get ready to write.  True when recon.pt is there already, made with the same settings.

        A recon.pt of which nothing tells how it was made (the original's) is kept under another name.

        Raises:
            UserError: the folder holds images made with other settings.
        """
        if self.parts.is_symlink():  # a stranger's may lead anywhere
            self.parts.unlink()
        if overwrite:
            for path in (self.path, self.side):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.parts, ignore_errors=True)
        found = self._read_side()
        if found is None and self.path.exists():  # the original's, or a stranger's: nothing is lost
            self.path.rename(_free_name(self.path))
        different = sorted(k for k in found or {} if k != SECONDS and found[k] != self.settings.get(k))
        if different:
            was = [f"{one_line(k, 40)} was {one_line(found[k])}, now {self.settings.get(k)}" for k in different]
            shown = "; ".join(was[:5]) + (f" and {len(was) - 5} more" if len(was) > 5 else "")
            raise UserError(f"{self.folder}: holds images made with other settings ({shown}); --overwrite starts anew")
        if self.path.exists():
            shutil.rmtree(self.parts, ignore_errors=True)
            return True
        if found is None:
            shutil.rmtree(self.parts, ignore_errors=True)
            self._write_side(self.settings)
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.parts}: cannot be made: {error.strerror or error}") from error
        return False

    def _write_side(self, content: dict[str, Any]) -> None:
        with atomic_write(self.side) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())

    def _read_side(self) -> dict[str, Any] | None:
        try:
            found = read_json(self.side)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.side}: cannot be read; --overwrite starts anew")
        return found

    def missing(self, batch_size: int, again: Sequence[int] = ()) -> list[list[int]]:
        """The numbers of the images still to be restored, in batches of neighbours.

        A batch that has one of the images `again` counts as missing.
        """
        batches, position = [], self.start
        done = [(start, stop) for start, stop in self._done() if not any(start <= n < stop for n in again)]
        for start, stop in [*done, (self.stop, self.stop)]:
            for begin in range(position, start, batch_size):
                batches.append(list(range(begin, min(begin + batch_size, start))))
            position = max(position, stop)
        return batches

    def _done(self) -> list[tuple[int, int]]:
        ranges = []
        with contextlib.suppress(FileNotFoundError):
            for path in self.parts.iterdir():
                found = _PART.fullmatch(path.name)
                if found and self.start <= int(found[1]) < int(found[2]) <= self.stop:
                    ranges.append((int(found[1]), int(found[2])))
        return sorted(ranges)

    def write(self, numbers: list[int], images: Tensor, labels: Tensor, seconds: float = math.nan) -> None:
        """Keep a batch of restored images [b,3,S,S] in about [-1,1], of neighbouring numbers.

        seconds: how long a process worked on the batch; NaN: not known.

        Raises:
            UserError: it cannot be written.
        """
        arr = images.cpu().float()
        if self.dtype == "uint8":
            arr = ((arr + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        with atomic_write(self._part(numbers[0], numbers[-1] + 1)) as file:
            np.savez(file, arr=arr.numpy(), label_arr=labels.cpu().to(torch.int64).numpy(), seconds=seconds)

    def finish(self) -> Path:
        """Join the batches to recon.pt and remove them.

        Raises:
            UserError: a batch is missing or damaged, or the disk is full (the batches stay).
        """
        done = self._done()
        if self.missing(1):
            raise UserError(f"{self.parts}: {len(self.missing(1))} images are missing; run the same command again")
        count = self.stop - self.start
        self._write_side({**self.settings, SECONDS: self._seconds_per_image(done)})  # while it is still known
        save_stream(
            self.path,
            {
                "arr": Stream(DTYPES[self.dtype], (count, *self.image_shape), self._pieces(done, "arr")),
                "label_arr": Stream(np.int64, (count,), self._pieces(done, "label_arr")),
            },
        )
        shutil.rmtree(self.parts, ignore_errors=True)
        return self.path

    def _seconds_per_image(self, done: list[tuple[int, int]]) -> float | None:
        """The median over batches, of one process: the rare slow batch (another user's) does not count."""
        times = [float(self._load(place, "seconds")) / (place[1] - place[0]) for place in done]
        known = [seconds for seconds in times if math.isfinite(seconds)]
        return statistics.median(known) if known else None

    def _load(self, place: tuple[int, int], key: str) -> np.ndarray:
        path = self._part(*place)
        try:
            count = place[1] - place[0]
            shape, dtype = {
                "arr": ((count, *self.image_shape), np.dtype(DTYPES[self.dtype])),
                "label_arr": ((count,), np.dtype(np.int64)),
                "seconds": ((), np.dtype(np.float64)),
            }[key]
            expected = math.prod(shape) * dtype.itemsize + _HEADER
            # an array of ours is not compressed, so a small file has no large one
            found = load_npz(path, [key], limit=min(expected, path.stat().st_size))[key]
            if found.shape != shape:
                raise ValueError(f"its {key} has the shape {list(found.shape)}")
            if found.dtype != dtype:
                raise ValueError(f"its {key} is {found.dtype}")
            return found
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: is damaged ({reason}); remove it and run the same command again") from error

    def _part(self, start: int, stop: int) -> Path:
        return self.parts / f"{start:08d}_{stop:08d}.npz"

    def _pieces(self, done: list[tuple[int, int]], key: str) -> Iterator[np.ndarray]:
        position = self.start
        for start, stop in done:
            if stop <= position:  # another batch size restored these as well
                continue
            piece = self._load((start, stop), key)[position - start :]
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
