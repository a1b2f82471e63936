"""The one place that writes recon.pt; what lies beside it meanwhile: see `recon`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2sb.errors import UserError
from i2sb.pixels import to_uint8
from i2sb.recon import (
    PICTURES,
    SCORES,
    SECONDS,
    STEM,
    SWEEP,
    Recon,
    differences,
    identity,
    made_with,
    settings_beside,
)
from i2sb.runtime.files import atomic_write, lock, only_one, sync, unwritable
from i2sb.runtime.reading import load_torch

ROW = np.dtype([("number", "i8"), ("label", "i8"), ("crc32", "i8"), ("seconds", "f8")])


def partition_range(partition: str | None, count: int) -> tuple[int, int]:
    """The images [start, stop) of part "I_N" of `count`: the parts together are the whole, in order."""
    part, parts = map(int, partition.split("_")) if partition else (0, 1)
    return part * count // parts, (part + 1) * count // parts


class ReconStore:
    """Writes the images of one run, or of one part of a partition: batch by batch, and recon.pt at the end.

    Args:
        folder: see `sample_folder`.
        partition: "I_N" or None.
        count: images in the whole data set.
        settings: what the images depend on; those of a run with other settings are refused.
        image_shape: (C, H, W).
        dtype: "float32", or "uint8" for pixels.

    Attributes:
        start, stop: the images [start, stop) of the data set are this part's.
    """

    def __init__(self, folder: Path, partition: str | None, count: int, settings: dict, image_shape: tuple, dtype: str):
        self.start, self.stop = partition_range(partition, count)
        if self.start == self.stop:
            raise UserError(f"--partition {partition}: holds none of the {count} images; take fewer parts")
        self.folder, self.path = folder, folder / (f"recon_{partition}.pt" if partition else "recon.pt")
        self.parts = folder / f".{self.path.stem}.parts"
        self.settings = json.loads(json.dumps({**settings, "recon_dtype": dtype}, default=str))
        self.image_shape, self.dtype = image_shape, dtype
        self._own_rows = f"rows.{secrets.token_hex(8)}"

    def only_run(self, stem: str | None = None) -> contextlib.AbstractContextManager[None]:
        """Hold this store (or that of the part `stem`) against other processes; UserError where one writes to it."""
        busy = f"{self.folder}: another process is restoring images into it; wait for its end"
        return only_one(self.folder / f".{stem or self.path.stem}.lock", busy)

    def open(self, overwrite: bool, log: Any) -> bool:
        """Get ready to write.  True when recon.pt is there already, made with the same settings.

        overwrite: first remove this part, those of other settings, and what was derived from both.  A recon.pt of
        which nothing says how it was made (the original's) is kept under another name.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock(self.folder / ".samples.lock"):  # parts that start at once do not remove each other's files
                self._make_room(overwrite)
                if not settings_beside(self.path):
                    _remove(self.parts)
                    self._write_settings()
                if self._is_finished(log):
                    _remove(self.parts)
                    return True
                self.parts.mkdir(exist_ok=True)
                return False
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to: {error.strerror or error}") from error

    def _make_room(self, overwrite: bool) -> None:
        """Refuse or remove images of other runs, and what was derived from images that are not there any more."""
        ours, different = identity(self.settings), {}
        for side in self.folder.glob("recon*.json"):
            if STEM.fullmatch(side.stem):
                try:
                    different[side.stem] = differences(identity(settings_beside(side)), ours)
                except UserError as error:  # damaged
                    different[side.stem] = str(error)
        wrong = sorted(stem for stem, reason in different.items() if reason)
        if wrong and not overwrite:
            reason = f"{wrong[0]}.pt is of other settings ({different[wrong[0]]})"
            raise UserError(f"{self.folder}: {reason}; --overwrite starts from scratch")
        gone = {*wrong, self.path.stem} if overwrite else set()
        for stem in gone:
            with contextlib.nullcontext() if stem == self.path.stem else self.only_run(stem):
                for name in (f".{stem}.parts", f"{stem}.pt", f"{stem}.json"):
                    _remove(self.folder / name)
        for name in SWEEP if gone else ():
            _remove(self.folder.parent / name)
        same_run_stays = different.keys() - gone
        if overwrite or not same_run_stays:
            for name in SCORES if same_run_stays else SCORES + PICTURES:
                (_remove if overwrite else _set_aside)(self.folder / name)
        for path in {self.path, self.folder / "recon.pt"}:  # other parts of the original's stay and are used
            if not path.with_suffix(".json").is_file():
                _set_aside(path)

    def _is_finished(self, log: Any) -> bool:
        if not self.path.exists():
            return False
        try:
            Recon([self.path])
            if identity(made_with(self.path)) != identity(self.settings):
                raise UserError(f"{self.path}: does not say that it is of this run")
        except UserError as error:
            log.warning(f"[Sample] not what this run wrote, its images are restored again: {error}")
            _set_aside(self.path)
            return False
        return True

    def _write_settings(self, **measured: Any) -> None:
        with atomic_write(self.path.with_suffix(".json")) as file:
            file.write((json.dumps({**self.settings, **measured}, indent=2) + "\n").encode())

    def _rows(self) -> np.ndarray:
        """What is known of the images that are there [ROW], by number; a row that was cut off does not count."""
        files = [np.fromfile(path, ROW) for path in self.parts.glob("rows.*")]
        rows = np.concatenate([np.empty(0, ROW), *files])
        rows = rows[rows["seconds"] > 0]
        return rows[np.unique(rows["number"], return_index=True)[1]]

    def missing(self, batch_size: int) -> list[list[int]]:
        """The numbers of the images still to be restored, in batches of neighbours."""
        numbers = np.setdiff1d(np.arange(self.start, self.stop), self._rows()["number"])
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
        return [run[i : i + batch_size].tolist() for run in runs for i in range(0, len(run), batch_size)]

    def checksums(self) -> dict[int, int]:
        """Image number -> CRC-32 of the image file that it was restored from, of all the images that are there."""
        if self.path.exists():
            return dict(enumerate(load_torch(self.path)["crc32"].tolist(), self.start))
        rows = self._rows()
        return dict(zip(rows["number"].tolist(), rows["crc32"].tolist()))

    def write(self, numbers: list[int], images: Tensor, labels: Tensor, checksums: Tensor, seconds: float) -> None:
        """Keep a batch of restored images [b,C,H,W] in about [-1,1], of neighbouring numbers.

        labels, checksums (CRC-32 of the image files): [b].  seconds: how long a process worked on the batch.
        """
        arr = (to_uint8(images) if self.dtype == "uint8" else images.float()).numpy()
        rows = np.empty(len(numbers), ROW)
        values = {"number": numbers, "label": labels, "crc32": checksums, "seconds": seconds / len(numbers)}
        for name, value in values.items():
            rows[name] = value
        self._write("arr", arr, (numbers[0] - self.start) * arr[0].nbytes, os.SEEK_SET)
        self._write(self._own_rows, rows, 0, os.SEEK_END)  # images that no row tells of do not count

    def _write(self, name: str, values: np.ndarray, *position: int) -> None:
        path = self.parts / name
        try:
            # Write-only: on NFS a rank that could read would write whole pages back, and other ranks' bytes with them.
            with open(path, "wb", opener=lambda path, _: os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)) as file:
                file.seek(*position)
                file.write(values.tobytes())
                file.flush()
                sync(file.fileno())
        except OSError as error:
            raise unwritable(path, error) from error

    def finish(self) -> Path:
        """Make recon.pt of the images that were written and remove those; where the disk is full (UserError) they stay.

        The same images give the same bytes.
        """
        rows, shape = self._rows(), (self.stop - self.start, *self.image_shape)
        if len(rows) < shape[0]:
            raise UserError(f"{self.folder}: {len(rows)} of {shape[0]} images are there; run the same command again")
        # The median: a batch that was slow by chance, or the first of a process, does not count.
        self._write_settings(**{SECONDS: statistics.median_low(rows["seconds"].tolist())})
        # not torch.from_file, which takes no names but those in UTF-8
        arr = torch.from_numpy(np.memmap(self.parts / "arr", self.dtype, mode="c", shape=shape))
        tensors = {"arr": arr, "label_arr": torch.tensor(rows["label"]), "crc32": torch.tensor(rows["crc32"])}
        with atomic_write(self.path) as file:
            torch.save({**tensors, "made_with": self.settings}, file)
        _remove(self.parts)
        return self.path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    """recon.pt -> recon.previous.pt, recon.previous2.pt, ..: the first that is not taken."""
    names = (path.with_name(f"{path.stem}.previous{n if n > 1 else ''}{path.suffix}") for n in itertools.count(1))
    if path.exists():
        path.rename(next(name for name in names if not name.exists()))
