"""Scores as people see them: the table on the screen, metrics.json and metrics_per_image.csv.

Rows are sets of images (degraded, baseline, restored, clean, published), columns are metrics.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.metrics import metrics_of, shown_as
from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write
from i2sb.runtime.reading import read_json
from i2sb.runtime.script import printing

INTERVAL_NOTE = "± half the width of the 95 % bootstrap interval over images; metrics.json has both ends"


@dataclass(frozen=True)
class Score:
    """One cell: a value, or None and the reason in `note` (a note may also qualify a value).

    interval: (low, high), the 95 % interval of the value where one is known, in the value's unit.
    """

    value: float | None
    note: str = ""
    num_images: int | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.interval is not None:
            object.__setattr__(self, "interval", tuple(self.interval))
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "note", self.note or f"the value is {self.value}")
            object.__setattr__(self, "value", None)


Scores = Mapping[str, Mapping[str, Score]]  # row -> metric -> score


def mean_scores(rows: Mapping[str, Sequence[float]], scale: float = 1.0) -> dict[str, Score]:
    """Row -> the mean of its per-image values [n] times `scale`, over the same images in every row.

    A score of two images or more has a bootstrap interval.  An image whose value is infinite in any row (the PSNR of
    one that equals the clean one) is left out of all rows; the note says how many remain.
    """
    values = np.array(list(rows.values()), dtype=np.float64)  # [rows, n]
    kept = ~np.isinf(values).any(axis=0)
    note = "" if kept.all() else f"over {kept.sum()} of {len(kept)} images: in the others a row equals the clean images"
    scores = {}
    for row, own in zip(rows, scale * values[:, kept]):
        mean = math.fsum(own) / len(own) if len(own) else None
        has_interval = len(own) >= 2 and math.isfinite(mean)
        scores[row] = Score(mean, note, len(own), bootstrap_interval(own) if has_interval else None)
    return scores


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of per-image values [n] (Efron and Tibshirani 1993, ch. 13).

    The same values give the same interval; the 1,000 resamples are drawn a few at a time, which bounds the memory.
    """
    from scipy.stats import bootstrap  # takes a second to import

    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=1000,
        batch=max(1, 2**25 // values.nbytes),  # 32 MiB, and as much for the indices
        method="percentile",
        random_state=np.random.default_rng(0),  # SciPy 1.15 calls it rng, and knows this name too
    )
    return tuple(map(float, result.confidence_interval))


def gains(scores: Scores, name: str, baseline: str) -> str:
    """One line: by how much the restored images of the folder `name` differ from `baseline`; "" where nothing tells."""
    found = []
    for metric, before in scores.get("baseline", {}).items():
        after, shown = scores["restored"].get(metric, Score(None)), shown_as(metric)
        if None not in (before.value, after.value):
            gain = after.value - before.value
            word = "better" if gain * {"↑": 1, "↓": -1}.get(shown.better, 0) > 0 else "worse" if gain else "equal"
            found.append(f"{shown.title} {gain:+.{shown.digits}f} {shown.unit}".rstrip() + f" ({word})")
    return f"{name} over {baseline}: {', '.join(found)}" if found else ""


def print_scores(scores: Scores, title: str = "", console: Console | None = None, *, lines: Iterable[str] = ()) -> None:
    """The table ("-" where a row has no value); below it `lines`, what ± is, and each reason or caveat once.

    Raises UserError where standard output cannot be written.
    """
    console, columns = console or Console(), metrics_of(scores.values())
    table = Table(title=Text(title) if title else None)
    table.add_column("images")  # Text throughout: "[dB]" in a plain string would be read as markup
    for metric in columns:
        table.add_column(Text(shown_as(metric).label), justify="right")
    for name, row in scores.items():
        table.add_row(Text(name), *(_cell(metric, row.get(metric)) for metric in columns))
    has_interval = any(score.interval for row in scores.values() for score in row.values())
    with printing():
        console.print(table)
        for line in (*lines, *[INTERVAL_NOTE] * has_interval, *notes(scores)):
            # paths and addresses stay whole: no wrapping, no markup
            console.print(line, soft_wrap=True, markup=False, highlight=False)


def _cell(metric: str, score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    digits = shown_as(metric).digits
    half = "" if score.interval is None else f" ± {(score.interval[1] - score.interval[0]) / 2:.{digits}f}"
    return f"{score.value:.{digits}f}{half}"


def notes(scores: Scores) -> list[str]:
    """Each reason or caveat once, behind its metric and the rows that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for name, row in scores.items():
        for metric, score in row.items():
            if score.note:
                about.setdefault((metric, score.note), []).append(name)
    return [f"{shown_as(metric).title} ({', '.join(names)}): {note}" for (metric, note), names in about.items()]


def write_metrics(path: Path, scores: Scores, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """metrics.json: {"run": {...}, "settings": {...}, "scores": {row: {metric: {value, note, num_images, interval}}}}.

    run: `i2sb.recon.run_identity`; settings: how the samples were judged.  Strict JSON: a missing value is null.
    """
    cells = {row: {metric: asdict(score) for metric, score in found.items()} for row, found in scores.items()}
    content = {"run": run, "settings": settings, "scores": cells}
    text = json.dumps(content, indent=2, default=str, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_metrics(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Any], Scores]:
    """(settings, scores) of a metrics.json.

    Raises UserError where there is none, it holds something else, or it is of another run than `run`.
    """
    content = read_json(path)
    try:
        scores = {row: {metric: Score(**cell) for metric, cell in found.items()}
                  for row, found in content["scores"].items()}  # fmt: skip
        settings, key = dict(content["settings"]), run_key(content["run"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: holds no scores; run compute_metrices.py again") from error
    _check_run(path, key, run)
    return settings, scores


def write_csv(path: Path, names: Iterable[str], columns: Mapping[str, Sequence[float]], run: Mapping[str, Any]) -> None:
    """metrics_per_image.csv: a line per image with its name, each column, and the identity of its run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["image", *columns, "run"])
    for name, *values in zip(names, *columns.values()):
        writer.writerow([name, *(f"{value:.6g}" for value in values), run_key(run)])
    with atomic_write(path) as file:
        file.write(buffer.getvalue().encode("utf-8", "surrogateescape"))


def read_csv(path: Path, run: Mapping[str, Any]) -> tuple[list[str], dict[str, list[float]]]:
    """(names of the images, column -> value per image) of a file that `write_csv` wrote.

    Raises UserError where there is none, it holds something else, or it is of another run than `run`.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = list(csv.DictReader(file))
        names, (key,) = [line.pop("image") for line in lines], {line.pop("run") for line in lines}
        columns = {column: [float(line[column]) for line in lines] for column in lines[0]}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: holds no scores per image; run compute_metrices.py again") from error
    _check_run(path, key, run)
    return names, columns


def run_key(run: Mapping[str, Any]) -> str:
    """Identity of a run in few characters."""
    return hashlib.sha256(json.dumps(dict(run), default=str, sort_keys=True).encode()).hexdigest()[:16]


def _check_run(path: Path, key: str, run: Mapping[str, Any]) -> None:
    if key != run_key(run):
        raise UserError(f"{path}: is of other samples than those beside it; run compute_metrices.py again")
