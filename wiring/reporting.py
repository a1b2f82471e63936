"""The report page of restored images, made from what sample.py and compute_metrices.py left behind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.judge import open_evaluation, published_scores
from evaluation.published import SOURCE
from evaluation.report_page import Case, ReportData, Trajectory, write_report
from evaluation.sample_scores import read_csv
from evaluation.table import METRICS, read_metrics
from evaluation.triples import check_pairs, chosen_triple
from i2sb.ckpt_util import RESULTS, build_ckpt_option
from i2sb.errors import UserError
from i2sb.pictures import read_frames, to_pixels, trajectory_file
from i2sb.recon import SECONDS, Recon, find_recon, made_with
from i2sb.restore import open_log
from wiring.comparison import spread_over_classes
from wiring.curves import nfe_curves

NUM_GALLERY, NUM_RANKED, NUM_TRAJECTORIES = 12, 6, 6
# The bridge's own settings, as far as the checkpoint's options have them.
BRIDGE_SETTINGS = ("interval", "beta_max", "ot_ode", "cond_x1", "add_x1_noise", "net")
RUN_SETTINGS = ("nfe", "clip_denoise", "precision", "device", "checkpoint", "recon_dtype", SECONDS)


def write_reports(opt: Any, *, num_gallery: int = NUM_GALLERY) -> list[Path]:
    """Write results/CKPT/SAMPLE_DIR/report.html for each of `opt.sample_dir`; returns their paths.

    Args:
        opt: `ckpt`, `sample_dir`, `dataset_dir`, `val_list`, `image_size`, `given`, `seed`, `device` are read.
        num_gallery: images shown, spread over the classes.

    Raises:
        UserError: samples that were not judged, or whose files do not belong together; an unwritable page.
    """
    ckpt_opt = build_ckpt_option(opt, None, RESULTS / opt.ckpt)
    log = open_log(RESULTS / opt.ckpt / opt.sample_dir[0])
    ckpt_opt.dataset_dir, ckpt_opt.val_list, ckpt_opt.device = opt.dataset_dir, opt.val_list, "cpu"
    if "image_size" in opt.given:
        ckpt_opt.image_size = opt.image_size
    dataset, corrupt, imagenet = open_evaluation(ckpt_opt, log)
    published = published_scores(ckpt_opt, imagenet).get("published", {})
    paths = []
    for name in opt.sample_dir:
        folder = RESULTS / opt.ckpt / name
        recon = Recon(find_recon(folder))
        check_pairs(recon, dataset, f"{opt.ckpt}/{name}", ckpt_opt.image_size)
        page = _Page(folder, recon, dataset, corrupt, opt)
        data = page.content(ckpt_opt, {metric: score.value for metric, score in published.items()}, num_gallery)
        write_report(folder / "report.html", data)
        paths.append(folder / "report.html")
        log.info(f"[Report] {paths[-1]}")
    return paths


class _Page:
    """One folder of samples and its scores."""

    def __init__(self, folder: Path, recon: Recon, dataset: Any, corrupt: Any, opt: Any):
        self.folder, self.recon, self.dataset, self.corrupt, self.opt = folder, recon, dataset, corrupt, opt
        self.settings, self.scores = read_metrics(folder / "metrics.json")
        self.run = made_with(recon.paths[0])
        self.names, self.columns = read_csv(folder / "metrics_per_image.csv")
        if self.names != [dataset.short_name(path) for path, _ in dataset.samples]:
            raise UserError(f"{folder / 'metrics_per_image.csv'}: is of other images; run compute_metrices.py again")

    def content(self, ckpt_opt: Any, published: Mapping[str, float], num_gallery: int) -> ReportData:
        nfe = self.run.get("nfe") or nfe_of(self.folder.name)
        gallery = spread_over_classes([label for _, label in self.dataset.samples], num_gallery)
        metric, ranked = self._ranking()
        count = min(NUM_RANKED, len(ranked) // 2)
        worst, best = ranked[:count], ranked[::-1][:count]
        cases = self._cases({*gallery, *worst, *best})
        size = ckpt_opt.image_size
        return ReportData(
            title=", ".join(dict.fromkeys([self.opt.ckpt, ckpt_opt.corrupt])) + (f", NFE {nfe}" if nfe else ""),
            settings=self._settings(ckpt_opt),
            scores=self.scores,
            published=published or None,
            published_note=f"{SOURCE}. This run: NFE {nfe or '?'}, {len(self.names)} images of {size}x{size}.",
            curves=nfe_curves(self.folder),
            gallery=[cases[number] for number in gallery],
            worst=[cases[number] for number in worst],
            best=[cases[number] for number in best],
            trajectories=self._trajectories(),
            ranked_by=METRICS[metric].title.split(" [")[0],
        )

    def _ranking(self) -> tuple[str, list[int]]:
        """(the metric, images from the worst to the best by it); none where nothing was judged one by one."""
        for metric in ("lpips", "psnr"):
            values = self.columns.get(f"{metric}_restored")
            if values:
                sign = 1 if METRICS[metric].better == "↑" else -1
                return metric, sorted(range(len(values)), key=lambda i: sign * values[i])
        return "psnr", []

    def _cases(self, numbers: set[int]) -> dict[int, Case]:
        cases = {}
        for number in sorted(numbers):  # one by one: a few images of any size never fill the memory
            seed = self.run.get("seed", self.opt.seed)
            found = chosen_triple(self.recon, self.dataset, self.corrupt, [number], seed=seed)
            shots = [to_pixels(image[0]) for image in (found.degraded, found.restored, found.clean)]
            cases[number] = Case(self.names[number], *shots, metrics=self._metrics(number))
        return cases

    def _metrics(self, number: int) -> dict[str, float]:
        metrics = {}
        for column, values in self.columns.items():
            metric, _, row = column.rpartition("_")
            if metric != "accuracy" and row in ("restored", "degraded"):  # of one image it is 0 or 100
                metrics[metric if row == "restored" else column] = values[number]
        return metrics

    def _trajectories(self) -> Sequence[Trajectory]:
        found = []
        for number, name in enumerate(self.names[:NUM_TRAJECTORIES]):
            path = trajectory_file(self.folder, number)
            if path.is_file():
                found.append(Trajectory(name, [np.ascontiguousarray(frame) for frame in read_frames(path)]))
        return found

    def _settings(self, ckpt_opt: Any) -> dict[str, Any]:
        settings = {"checkpoint": self.opt.ckpt, "samples": self.folder.name}
        settings |= {key: getattr(ckpt_opt, key, None) for key in BRIDGE_SETTINGS}
        settings |= {("weights" if k == "checkpoint" else k): self.run[k] for k in RUN_SETTINGS if k in self.run}
        return settings | {k: v for k, v in self.settings.items() if k not in settings}


def nfe_of(name: str) -> int | None:
    """The NFE that a folder of samples is named after; None where its name says nothing of it."""
    found = re.fullmatch(r"samples_nfe(\d+)(_clip)?", name)
    return int(found[1]) if found else None
