"""One self-contained HTML page about a run: scores, NFE curves, a gallery with sliders and zoom, trajectories.

The page loads nothing: styles, script and images are inside it, and its content security policy forbids the
network and every script but our own (by hash), so that it can be mailed and opened anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from evaluation import report_curves
from evaluation.report_curves import Curve
from evaluation.table import METRICS, Metric, Score, Scores
from i2sb.runtime.files import atomic_write
from i2sb.safe_pickle import is_secret

__all__ = ["Case", "Curve", "ReportData", "Trajectory", "render", "write_report"]

PAGE = Path(__file__).parent / "page"
LOSSLESS_UP_TO = 512 * 512  # pixels: larger images as JPEG, or a page of them would weigh hundreds of MB
JPEG_QUALITY = 95
SETTINGS_FOLDED_FROM = 16  # entries: with more, the list starts closed
BASELINE = "degraded"  # the row, and the suffix of a case's metrics, that gains are counted from
SPECIAL = {math.inf: "∞", -math.inf: "−∞"}


@dataclass(frozen=True)
class Case:
    """One image three times, uint8 [H, W, 3], and its own metrics.

    A metric "psnr_degraded" is the degraded image's PSNR: the gain of "psnr" over it is shown.
    """

    name: str
    degraded: np.ndarray
    restored: np.ndarray
    clean: np.ndarray
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """The steps from the degraded to the restored image, uint8 [H, W, 3] each."""

    name: str
    frames: Sequence[np.ndarray]


@dataclass(frozen=True)
class ReportData:
    """All that the page shows; what is empty has no section.

    `scores` is row -> metric -> Score; `published` is metric -> value, and `published_note` says where the
    values come from and what was done differently; `ranked_by` names what `worst` and `best` are ordered by.
    """

    title: str
    settings: Mapping[str, Any]
    scores: Scores
    published: Mapping[str, float] | None = None
    published_note: str = ""
    curves: Sequence[Curve] = ()
    gallery: Sequence[Case] = ()
    worst: Sequence[Case] = ()
    best: Sequence[Case] = ()
    trajectories: Sequence[Trajectory] = ()
    ranked_by: str = "PSNR"


def write_report(path: str | os.PathLike, data: ReportData) -> None:
    """`render` into a file, atomically.  Raises UserError where it cannot be written, else as `render`."""
    document = render(data).encode()
    with atomic_write(path) as file:
        file.write(document)


def render(data: ReportData) -> str:
    """The HTML document.  Every text is escaped, and settings that are secrets are shown as ***.

    Images up to 512 x 512 pixels are stored as PNG, larger ones as JPEG (quality 95, full colour resolution);
    the page's last line says so.

    Raises ValueError for images that are not uint8 [H, W, 3] with H, W >= 1, for a case whose three images
    differ in size, and for a trajectory without frames or of frames that differ in size.
    """
    style, script = (PAGE / "report.css").read_text("utf-8"), (PAGE / "report.js").read_text("utf-8")
    images = _Images()
    rows, columns, notes = _score_table(data)
    template = _environment().get_template("report.html")
    document = template.render(
        title=data.title,
        policy=_policy(style, script),
        style=Markup(style),  # our own files, the only texts that are not escaped
        script=Markup(script),
        rows=rows,
        columns=columns,
        notes=notes,
        published_note=data.published_note if data.published else "",
        charts=report_curves.charts(data.curves),
        canvas=report_curves,
        sweep=_sweep_table(data.curves),
        gallery=[_case(case, images) for case in data.gallery],
        worst=[_case(case, images) for case in data.worst],
        best=[_case(case, images) for case in data.best],
        ranked_by=data.ranked_by,
        trajectories=[_trajectory(trajectory, images) for trajectory in data.trajectories],
        settings=[(key, _setting(key, value)) for key, value in data.settings.items()],
        settings_open=len(data.settings) < SETTINGS_FOLDED_FROM,
        images=images,
    )
    # File names may hold bytes that are no text; they must not stop the page from being written
    return document.encode("utf-8", "backslashreplace").decode("utf-8")


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _policy(style: str, script: str) -> str:
    def by_hash(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {by_hash(style)}; script-src {by_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


# --- scores ----------------------------------------------------------------------------------------------


def _metric(key: str) -> tuple[str, str, Metric]:
    """Its name, its unit ("" for none) and how it is shown."""
    shown = METRICS.get(key, Metric(key, 4, ""))
    name, _, unit = shown.title.partition(" [")
    return name, unit.rstrip("]"), shown


def _number(key: str, value: float, signed: bool = False) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return SPECIAL[value]
    text = f"{value:{'+' if signed else ''}.{_metric(key)[2].digits}f}"
    return text.replace("-", "−")


def _gain(key: str, value: float | None, baseline: float | None) -> dict[str, str] | None:
    """The difference from the degraded images and whether it is good; None where either is not known."""
    if value is None or baseline is None or not (math.isfinite(value) and math.isfinite(baseline)):
        return None
    better = {"↑": 1, "↓": -1}.get(_metric(key)[2].better, 0) * (value - baseline)
    kind = "better" if better > 0 else "worse" if better < 0 else "same"
    return {"text": _number(key, value - baseline, signed=True), "kind": kind}


def _score_table(data: ReportData) -> tuple[list[dict], list[dict], list[dict]]:
    """Rows with one cell a column, the columns, and the numbered notes that the cells point to."""
    published = {key: value for key, value in (data.published or {}).items() if value is not None}
    present = {key for row in data.scores.values() for key in row} | set(published)
    keys = [key for key in METRICS if key in present] + sorted(present - set(METRICS))
    columns = [
        {"name": name, "unit": unit, "better": shown.better} for name, unit, shown in map(_metric, keys)
    ]
    numbers: dict[tuple[str, str], int] = {}
    baseline = data.scores.get(BASELINE, {})
    rows = []
    for name, row in data.scores.items():
        base = {} if name == BASELINE else baseline
        cells = [_cell(key, row.get(key), base.get(key), numbers) for key in keys]
        counts = {score.num_images for score in row.values() if score.num_images}
        rows.append({"name": name, "num_images": max(counts, default=None), "cells": cells, "ours": True})
    if published:
        cells = [_cell(key, Score(published.get(key)), None, numbers) for key in keys]
        rows.append({"name": "published", "num_images": None, "cells": cells, "ours": False})
    notes = [{"number": number, "metric": name, "text": text} for (name, text), number in numbers.items()]
    return rows, columns, notes


def _cell(key: str, score: Score | None, base: Score | None, numbers: dict[tuple[str, str], int]) -> dict:
    score = score or Score(None)
    number = numbers.setdefault((_metric(key)[0], score.note), len(numbers) + 1) if score.note else None
    return {
        "text": None if score.value is None else _number(key, score.value),
        "interval": [_number(key, end) for end in score.interval or ()],
        "gain": _gain(key, score.value, base.value) if base else None,
        "note": number,
    }


def _sweep_table(curves: Sequence[Curve]) -> dict[str, list] | None:
    """The charts' numbers, for those who read rather than look."""
    if not curves:
        return None
    keys = report_curves.metrics_of(curves)
    header = ["NFE", "seconds per image", *(_metric(key)[2].title for key in keys)]
    rows = []
    for curve in sorted(curves, key=lambda c: c.nfe):
        seconds = "–" if curve.seconds_per_image is None else f"{curve.seconds_per_image:.3g}"
        values = (curve.metrics.get(key) for key in keys)
        cells = ["–" if value is None else _number(key, value) for key, value in zip(keys, values)]
        rows.append([str(curve.nfe), seconds, *cells])
    return {"header": header, "rows": rows}


