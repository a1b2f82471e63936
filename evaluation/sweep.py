"""Quality against cost: the samples of one checkpoint at several NFE, as a table, sweep.csv and curves."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.metrics import OF_SETS, metrics_of, shown_as
from evaluation.scored_images import read_judged
from evaluation.table import Score, print_scores, run_key
from i2sb.errors import UserError
from i2sb.recon import BYTES, SECONDS, SWEEP, find_recon, made_with, sampling_name
from i2sb.runtime.files import atomic_write

NAME = r"samples_nfe(\d+)(_[\w.]+)?"  # of a folder of samples
FREE = {"nfe", "samples", BYTES}  # what differs between points of one curve
STYLE = {"font.size": 11, "axes.grid": True, "axes.grid.axis": "y", "axes.spines.right": False, "grid.alpha": 0.35}
PADDING = {"figure.constrained_layout.w_pad": 0.12, "figure.constrained_layout.h_pad": 0.12}  # inches
COLORS = ("#1d5bbf", "#c2410c", "#15803d", "#7e22ce", "#57534e")
SVG = {"svg.fonttype": "path", "svg.hashsalt": "i2sb"}  # no font is needed to show it; equal points, equal bytes


class Point(NamedTuple):
    """One setting of a sweep: network evaluations, seconds per image, metric -> score of restored and baseline images.

    made: how it was made and judged; points of one curve are equal in it.  run: identity of its samples.
    """

    nfe: int
    seconds: float | None
    scores: Mapping[str, Score]
    made: Sequence[Mapping[str, Any]] = ()
    run: Mapping[str, Any] = {}
    baseline: Mapping[str, Score] = {}

    @property
    def sampler(self) -> str:
        """See `recon.sampling_name`; what a curve is drawn for."""
        return sampling_name(self.run)


def is_judged(folder: Path, opt: Any) -> bool:
    """Whether metrics.json holds what compute_metrices.py with these options would write."""
    try:
        _, settings, scores = read_judged(folder)
    except UserError:
        return False
    wanted = {"dataset_dir": str(opt.dataset_dir), "seed": opt.seed}
    if set(opt.metrics) & set(OF_SETS):
        wanted["fid_mode"] = opt.mode
    if opt.fid_ref is not None:
        wanted["fid_reference"] = str(opt.fid_ref)
    return wanted.items() <= settings.items() and set(opt.metrics) <= set(scores.get("restored", {}))


def read_point(folder: Path) -> Point:
    """Raises UserError as `read_judged`."""
    run, settings, scores = read_judged(folder)
    nfe = run.get("nfe") or int(re.match(NAME, folder.name)[1])
    known = {metric: score for metric, score in scores.get("restored", {}).items() if score.value is not None}
    full = {"clip_denoise": folder.name.endswith("_clip"), **run}
    made = [{key: value for key, value in found.items() if key not in FREE} for found in (full, settings)]
    return Point(nfe, made_with(find_recon(folder)[0]).get(SECONDS), known, made, run, scores.get("baseline", {}))


def read_curve(folder: Path) -> list[Point]:
    """The points of `folder` and of those beside it that were made and judged alike, by NFE; [] for a single one."""
    points = {}
    for place in folder.parent.iterdir():
        if re.fullmatch(NAME, place.name):
            with contextlib.suppress(UserError):
                points[place.name] = read_point(place)
    own = points.get(folder.name)
    alike = [point for point in points.values() if own and point.made == own.made]
    return sorted(alike, key=lambda point: point.nfe) if len(alike) > 1 else []


def write_sweep(folders: Iterable[Path], out: Path) -> None:
    """Write OUT/sweep.csv and OUT/sweep.png, a curve per sampler, of judged folders; print their scores."""
    points = list(map(read_point, folders))
    order = list(dict.fromkeys(point.sampler for point in points))
    points.sort(key=lambda point: (order.index(point.sampler), point.nfe))
    metrics = metrics_of(point.scores for point in points)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sampler", "nfe", "seconds_per_image", *metrics, "run"])
    for point in points:
        values = [point.scores[metric].value if metric in point.scores else None for metric in metrics]
        writer.writerow([point.sampler, point.nfe, point.seconds, *values, run_key(point.run)])
    with atomic_write(out / SWEEP[0]) as file:
        file.write(text.getvalue().encode())
    if metrics:
        with atomic_write(out / SWEEP[1]) as file:
            file.write(draw_curves(points, metrics, "png", title_of(points[0].made[1])))
    print_scores({f"restored, {point.sampler}, NFE {point.nfe}": point.scores for point in points})


def title_of(settings: Mapping[str, Any]) -> str:
    """What was trained, of the settings in metrics.json: "NAME, TASK, 5,000 iterations"."""
    parts = dict.fromkeys([settings["checkpoint"], settings["corrupt"]])
    return ", ".join([*parts, *(f"{n:,} iterations" for n in [settings.get("iterations")] if n is not None)])


def draw_curves(points: Sequence[Point], metrics: Sequence[str], kind: str, title: str = "") -> bytes:
    """A picture ("svg" or "png") with a panel per metric, one below the other: value against NFE."""
    import matplotlib  # a second to import
    from matplotlib.figure import Figure  # without pyplot no display is looked for

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(STYLE | PADDING | SVG)
        figure = Figure(figsize=(5.2, 3.6 * len(metrics)), layout="constrained")
        for axes, metric in zip(figure.subplots(len(metrics), squeeze=False)[:, 0], metrics):
            _draw(axes, [point for point in points if metric in point.scores], metric)
        if title:
            figure.suptitle(title, fontsize=12, wrap=True, parse_math=False)
        labels = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels())}
        if len(labels) > 1:  # below the panels, where it hides no line
            legend = figure.legend(
                labels.values(), labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9
            )
            for text in legend.get_texts():
                text.set_parse_math(False)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}  # equal points give equal bytes
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def _draw(axes: Any, points: Sequence[Point], metric: str) -> None:
    """One panel, intervals as bars, the baseline dashed; what each point costs in seconds stands above it."""
    nfes = sorted({point.nfe for point in points})
    samplers = list(dict.fromkeys(point.sampler for point in points))
    for sampler, color in zip(samplers, itertools.cycle(COLORS)):
        own = [(point.nfe, point.scores[metric]) for point in points if point.sampler == sampler]
        x, y = [nfe for nfe, _ in own], np.array([score.value for _, score in own])
        ends = np.array([score.interval or (score.value, score.value) for _, score in own])
        axes.plot(x, y, "o-", color=color, label=sampler)
        axes.vlines(x, *ends.T, color=color, alpha=0.5)  # that of a Frechet distance may lie above it
    baseline = points[0].baseline.get(metric)
    if baseline is not None and baseline.value is not None:
        axes.axhline(baseline.value, color="#57534e", linestyle="--", label=points[0].made[1]["baseline"])
    if nfes[-1] >= 8 * nfes[0]:
        axes.set_xscale("log")
    axes.margins(x=0.08, y=0.15)
    axes.locator_params(axis="y", nbins=5)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel(shown_as(metric).label)
    axes.set_xlabel("network evaluations per image (NFE)")
    axes.set_xticks(nfes, nfes, rotation=90)  # upright labels do not touch their neighbours
    seconds = {point.nfe: f"{point.seconds:.2g}" for point in points if point.seconds is not None}
    if seconds:
        top = axes.secondary_xaxis("top")
        top.set_xlabel("seconds per image")
        top.set_xticks(list(seconds), list(seconds.values()), rotation=90)
        top.minorticks_off()
    axes.minorticks_off()
