"""Restored images on disk: the one place that writes recon.pt, and the one that reads it.

results/NAME/samples_nfeN[_SAMPLER][_etaETA][_SPACING][_clip]/
    recon[_I_N].pt          {"arr": [n,C,H,W], "label_arr": [n]} in the order of the data set, as the original's, and
                            "made_with": the settings, which are the identity of its run; "crc32": [n], of the image
                            file that each image was restored from
    recon[_I_N].json        the same settings while images are restored, and for people; and the time per image
    .recon[_I_N].parts/     while images are restored: arr, their raw values, and rows.* of each process, what else is
                            known of those that are there
    images/, trajectories/, metrics.json, metrics_per_image.csv, report.html: derived from the images of the same run
results/NAME/sweep.csv, sweep.png: derived from several such folders
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import statistics
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from i2sb.errors import UserError, one_line, those_there
from i2sb.pixels import to_uint8
from i2sb.runtime.files import atomic_write, lock, only_one, sync, unwritable
from i2sb.runtime.reading import check_tensors, load_torch, read_json

PUBLISHED = {"sampler": "ddpm", "eta": None, "spacing": "uniform"}
SECONDS = "seconds_per_image"  # measured, so not a setting
BYTES = "recon.pt"  # what tells the original's samples from others, which name no run
PICTURES, SCORES = ("images", "trajectories"), ("metrics.json", "metrics_per_image.csv", "report.html")
SWEEP = ("sweep.csv", "sweep.png")  # in results/NAME: of several folders of samples
_STEM = re.compile(r"recon(_(\d+)_(\d+))?")
_ROW = np.dtype([("number", "i8"), ("label", "i8"), ("crc32", "i8"), ("seconds", "f8")])


def sampling_of(opt: Any) -> dict[str, Any]:
    """How options (or settings) say to go from step to step: `PUBLISHED` with what is different."""
    given = opt if isinstance(opt, dict) else vars(opt)
    return {key: given.get(key, value) for key, value in PUBLISHED.items()}


def sampling_name(opt: Any) -> str:
    """The sampler, and what else of `sampling_of` is not as published: "dbim_eta0.5_logsnr", "ddpm"."""
    sampler, eta, spacing = sampling_of(opt).values()
    parts = [sampler, f"eta{eta:g}" if eta else "", "" if spacing == PUBLISHED["spacing"] else spacing]
    return "_".join(filter(None, parts))


def run_settings(runner: Any, opt: Any, nfe: int, *names: str) -> dict[str, Any]:
    """What restored images depend on: weights, bridge, sampling, and the options `names` besides."""
    names = ("seed", "clip_denoise", "precision", *names)
    run = {"checkpoint": runner.identity, **runner.config.to_dict(), **{name: getattr(opt, name) for name in names}}
    # each kind of device draws other noise from the same seed
    return {**run, "nfe": nfe, **sampling_of(opt), "device": runner.device.type}


def sample_folder(name: str, nfe: int, opt: Any) -> Path:
    """results/NAME/samples_nfeN, and what options of sample.py ask for that is not as published."""
    added = sampling_name(opt).removeprefix(PUBLISHED["sampler"]).lstrip("_")
    parts = [f"samples_nfe{nfe}", added, "clip" if opt.clip_denoise else ""]
    return Path("results") / name / "_".join(filter(None, parts))


def partition_range(partition: str | None, count: int) -> tuple[int, int]:
    """The images [start, stop) of part "I_N" of `count`: the parts together are the whole, in order."""
    part, parts = map(int, partition.split("_")) if partition else (0, 1)
    return part * count // parts, (part + 1) * count // parts


def made_with(recon: Path) -> dict[str, Any]:
    """The settings a recon.pt was made with, and SECONDS where known; {} where it does not say (the original's)."""
    inside = load_torch(recon).get("made_with")
    if not isinstance(inside, dict):
        return {}  # the file beside it is that of an earlier one
    beside = _settings_beside(recon)
    return {**inside, SECONDS: beside.get(SECONDS)} if identity(beside) == identity(inside) else inside


def _settings_beside(recon: Path) -> dict[str, Any]:
    side = recon.with_suffix(".json")
    found = read_json(side) if side.is_file() else {}
    if not isinstance(found, dict) or not all(type(found.get(name, 1)) is int for name in ("seed", "nfe")):
        raise UserError(f"{side}: not the settings of a run of sample.py; remove it to use the images as they are")
    return found


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that tell the run that made images from other runs."""
    own = {key: value for key, value in settings.items() if key not in (SECONDS, "partition")}
    return {key: value for key, value in own.items() if key not in PUBLISHED or value != PUBLISHED[key]}


def run_identity(folder: Path) -> dict[str, Any]:
    """`identity` of the run whose images a folder of samples holds; of the original's files, a checksum."""
    paths = find_recon(folder)
    return next(filter(None, (identity(made_with(path)) for path in paths)), {BYTES: _checksum_of_ends(paths)})


def _checksum_of_ends(paths: list[Path]) -> str:
    """Tells files of torch.save from others: at a zip's end are the checksums of all that is inside."""
    crc = 0
    for path in paths:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            crc = zlib.crc32(file.read(), crc)
    return f"{crc:08x}"


def differences(was: dict[str, Any], now: dict[str, Any]) -> str:
    """The settings that differ between two runs, for a message: "seed was 0, now 1; .."; "" where all agree."""
    keys = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    shown = [f"{one_line(k, 40)} was {one_line(was.get(k), 60)}, now {one_line(now.get(k), 60)}" for k in keys[:5]]
    return "; ".join(shown) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def find_recon(folder: Path) -> list[Path]:
    """recon.pt of a folder, or its parts recon_0_N.pt .. in order.

    Raises UserError where there is none, some parts are missing, or they are of several runs.
    """
    if not folder.is_dir():
        there = {path.parent.name for path in folder.parent.glob("*/recon*.pt")}
        hint = those_there(folder.name, there) if there else "sample.py makes one"
        raise UserError(f"--sample-dir {folder.name}: there is no folder {folder}; {hint}")
    if (folder / "recon.pt").is_file():
        return [folder / "recon.pt"]
    found = [match for path in folder.glob("recon_*.pt") if (match := _STEM.fullmatch(path.stem))]
    counts = sorted({int(match[3]) for match in found})
    if not found:
        raise UserError(f"{folder}: has neither recon.pt nor parts of one; is sample.py still running?")
    if len(counts) > 1:
        raise UserError(f"{folder}: has parts of partitions of {' and of '.join(map(str, counts))}; remove one of them")
    paths = [folder / f"recon_{part}_{counts[0]}.pt" for part in range(counts[0])]
    if absent := [path.stem.removeprefix("recon_") for path in paths if not path.is_file()]:
        raise UserError(f"{folder}: the parts {', '.join(absent)} are missing; sample.py --partition makes them")
    # The original's parts do not say of which run they are
    runs = [(path.name, run) for path in paths if (run := identity(made_with(path)))]
    for name, run in runs[1:]:
        if different := differences(runs[0][1], run):
            raise UserError(
                f"{folder}: {runs[0][0]} and {name} are not of one run ({different}); restore one of them again with "
                "the settings of the other, by --partition and --overwrite"
            )
    return paths


class Recon:
    """The images in one recon.pt, whichever program wrote it, or in all the parts of one; they stay on the disk.

    Attributes:
        image_shape: (C, H, W); labels: [n].
        checksums: CRC-32 of the image file that each image was restored from [n]; None where unknown.

    Raises UserError where a file is damaged or holds something else.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths
        found = [self._open(path) for path in paths]
        self._images = ConcatDataset([arr for arr, _, _ in found])
        if len({arr.shape[1:] for arr, _, _ in found}) > 1:
            raise UserError(f"{paths[0].parent}: its parts hold images of different sizes")
        self.image_shape = tuple(found[0][0].shape[1:])
        self.labels = torch.cat([labels for _, labels, _ in found])
        known = [checksums for *_, checksums in found]
        self.checksums = None if None in known else [crc for each in known for crc in each]

    def _open(self, path: Path) -> tuple[Tensor, Tensor, list[int] | None]:
        content = load_torch(path)
        arr, labels = (content.get(k) if isinstance(content, dict) else None for k in ("arr", "label_arr"))
        sound = isinstance(arr, Tensor) and arr.ndim == 4 and (arr.is_floating_point() or arr.dtype == torch.uint8)
        sound = sound and isinstance(labels, Tensor) and labels.ndim == 1 and len(labels) == len(arr) > 0
        if not sound:
            raise UserError(f"{path}: refused: it does not hold restored images (arr [n,C,H,W] and label_arr [n])")
        checksums = content.get("crc32")
        check_tensors(path, [arr, labels, checksums])
        return arr, labels, checksums.tolist() if isinstance(checksums, Tensor) else None

    def __len__(self) -> int:
        return len(self.labels)

    def batch_numbers(self, batch_size: int) -> list[list[int]]:
        """The numbers of the images in each of `batches`."""
        return [list(range(i, min(i + batch_size, len(self)))) for i in range(0, len(self), batch_size)]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Consecutive [b,C,H,W] as stored, b = batch_size but at the end."""
        return map(self.take, self.batch_numbers(batch_size))

    def take(self, numbers: Sequence[int]) -> Tensor:
        """The images of these numbers [b,C,H,W] as stored."""
        return torch.stack([self._images[number] for number in numbers])


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
                if not _settings_beside(self.path):
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
            if _STEM.fullmatch(side.stem):
                try:
                    different[side.stem] = differences(identity(_settings_beside(side)), ours)
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
        """What is known of the images that are there [_ROW], by number; a row that was cut off does not count."""
        files = [np.fromfile(path, _ROW) for path in self.parts.glob("rows.*")]
        rows = np.concatenate([np.empty(0, _ROW), *files])
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
        rows = np.empty(len(numbers), _ROW)
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
