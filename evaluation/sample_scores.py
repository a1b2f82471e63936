"""Judging a stream of restored images: values per image, and distances of the whole set to a reference."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.fid import distance
from evaluation.frechet import RunningStatistics, Statistics
from evaluation.kid import FeatureReservoir
from evaluation.kid import kid as kernel_distance
from evaluation.metrics import Judges
from evaluation.table import Score, kid_score, mean_score
from i2sb.errors import UserError
from i2sb.pixels import to_float, to_uint8
from i2sb.runtime.files import atomic_write

SCALE = {"accuracy": 100.0}  # per cent


class Reference(NamedTuple):
    """What distances are measured to; `statistics` None: there is none, `note` says why."""

    statistics: Statistics | None
    features: FeatureReservoir | None = None
    note: str = ""


class SampleScores:
    """Scores of one set of restored images, and of the degraded and clean ones beside it.

    keep_features: needed for KID; up to 10,000 images' features are held.
    """

    def __init__(self, judges: Judges, keep_features: bool = True):
        self.judges = judges
        self.names: list[str] = []
        self.values: dict[str, dict[str, list[float]]] = {}  # row -> metric -> value per image
        self.running, self.reservoir = RunningStatistics(), FeatureReservoir() if keep_features else None

    def add(self, names: list[str], clean: Tensor, degraded: Tensor, restored: Tensor, labels: Tensor) -> None:
        """Judge a batch: [B,3,S,S] each, float in about [-1,1] (restored also uint8); labels [B]."""
        self.names += names
        rows = {"degraded": degraded, "restored": to_float(restored), "clean": clean}
        for row, images in rows.items():
            for metric, judge in self.judges.per_image.items():
                if row == "clean" and metric != "accuracy":
                    continue
                scores = judge(images, clean, labels).tolist()
                self.values.setdefault(row, {}).setdefault(metric, []).extend(scores)
        if self.judges.features is not None:
            features = self.judges.features(to_uint8(restored))
            self.running.update(features)
            if self.reservoir is not None:
                self.reservoir.update(features)

    def table(self, metrics: Iterable[str], reference: Reference | None) -> dict[str, dict[str, Score]]:
        """Row -> metric -> score, for the `metrics` asked for."""
        metrics = list(metrics)
        table = {
            row: {metric: mean_score(values, SCALE.get(metric, 1.0)) for metric, values in found.items()}
            for row, found in self.values.items()
        }
        restored = table.setdefault("restored", {})
        for metric in metrics:
            if metric in self.judges.unavailable:
                restored[metric] = Score(None, self.judges.unavailable[metric])
        if self.judges.features is not None and reference is not None:
            restored |= {m: s for m, s in self._distances(reference).items() if m in metrics}
        return table

    def _distances(self, reference: Reference) -> dict[str, Score]:
        count = len(self.names)
        if reference.statistics is None:
            return dict.fromkeys(("fid", "kid"), Score(None, reference.note))
        if count < 2:
            return dict.fromkeys(("fid", "kid"), Score(None, "needs at least two images", count))
        scores = {"fid": Score(distance(self.running.finish(), reference.statistics), reference.note, count)}
        if self.reservoir is None:
            return scores
        if reference.features is None or not reference.features.num_images:
            scores["kid"] = Score(None, "needs images as its reference, not their statistics alone")
        else:
            mean, _ = kernel_distance(self.reservoir.features, reference.features.features)
            scores["kid"] = kid_score(mean, count, reference.note)
        return scores

    def write_csv(self, path: Path) -> None:
        """One line per image: its name, and each metric of each row."""
        columns = [(row, metric) for row, found in self.values.items() for metric in found]
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(["image", *(f"{metric}_{row}" for row, metric in columns)])
        for i, name in enumerate(self.names):
            writer.writerow([name, *(f"{self.values[row][metric][i]:.6g}" for row, metric in columns)])
        with atomic_write(path) as file:
            file.write(buffer.getvalue().encode("utf-8", "surrogateescape"))


def read_csv(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    """(names of the images, column -> value per image) of a file that `SampleScores.write_csv` wrote.

    Raises UserError where there is none, or it holds something else.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a pipe would make us wait")
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *rows = csv.reader(file)
        values = [[float(cell) for cell in row[1:]] for row in rows]
        columns = {key: [row[i] for row in values] for i, key in enumerate(header[1:])}
        return [row[0] for row in rows], columns
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; compute_metrices.py makes it") from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it holds no scores per image"
        raise UserError(f"{path}: cannot be read: {reason}; run compute_metrices.py again") from error


def uint8_batches(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Clean images of a loader, (float [B,3,S,S] in [-1,1], labels), as 8-bit pixels."""
    for images, _ in batches:
        yield ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
