"""A sweep over NFE: the table, sweep.csv and sweep.png of folders that are restored and judged."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.report_curves import Curve, metrics_of
from evaluation.table import METRICS, Metric, read_metrics
from i2sb.errors import UserError
from i2sb.recon import find_recon
from i2sb.runtime.files import atomic_write
from wiring.curves import curve_point


def is_judged(folder: Path, opt: Any) -> bool:
    """Whether metrics.json of a folder of samples holds what compute_metrices.py with these options would write.

    opt: `metrics`, `mode`, `fid_ref`, `dataset_dir`, `seed` are read.
    """
    path = folder / "metrics.json"
    try:
        settings, scores = read_metrics(path)
        newest = max(recon.stat().st_mtime_ns for recon in find_recon(folder))
    except (UserError, OSError):
        return False
    same = {"fid_mode": opt.mode, "dataset_dir": str(opt.dataset_dir), "seed": opt.seed}
    return (
        path.stat().st_mtime_ns >= newest
        and all(settings.get(key) == value for key, value in same.items())
        and (opt.fid_ref is None or settings.get("fid_reference") == opt.fid_ref)
        and set(opt.metrics) <= set(scores.get("restored", {}))
    )


def write_sweep(folders: Sequence[Path], out: Path, console: Console | None = None) -> list[Curve]:
    """Print the table of judged folders; write OUT/sweep.csv and OUT/sweep.png.  Returns the points by NFE.

    Raises:
        UserError: a folder that is not judged, or a file that cannot be written.
    """
    points = sorted(map(curve_point, folders), key=lambda point: point.nfe)
    metrics = metrics_of(points)
    (console or Console()).print(_table(points, metrics))
    with atomic_write(out / "sweep.csv") as file:
        file.write(_csv(points, metrics).encode())
    if metrics:
        with atomic_write(out / "sweep.png") as file:
            file.write(_plot(points, metrics))
    return points


def _shown(metric: str) -> Metric:
    return METRICS.get(metric, Metric(metric, 4, ""))


def _table(points: Sequence[Curve], metrics: Sequence[str]) -> Table:
    table = Table("NFE", "seconds per image")
    for metric in metrics:  # as Text: "[dB]" is no markup
        table.add_column(Text(f"{_shown(metric).title} {_shown(metric).better}".strip()))
    for point in points:
        seconds = "-" if point.seconds_per_image is None else f"{point.seconds_per_image:.3g}"
        values = (point.metrics.get(metric) for metric in metrics)
        cells = ("-" if v is None else f"{v:.{_shown(m).digits}f}" for m, v in zip(metrics, values))
        table.add_row(str(point.nfe), seconds, *cells)
    return table


def _csv(points: Sequence[Curve], metrics: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["nfe", "seconds_per_image", *metrics])
    for point in points:
        writer.writerow([point.nfe, point.seconds_per_image, *(point.metrics.get(metric) for metric in metrics)])
    return buffer.getvalue()


def _plot(points: Sequence[Curve], metrics: Sequence[str]) -> bytes:
    """PNG: a row per metric; left against NFE, right against seconds per image."""
    from matplotlib.figure import Figure  # a second to import; without pyplot no display is looked for

    figure = Figure(figsize=(9, 2.8 * len(metrics)), layout="constrained")
    grid = figure.subplots(len(metrics), 2, squeeze=False, sharey="row")
    for row, metric in zip(grid, metrics):
        for axes, name, label in zip(row, ("nfe", "seconds_per_image"), ("NFE", "seconds per image")):
            known = [p for p in points if p.metrics.get(metric) is not None and getattr(p, name) is not None]
            known.sort(key=lambda point: getattr(point, name))
            xs = [getattr(point, name) for point in known]
            axes.plot(xs, [point.metrics[metric] for point in known], "o-")
            if xs and max(xs) >= 8 * min(xs) > 0:
                axes.set_xscale("log")
            if name == "nfe":
                axes.set_xticks(xs, list(map(str, xs)))
                axes.minorticks_off()
            axes.set_xlabel(label)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"{_shown(metric).title} {_shown(metric).better}".strip())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
