"""Quality against cost: the samples of one checkpoint at different NFE, as far as they were judged alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.report_curves import Curve
from evaluation.table import read_metrics
from i2sb.errors import UserError
from i2sb.recon import SECONDS, find_recon, made_with

# What differs between points of one curve, or says nothing of the images.
_FREE = {"nfe", "samples", "partition", "recon_dtype", SECONDS}


def nfe_curves(folder: Path) -> list[Curve]:
    """The points of all folders beside `folder` (a folder of samples) and its own, in the order of NFE.

    Folders of another checkpoint state, data set, seed, precision, or way of judging are left out: theirs is
    another curve.  Less than two points are no curve: [].
    """
    wanted = _alike(folder)
    found = {}
    for place in folder.parent.glob("samples_nfe*"):
        alike = _alike(place)
        if alike is not None and alike == wanted:
            point = curve_point(place)
            found[point.nfe] = point
    return [found[nfe] for nfe in sorted(found)] if len(found) > 1 else []


def curve_point(folder: Path) -> Curve:
    """NFE, seconds per image and the restored images' scores of a folder of samples.

    Raises:
        UserError: no samples or no metrics.json there.
    """
    _, scores = read_metrics(folder / "metrics.json")
    run = made_with(find_recon(folder)[0])
    values = {metric: s.value for metric, s in scores.get("restored", {}).items() if s.value is not None}
    nfe = run.get("nfe") or int(folder.name.split("nfe")[1].split("_")[0])
    return Curve(nfe, run.get(SECONDS), values)


def _alike(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What must be equal in two points of a curve; None where there is no point."""
    try:
        settings, _ = read_metrics(folder / "metrics.json")
        run = made_with(find_recon(folder)[0])
    except UserError:
        return None
    kept = [{key: value for key, value in found.items() if key not in _FREE} for found in (settings, run)]
    kept[1].setdefault("clip_denoise", folder.name.endswith("_clip"))
    return kept[0], kept[1]