def _setting(key: str, value: Any) -> str:
    if is_secret(key) and value:
        return "***"
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_setting(name, inner)}" for name, inner in value.items()) or "–"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_setting("", inner) for inner in value) or "–"
    return str(value)


# --- images ----------------------------------------------------------------------------------------------


class _Images:
    """Turns images into data: URIs and counts them, for the page's last line."""

    def __init__(self) -> None:
        self.num_png = self.num_jpeg = 0

    def uri(self, image: np.ndarray) -> str:
        kind, options = "png", {}
        if image.shape[0] * image.shape[1] > LOSSLESS_UP_TO:
            # 4:4:4: the usual halved colour resolution would be seen in the zoom
            kind, options = "jpeg", {"quality": JPEG_QUALITY, "subsampling": 0}
        self.num_png += kind == "png"
        self.num_jpeg += kind == "jpeg"
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, kind, **options)
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _same_size(what: str, images: Iterable[np.ndarray]) -> tuple[int, int]:
    """(height, width) of images that must be uint8 [H, W, 3] and of one size."""
    shapes = set()
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"{what}: an image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]")
        shapes.add(image.shape[:2])
    if len(shapes) != 1:
        sizes = ", ".join(f"{h}x{w}" for h, w in sorted(shapes)) or "none"
        raise ValueError(f"{what}: images of one size are needed, there are {sizes}")
    return shapes.pop()


def _case(case: Case, images: _Images) -> dict[str, Any]:
    shots = {"degraded": case.degraded, "restored": case.restored, "clean": case.clean}
    height, width = _same_size(f"case {case.name!r}", shots.values())
    metrics = []
    for key, value in case.metrics.items():
        stem = key.removesuffix(f"_{BASELINE}")
        if stem != key and stem in case.metrics:
            continue  # told as the gain of the other
        name, unit, _ = _metric(stem)
        gain = _gain(key, value, case.metrics.get(f"{key}_{BASELINE}"))
        name = name if stem == key else f"{name} ({BASELINE})"
        metrics.append({"name": name, "unit": unit, "text": _number(stem, value), "gain": gain})
    return {
        "name": case.name,
        "height": height,
        "width": width,
        "shots": [(kind, images.uri(image)) for kind, image in shots.items()],
        "metrics": metrics,
    }


def _trajectory(trajectory: Trajectory, images: _Images) -> dict[str, Any]:
    height, width = _same_size(f"trajectory {trajectory.name!r}", trajectory.frames)
    frames = [images.uri(frame) for frame in trajectory.frames]
    return {"name": trajectory.name, "height": height, "width": width, "frames": frames}
