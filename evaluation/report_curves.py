"""Quality against cost: the geometry of the report's charts, which the page draws as inline SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.table import METRICS, Metric

# The canvas in SVG units, about the width of a phone: there, its text comes out at its nominal size.
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 344, 14, 188  # the plot's edges on the canvas
LOG_FROM = 8  # the x axis is logarithmic where its largest value is this many times its smallest
CHARACTER = 7  # the width of one in a label, roughly


@dataclass(frozen=True)
class Curve:
    """One setting of a sweep: what it costs (network evaluations, seconds) and metric -> value."""

    nfe: int
    seconds_per_image: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Tick:
    at: float  # canvas units along its axis
    label: str


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    anchor: str  # of SVG: "start" or "middle"
    text: str


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: Label | None  # beside the point; None where it would touch another
    title: str  # all of it, at a touch


@dataclass(frozen=True)
class Chart:
    """What the template draws; all positions in canvas units."""

    title: str
    x_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    points: list[Point]

    @property
    def line(self) -> str:
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


def charts(curves: Sequence[Curve]) -> list[Chart]:
    """For each metric, a chart against NFE and, where times are known, one against seconds per image.

    Values that are missing or not finite are left out; a metric without any has no chart.
    """
    return [chart for metric in metrics_of(curves) for chart in _pair(metric, curves) if chart is not None]


def metrics_of(curves: Sequence[Curve]) -> list[str]:
    """The metrics that any point has, in the order of the table's columns."""
    present = {metric for curve in curves for metric in curve.metrics}
    return [metric for metric in METRICS if metric in present] + sorted(present - set(METRICS))


def _pair(metric: str, curves: Sequence[Curve]) -> tuple[Chart | None, Chart | None]:
    shown = METRICS.get(metric, Metric(metric, 4, ""))
    name = shown.title.split(" [")[0]
    known = sorted((c for c in curves if _finite(c.metrics.get(metric))), key=lambda c: c.nfe)
    timed = sorted((c for c in known if _finite(c.seconds_per_image)), key=lambda c: c.seconds_per_image)

    def titles(of: Sequence[Curve]) -> list[str]:
        return [_title(c, f"{name} {c.metrics[metric]:.{shown.digits}f}") for c in of]

    title = f"{shown.title} {shown.better}".strip()
    values = [c.metrics[metric] for c in known]
    against_nfe = _chart(
        f"{title} against NFE",
        "network evaluations per image (NFE)",
        [c.nfe for c in known],
        values,
        [f"{value:.{shown.digits}f}" for value in values],
        titles(known),
        ticks_at_points=True,
    )
    against_seconds = _chart(
        f"{title} against seconds",
        "seconds per image",
        [c.seconds_per_image for c in timed],
        [c.metrics[metric] for c in timed],
        [f"NFE {c.nfe}" for c in timed],
        titles(timed),
    )
    return against_nfe, against_seconds


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _title(curve: Curve, value: str) -> str:
    seconds = f", {curve.seconds_per_image:.3g} s per image" if _finite(curve.seconds_per_image) else ""
    return f"NFE {curve.nfe}: {value}{seconds}"


def _chart(
    title: str,
    x_title: str,
    xs: Sequence[float],
    ys: Sequence[float],
    labels: Sequence[str],
    titles: Sequence[str],
    ticks_at_points: bool = False,
) -> Chart | None:
    if not xs:
        return None
    logarithmic = min(xs) > 0 and max(xs) >= LOG_FROM * min(xs)
    to_x = _scale(xs, LEFT, RIGHT, pad=0.08, logarithmic=logarithmic)
    to_y = _scale(ys, BOTTOM, TOP, pad=0.18)

    if ticks_at_points:
        x_values = sorted(set(xs))
    else:
        x_values = _log_ticks(min(xs), max(xs)) if logarithmic else []
        x_values = x_values if len(x_values) >= 2 else _linear_ticks(*to_x.ends)
    y_values = _linear_ticks(*to_y.ends)
    digits = _digits(y_values)

    places = [(to_x(x), to_y(y)) for x, y in zip(xs, ys)]
    return Chart(
        title,
        x_title,
        _spaced([Tick(to_x(x), f"{x:g}") for x in x_values], gap=26),
        [Tick(to_y(y), f"{y:.{digits}f}") for y in y_values],
        [Point(x, y, label, hint) for (x, y), label, hint in zip(places, _placed(places, labels), titles)],
    )


class _Scale:
    """Maps values to canvas units; `ends` are the values at the two edges of the plot."""

    def __init__(self, ends: tuple[float, float], first: float, last: float, logarithmic: bool):
        self.ends, self._first, self._last = ends, first, last
        self._forward = math.log if logarithmic else float

    def __call__(self, value: float) -> float:
        low, high = map(self._forward, self.ends)
        share = (self._forward(value) - low) / (high - low)
        return round(self._first + share * (self._last - self._first), 2)


def _scale(
    values: Sequence[float], first: float, last: float, pad: float, logarithmic: bool = False
) -> _Scale:
    low, high = min(values), max(values)
    if logarithmic:
        factor = (high / low) ** pad
        return _Scale((low / factor, high * factor), first, last, True)
    # A single value (or equal ones) lies in the middle of an axis that is not empty
    margin = (high - low) * pad or abs(high) * 0.05 or 1.0
    return _Scale((low - margin, high + margin), first, last, False)


def _linear_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1,)):
        ticks = [m * 10.0**p for p in powers for m in multiples if low * 0.8 <= m * 10.0**p <= high * 1.25]
        if len(ticks) <= 8:
            return ticks
    return ticks


def _digits(ticks: Sequence[float]) -> int:
    """Decimals that tell neighbouring ticks apart."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _spaced(ticks: Sequence[Tick], gap: float) -> list[Tick]:
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at >= gap:
            kept.append(tick)
    return kept


def _placed(places: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[Label | None]:
    """A label beside each point, on the side that the curve leaves free, unless it would touch another."""
    labels: list[Label | None] = [None] * len(places)
    boxes: list[tuple[float, float, float]] = []  # left, right, baseline
    last = len(places) - 1
    for i in (last, *range(last)):  # the last one is the result that most steps reach: it is never left out
        x, y = places[i]
        before, after = (i, i + 1) if i < last else (max(i - 1, 0), i)
        falls = places[after][1] >= places[before][1]  # on the canvas, y points down
        width = CHARACTER * len(texts[i])
        centred = i == last or x + 4 + width > WIDTH
        label_x, anchor = (x, "middle") if centred else (round(x + 4, 2), "start")
        left = x - width / 2 if centred else label_x
        baseline = round(y - 8 if falls else y + 17, 2)
        if not any(left < r and l < left + width and abs(baseline - b) < 14 for l, r, b in boxes):
            labels[i] = Label(label_x, baseline, anchor, texts[i])
            boxes.append((left, left + width, baseline))
    return labels
