"""The table on the screen and metrics.json: rows of images (degraded, restored, ...), columns of metrics."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from i2sb.runtime.files import atomic_write


class Metric(NamedTuple):
    """How a metric is shown."""

    title: str
    digits: int
    better: str  # an arrow


# In the order of the columns; a metric that is not listed here is shown plainly, behind these.
METRICS = {
    "psnr": Metric("PSNR [dB]", 2, "↑"),
    "ssim": Metric("SSIM", 4, "↑"),
    "accuracy": Metric("Accuracy [%]", 1, "↑"),
    "fid": Metric("FID", 2, "↓"),
}


@dataclass(frozen=True)
class Score:
    """One cell: a value, or None and the reason in `note` (a note may also qualify a value)."""

    value: float | None
    note: str = ""
    num_images: int | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            note = self.note or f"the value came out as {self.value}"
            object.__setattr__(self, "value", None)
            object.__setattr__(self, "note", note)


Scores = Mapping[str, Mapping[str, Score]]  # row -> metric -> score


def mean_score(values: Any, scale: float = 1.0, note: str = "") -> Score:
    """The mean over images of per-image values [n] (tensor, array or list), times `scale` (100: per cent).

    Infinite PSNRs (images equal to the clean ones) are left out and counted in the note.
    """
    values = [float(value) for value in values]
    if not values:
        return Score(None, note or "no image was judged", 0)
    finite = [value for value in values if not math.isinf(value)]
    if len(finite) < len(values):
        left_out = (
            f"{len(values) - len(finite)} of {len(values)} images equal the clean ones and are left out"
        )
        note = f"{note}; {left_out}" if note else left_out
    value = scale * math.fsum(finite) / len(finite) if finite else None
    return Score(value, note, len(finite))


def metrics_table(scores: Scores, title: str = "") -> Table:
    """Rows as given, one column for each metric that any row has; "-" where a row has no value."""
    present = {metric for row in scores.values() for metric in row}
    columns = [metric for metric in METRICS if metric in present] + sorted(present - set(METRICS))
    table = Table(title=Text(title) if title else None)
    table.add_column("images")  # Text throughout: "[dB]" in a plain string would be read as markup
    for metric in columns:
        shown = METRICS.get(metric, Metric(metric, 4, ""))
        table.add_column(Text(f"{shown.title} {shown.better}".strip()), justify="right")
    for name, row in scores.items():
        table.add_row(Text(name), *(_cell(metric, row.get(metric)) for metric in columns))
    return table


def _cell(metric: str, score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.{METRICS.get(metric, Metric(metric, 4, '')).digits}f}"


def print_scores(scores: Scores, title: str = "", console: Console | None = None) -> None:
    """The table, and below it each reason or caveat once, on a line of its own."""
    console = console or Console()
    console.print(metrics_table(scores, title))
    notes: dict[tuple[str, str], list[str]] = {}
    for name, row in scores.items():
        for metric, score in row.items():
            if score.note:
                notes.setdefault((metric, score.note), []).append(name)
    for (metric, note), names in notes.items():
        shown = METRICS[metric].title.split(" [")[0] if metric in METRICS else metric
        # Paths and addresses in a note stay whole: no wrapping, no markup
        console.print(f"{shown} ({', '.join(names)}): {note}", soft_wrap=True, markup=False, highlight=False)


def write_metrics(path: Path, scores: Scores, settings: Mapping[str, Any] | None = None) -> None:
    """metrics.json, atomically: {"settings": {...}, "scores": {row: {metric: {value, note, num_images}}}}.

    Strict JSON: a missing value is null, and its note says why.  Settings that JSON does not know (paths) are
    written as text.
    """
    content = {
        "settings": dict(settings or {}),
        "scores": {
            name: {metric: asdict(score) for metric, score in row.items()} for name, row in scores.items()
        },
    }
    text = json.dumps(content, indent=2, default=str, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())
