"""Restored images on disk, and whose they are: the one place that reads recon.pt; `recon_store` writes it.

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

import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from i2sb.errors import UserError, one_line, those_there
from i2sb.runtime.reading import check_tensors, load_torch, read_json

PUBLISHED = {"sampler": "ddpm", "eta": None, "spacing": "uniform"}
SECONDS = "seconds_per_image"  # measured, so not a setting
BYTES = "recon.pt"  # what tells the original's samples from others, which name no run
PICTURES, SCORES = ("images", "trajectories"), ("metrics.json", "metrics_per_image.csv", "report.html")
SWEEP = ("sweep.csv", "sweep.png")  # in results/NAME: of several folders of samples
STEM = re.compile(r"recon(_(\d+)_(\d+))?")


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


def made_with(recon: Path) -> dict[str, Any]:
    """The settings a recon.pt was made with, and SECONDS where known; {} where it does not say (the original's)."""
    inside = load_torch(recon).get("made_with")
    if not isinstance(inside, dict):
        return {}  # the file beside it is that of an earlier one
    beside = settings_beside(recon)
    return {**inside, SECONDS: beside.get(SECONDS)} if identity(beside) == identity(inside) else inside


def settings_beside(recon: Path) -> dict[str, Any]:
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
    found = [match for path in folder.glob("recon_*.pt") if (match := STEM.fullmatch(path.stem))]
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
