"""Folders of restored images that compute_metrices.py has judged: what the report and sweeps show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from evaluation.judge import Evaluation, Samples
from evaluation.table import Scores, read_csv, read_metrics
from evaluation.triples import Triples
from i2sb.errors import UserError
from i2sb.pictures import read_frames, to_pixels, trajectory_file
from i2sb.recon import run_identity


class Case(NamedTuple):
    """One image, see `to_pixels`; metrics: name -> (value restored, value of the baseline or None).

    baseline: None where it is the degraded image itself.
    """

    name: str
    degraded: np.ndarray
    restored: np.ndarray
    clean: np.ndarray
    baseline: np.ndarray | None = None
    metrics: Mapping[str, tuple[float, float | None]] = {}


def read_judged(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Scores]:
    """(which run made a folder of samples, how they were judged, row -> metric -> score).

    Raises UserError where there are no scores, or those of other samples than the ones there now.
    """
    run, path = run_identity(folder), folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; compute_metrices.py makes it")
    return run, *read_metrics(path, run)


class JudgedImages:
    """The images of one judged folder with their scores.

    Raises UserError where the folder is not judged, or its files are of other images than the data set's.
    """

    def __init__(self, samples: Samples, found: Evaluation):
        self.folder, self.recon, self.dataset = samples.folder, samples.recon, found.dataset
        self.images = Triples(samples.recon, found.dataset, found.corrupt, samples.seed)
        self.run, self.settings, self.scores = read_judged(self.folder)
        table = self.folder / "metrics_per_image.csv"
        self.names, self.columns = read_csv(table, self.run)
        if self.names != [self.dataset.short_name(path) for path, _ in self.dataset.samples]:
            raise UserError(f"{table}: is of other images; run compute_metrices.py again")

    def ranking(self) -> tuple[str, list[int]]:
        """(the metric, images from the worst to the best by their gain over the baseline in it): LPIPS, else PSNR."""
        for metric, sign in (("lpips", -1), ("psnr", 1)):
            if f"{metric}_baseline" in self.columns:
                gains = np.array(self.columns[f"{metric}_restored"]) - self.columns[f"{metric}_baseline"]
                gains[np.isnan(gains)] = 0  # both are infinite
                return metric, np.argsort(sign * gains, kind="stable").tolist()
        return "psnr", []

    def spread(self, count: int) -> list[int]:
        """`count` images: the first of each class, then the second of each, ..."""
        seen: Counter[int] = Counter()
        order = []
        for number, (_, label) in enumerate(self.dataset.samples):
            order.append((seen[label], label, number))
            seen[label] += 1
        return [number for _, _, number in sorted(order)[:count]]

    def case(self, number: int) -> Case:
        """One image, degraded as sample.py did."""
        found = self.images.single(number)
        metrics = {}
        for column, values in self.columns.items():
            metric, _, row = column.rpartition("_")
            if row == "restored" and metric != "accuracy":  # of one image it is 0 or 100
                before = self.columns.get(f"{metric}_baseline")
                metrics[metric] = values[number], before[number] if before else None
        shots = [to_pixels(image[0]) for image in (found.degraded, found.restored, found.clean)]
        baseline = None if found.baseline is found.degraded else to_pixels(found.baseline[0])
        return Case(self.names[number], *shots, baseline, metrics)

    def trajectories(self, count: int, log: Any) -> list[tuple[str, list[np.ndarray]]]:
        """(name, steps from the degraded to the restored image, see `read_frames`) of the first `count` images.

        One that ends in another image than recon.pt holds is another run's: it is left out, and logged.
        """
        found = []
        for number, name in enumerate(self.names[:count]):
            path = trajectory_file(self.folder, number)
            if not path.is_file():
                continue
            frames, last = read_frames(path), to_pixels(self.recon.take([number])[0])
            # What is seen: WebP does not keep colours where nothing shines through
            ends = [
                np.asarray(Image.fromarray(x).convert("RGBA").convert("RGBa")).astype(int) for x in (frames[-1], last)
            ]
            # Equal up to the rounding of recon.pt's dtype
            if ends[0].shape == ends[1].shape and np.abs(ends[0] - ends[1]).max() <= 2:
                found.append((name, frames))
            else:
                log.warning(f"[Report] {path}: is left out: it ends in another image than recon.pt holds")
        return found
