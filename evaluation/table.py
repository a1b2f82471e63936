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

from evaluation.intervals import bootstrap_interval
from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write, read_json


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
    "lpips": Metric("LPIPS", 4, "↓"),
    "fid": Metric("FID", 2, "↓"),
    "kid": Metric("KID x1e3", 3, "↓"),  # its values are times 1000 everywhere, see `kid_score`
}
KID_SCALE = 1000
_LARGEST = 2**53  # of numbers in a file: what is above is no score, and charts cannot draw it
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
            note = self.note or f"the value came out as {self.value}"
            object.__setattr__(self, "value", None)
            object.__setattr__(self, "note", note)


Scores = Mapping[str, Mapping[str, Score]]  # row -> metric -> score


def mean_score(values: Any, scale: float = 1.0, note: str = "") -> Score:
    """The mean over images of per-image values [n] (tensor, array or list), times `scale` (100: per cent).

    From two images on it has a bootstrap interval.  Infinite PSNRs (images equal to the clean ones) are left out
    and counted in the note.
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
    interval = None
    if len(finite) >= 2 and value is not None and math.isfinite(value):
        low, high = bootstrap_interval(finite)
        interval = (scale * low, scale * high)
    return Score(value, note, len(finite), interval)


def kid_score(mean: float, num_images: int | None = None, note: str = "") -> Score:
    """`evaluation.kid.kid`'s mean, times 1000: the usual form, in the table and in metrics.json alike."""
    return Score(KID_SCALE * mean, note, num_images)


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
    digits = METRICS.get(metric, Metric(metric, 4, "")).digits
    text = f"{score.value:.{digits}f}"
    if score.interval is not None:
        low, high = score.interval
        text += f" ± {(high - low) / 2:.{digits}f}"
    return text


def print_scores(scores: Scores, title: str = "", console: Console | None = None) -> None:
    """The table, and below it what ± is and each reason or caveat once, on a line of its own."""
    console = console or Console()
    console.print(metrics_table(scores, title))
    if any(score.interval for row in scores.values() for score in row.values()):
        console.print(INTERVAL_NOTE, soft_wrap=True, markup=False, highlight=False)
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

    A score that has an interval has "interval": [low, high] too.  Strict JSON: a missing value is null, and its
    note says why.  Settings that JSON does not know (paths) are written as text.
    """
    content = {
        "settings": dict(settings or {}),
        "scores": {
            name: {metric: _as_json(score) for metric, score in row.items()} for name, row in scores.items()
        },
    }
    text = json.dumps(content, indent=2, default=str, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def read_metrics(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Score]]]:
    """(settings, scores) of a file that `write_metrics` wrote.

    Raises UserError where there is none, or it holds something else.
    """
    try:
        content = read_json(path)
        scores = {
            row: {metric: _from_json(score) for metric, score in found.items()}
            for row, found in content["scores"].items()
        }
        return dict(content["settings"]), scores
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; compute_metrices.py makes it") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "it holds no scores"
        raise UserError(f"{path}: cannot be read: {reason}; run compute_metrices.py again") from error


def _from_json(content: Mapping[str, Any]) -> Score:
    value, note, num_images = (content[key] for key in ("value", "note", "num_images"))
    interval = content.get("interval")
    low, high = (None, None) if interval is None else interval
    if not isinstance(note, str) or not isinstance(num_images, int | None):
        raise ValueError("a score's note is a text, and its number of images an integer")
    if not all(number is None or -_LARGEST <= number <= _LARGEST for number in (value, num_images, low, high)):
        raise ValueError("a score's numbers are finite, and an interval has both ends")
    return Score(value, note, num_images, None if interval is None else (float(low), float(high)))


def _as_json(score: Score) -> dict[str, Any]:
    content = asdict(score)
    if score.interval is None:
        del content["interval"]
    return content
