"""Scores as people see them: the table on the screen, metrics.json and metrics_per_image.csv.

Rows are sets of images (degraded, restored, clean, published), columns are metrics.
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

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.intervals import bootstrap_interval
from evaluation.metrics import metrics_of, shown_as
from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write
from i2sb.runtime.reading import read_json

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
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "note", self.note or f"the value is {self.value}")
            object.__setattr__(self, "value", None)


Scores = Mapping[str, Mapping[str, Score]]  # row -> metric -> score


def mean_scores(rows: Mapping[str, Sequence[float]], scale: float = 1.0) -> dict[str, Score]:
    """Row -> the mean of its per-image values [n] times `scale`, over the same images in every row.

    From two images on a score has a bootstrap interval.  An image whose value is infinite in any row (PSNR of one
    that equals the clean one) is left out of all rows; the note says how many are.
    """
    count = len(next(iter(rows.values())))
    kept = [i for i in range(count) if not any(math.isinf(values[i]) for values in rows.values())]
    note = "" if len(kept) == count else (
        f"over {len(kept)} of {count} images: the others equal the clean ones, degraded or restored"
    )  # fmt: skip
    return {row: _mean_score([values[i] for i in kept], scale, note) for row, values in rows.items()}


def _mean_score(values: Sequence[float], scale: float, note: str) -> Score:
    if not values:
        return Score(None, note or "no image was judged", 0)
    mean = scale * math.fsum(values) / len(values)
    interval = None
    if len(values) >= 2 and math.isfinite(mean):
        low, high = bootstrap_interval(values)
        interval = (scale * low, scale * high)
    return Score(mean, note, len(values), interval)


def metrics_table(scores: Scores, title: str = "") -> Table:
    """Rows as given, one column for each metric that any row has; "-" where a row has no value."""
    columns = metrics_of(scores.values())
    table = Table(title=Text(title) if title else None)
    table.add_column("images")  # Text throughout: "[dB]" in a plain string would be read as markup
    for metric in columns:
        table.add_column(Text(shown_as(metric).label), justify="right")
    for name, row in scores.items():
        table.add_row(Text(name), *(_cell(metric, row.get(metric)) for metric in columns))
    return table


def _cell(metric: str, score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    digits = shown_as(metric).digits
    half = "" if score.interval is None else f" ± {(score.interval[1] - score.interval[0]) / 2:.{digits}f}"
    return f"{score.value:.{digits}f}{half}"


def print_scores(scores: Scores, title: str = "", console: Console | None = None) -> None:
    """The table, and below it what ± is and each reason or caveat once, on a line of its own."""
    console = console or Console()
    console.print(metrics_table(scores, title))
    lines = notes(scores)
    if any(score.interval for row in scores.values() for score in row.values()):
        lines.insert(0, INTERVAL_NOTE)
    for line in lines:  # paths and addresses stay whole: no wrapping, no markup
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def notes(scores: Scores) -> list[str]:
    """Each reason or caveat once, behind its metric and the rows that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for name, row in scores.items():
        for metric, score in row.items():
            if score.note:
                about.setdefault((metric, score.note), []).append(name)
    return [f"{shown_as(metric).title} ({', '.join(names)}): {note}" for (metric, note), names in about.items()]


def write_metrics(path: Path, scores: Scores, settings: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """metrics.json: {"run": {...}, "settings": {...}, "scores": {row: {metric: {value, note, num_images}}}}.

    run: identity of the samples (`i2sb.recon.run_identity`); settings: how they were judged.  A score that has an
    interval has "interval": [low, high] too.  Strict JSON: a missing value is null, and its note says why.
    """
    cells = {row: {metric: asdict(score) for metric, score in found.items()} for row, found in scores.items()}
    content = {"run": dict(run), "settings": dict(settings), "scores": cells}
    text = json.dumps(content, indent=2, default=str, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def read_metrics(path: Path, run: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Scores]:
    """(settings, scores) of a metrics.json.

    Raises UserError where there is none, it holds something else, or it is of another run than `run`.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file; compute_metrices.py makes it")
    content = read_json(path)
    try:
        judged = content.get("run")
        scores = {
            row: {metric: _as_score(cell) for metric, cell in found.items()}
            for row, found in content["scores"].items()
        }
        settings = dict(content["settings"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: holds no scores; run compute_metrices.py again") from error
    if run is not None and judged != _plain(run):
        raise UserError(f"{path}: is of other samples than those beside it; run compute_metrices.py again")
    return settings, scores


def _as_score(cell: Mapping[str, Any]) -> Score:
    interval = cell.get("interval")
    numbers = [cell["value"], cell["num_images"], *(interval or [])]
    if not all(isinstance(number, (int, float, type(None))) for number in numbers):
        raise TypeError("a score is not a number")
    return Score(cell["value"], str(cell["note"]), cell["num_images"], tuple(interval) if interval else None)


def _plain(run: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(run), default=str))


def run_key(run: Mapping[str, Any]) -> str:
    """Identity of a run in few characters."""
    return hashlib.sha256(json.dumps(_plain(run), sort_keys=True).encode()).hexdigest()[:16]


def write_csv(
    path: Path, names: Iterable[str], columns: Mapping[str, Sequence[float]], run: Mapping[str, Any]
) -> None:
    """metrics_per_image.csv: a line per image with its name, each column, and the identity of its run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["image", *columns, "run"])
    for name, *values in zip(names, *columns.values()):
        writer.writerow([name, *(f"{value:.6g}" for value in values), run_key(run)])
    with atomic_write(path) as file:
        file.write(buffer.getvalue().encode("utf-8", "surrogateescape"))


def read_csv(path: Path, run: Mapping[str, Any] | None = None) -> tuple[list[str], dict[str, list[float]]]:
    """(names of the images, column -> value per image) of a file that `write_csv` wrote.

    Raises UserError where there is none, it holds something else, or it is of another run than `run`.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *lines = csv.reader(file)
        key = [line.pop(header.index("run")) for line in lines] if "run" in header else []
        keys = [key for key in header[1:] if key != "run"]
        values = [[float(cell) for cell in line[1:]] for line in lines]
        columns = {key: [line[i] for line in values] for i, key in enumerate(keys)}
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; compute_metrices.py makes it") from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it holds no scores per image"
        raise UserError(f"{path}: cannot be read: {reason}; run compute_metrices.py again") from error
    if run is not None and set(key) != {run_key(run)}:
        raise UserError(f"{path}: is of other samples than those beside it; run compute_metrices.py again")
    return [line[0] for line in lines], columns
