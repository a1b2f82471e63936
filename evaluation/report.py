"""report.html: one page about a folder of restored images, made from what sample.py and compute_metrices.py left.

The page loads nothing: styles, script and images are inside it, and its content security policy forbids the
network and every script but our own (by hash), so that it can be mailed and opened anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from evaluation.judge import Evaluation, open_samples, published_scores
from evaluation.metrics import metrics_of, shown_as
from evaluation.scored_images import Case, JudgedImages
from evaluation.sweep import Point, draw_curves, read_curve, title_of
from evaluation.table import notes
from i2sb.config import FIELDS
from i2sb.recon import BYTES, SECONDS, made_with, sampling_name
from i2sb.runtime.files import atomic_write

PAGE = Path(__file__).parent / "page"
NUM_RANKED, NUM_TRAJECTORIES = 6, 6
NOT_SHOWN = (BYTES, "data", "network", "task")  # fingerprints, and what --net and --corrupt name


class Report(NamedTuple):
    """All that the page shows; what is empty has no section.

    ranked_by: what worst and best are ordered by.  baseline: its name.
    """

    title: str
    settings: Mapping[str, Any] = {}
    scores: Mapping[str, Any] = {}
    curves: Sequence[Point] = ()
    gallery: Sequence[Case] = ()
    worst: Sequence[Case] = ()
    best: Sequence[Case] = ()
    trajectories: Sequence[tuple[str, Sequence[np.ndarray]]] = ()
    ranked_by: str = "gain in PSNR"
    baseline: str = ""


def write_reports(opt: Any, *, num_gallery: int = 12) -> list[Path]:
    """Write results/CKPT/SAMPLE_DIR/report.html for each of `opt.sample_dir`; returns their paths.

    opt: see `open_samples`.  num_gallery: images shown, spread over the classes.
    Raises UserError where samples were not judged, or files do not belong together.
    """
    found = open_samples(opt, device="cpu")
    published = published_scores(found.options, found.imagenet)
    paths = []
    for samples in found.samples.values():
        images = JudgedImages(samples, found)
        metric, ranked = images.ranking()
        num_ranked = min(NUM_RANKED, len(ranked) // 2)
        nfe = f"NFE {images.run['nfe']}, {sampling_name(images.run)}" if "nfe" in images.run else None
        report = Report(
            title=", ".join(filter(None, [title_of(images.settings), nfe])),
            settings=_settings(found, images),
            scores={**images.scores, **published},
            curves=read_curve(images.folder),
            gallery=[images.case(number) for number in images.spread(num_gallery)],
            worst=[images.case(number) for number in ranked[:num_ranked]],
            best=[images.case(number) for number in ranked[::-1][:num_ranked]],
            trajectories=images.trajectories(NUM_TRAJECTORIES, found.log),
            ranked_by=f"gain in {shown_as(metric).title}",
            baseline=found.corrupt.baseline_name,
        )
        paths.append(images.folder / "report.html")
        with atomic_write(paths[-1]) as file:
            file.write(render(report).encode())
        found.log.info(f"[Report] {paths[-1]}")
    return paths


def _settings(found: Evaluation, images: JudgedImages) -> dict[str, Any]:
    """How the samples were judged, what the checkpoint is (the original's samples do not tell), how they were made."""
    bridge = {key: value for key, value in vars(found.options).items() if key in (*FIELDS, "net")}
    seconds = {"seconds per image": made_with(images.recon.paths[0]).get(SECONDS)}
    known = images.settings | bridge | images.run | seconds | images.settings
    return {key: value for key, value in known.items() if key not in NOT_SHOWN}


def render(report: Report) -> str:
    """The HTML document.  Every text is escaped; images are PNG."""
    style, script = (PAGE / "report.css").read_text("utf-8"), (PAGE / "report.js").read_text("utf-8")
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    curves = []
    for metric in metrics_of(point.scores for point in report.curves):
        points = [point for point in report.curves if metric in point.scores]
        curves.append((metric, points, _data_uri("svg+xml", draw_curves(points, [metric], "svg"))))
    pages = FileSystemLoader(PAGE)
    jinja = Environment(loader=pages, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    document = jinja.get_template("report.html").render(
        report=report,
        policy=policy + "; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # our own files, the only texts that are not escaped
        script=Markup(script),
        scored=metrics_of(report.scores.values()),
        before={metric: score.value for metric, score in report.scores.get("baseline", {}).items()},
        notes=notes(report.scores),
        curves=curves,
        kinds=("degraded", "baseline", "restored", "clean"),
        has_baseline=any(case.baseline is not None for case in (*report.gallery, *report.worst, *report.best)),
        shown=shown_as,
        number=_number,
        gain=_gain,
        setting=_setting,
        uri=_image_uri,
    )
    # File names may hold bytes that are not text; they must not stop the page from being written
    return document.encode("utf-8", "backslashreplace").decode("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _number(metric: str, value: float, sign: str = "") -> str:
    text = f"{value:{sign}.{shown_as(metric).digits}f}"
    return "–" if math.isnan(value) else text.replace("-", "−").replace("inf", "∞")


def _gain(metric: str, value: float, before: float | None) -> Markup | str:
    """The signed difference from the baseline, coloured by whether it is good; "" where it is unknown."""
    if before is None or not math.isfinite(value - before):
        return ""
    better = {"↑": 1, "↓": -1}.get(shown_as(metric).better, 0) * (value - before)
    kind = "better" if better > 0 else "worse" if better < 0 else "same"
    return Markup('<span class="{}">{}</span>').format(kind, _number(metric, value - before, "+"))


def _setting(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):  # a size
        return ",".join(map(str, value))
    named = {"None": "–", "": "–", "True": "yes", "False": "no"}
    return named.get(str(value), str(value))


def _image_uri(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "png")
    return _data_uri("png", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
