"""compute_metrices.py --input: scores of picture files that have no clean partner."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evaluation.metrics import METRICS, Judges, build_judges
from evaluation.table import Score, Scores, mean_scores, print_scores
from i2sb.errors import SomeFailed, UserError, one_line, printable
from i2sb.photographs import read
from i2sb.restore_files import find_inputs
from i2sb.runtime.logger import build_logger
from i2sb.runtime.progress import Progress


def judge_pictures(opt: argparse.Namespace) -> Scores:
    """Score the pictures that `opt.input` names by `opt.metrics`; print a table with a row for each file or folder.

    Each is judged at its own size.

    Raises:
        UserError: a metric that needs clean images or classes; no pictures.
        SomeFailed: at the end, where files could not be read.
    """
    alone = [name for name, metric in METRICS.items() if metric.of_one and name != "accuracy"]
    if wrong := [name for name in opt.metrics if name not in alone]:
        raise UserError(f"--metrics {wrong[0]}: does not judge pictures alone; what does: {', '.join(alone)}")
    log, failed, rows = build_logger(None), [], {}
    files = {given: [file for file, _ in find_inputs([given], None)] for given in opt.input}
    judges = build_judges(opt.metrics, (), opt.device)
    with Progress("judging", sum(map(len, files.values()))) as bar:
        for given, found in files.items():
            values: dict[str, list[float]] = {metric: [] for metric in judges.per_image}
            for file in found if values else ():
                try:
                    scores = _scores(file, judges, log)
                except ValueError as error:
                    failed.append(file)
                    log.error(f"[Judge] {printable(file)}: {one_line(error, 300)}")
                else:
                    for metric, score in scores.items():
                        values[metric].append(score)
                bar.advance()
            row = {metric: Score(None, reason) for metric, reason in judges.unavailable.items()}
            for metric, scores in values.items():
                row |= {metric: mean_scores({"": scores}, METRICS[metric].scale)[""]}
            rows[printable(given)] = row
    print_scores(rows)
    if failed:
        raise SomeFailed(f"{len(failed)} of the pictures could not be judged, the first is {printable(failed[0])}")
    return rows


def _scores(file: Path, judges: Judges, log: Any) -> dict[str, float]:
    """Metric -> score of a file.  Raises ValueError: what is wrong with it."""
    x = read(file, 3).tensor()[None]
    if x.shape[1] not in (1, 3) or min(x.shape[2:]) < 2:
        raise ValueError(f"it has {x.shape[1]} channels of {x.shape[2]}x{x.shape[3]} pixels")
    x = x.expand(-1, 3, -1, -1)
    scores = {metric: judge(x, x, None).item() for metric, judge in judges.per_image.items()}
    log.info(f"[Judge] {printable(file)}: {', '.join(f'{name} {score:.4f}' for name, score in scores.items())}")
    return scores
