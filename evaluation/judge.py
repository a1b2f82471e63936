"""Judging folders of restored images: what compute_metrices.py does, and the NFE sweep and the report use."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from corruption.geometry import height_width
from dataset.freeform import build_operator
from dataset.names import is_imagenet
from dataset.open import open_evaluation
from evaluation.fid import Features, FeatureSums
from evaluation.metrics import METRICS, OF_SETS, Judges, MetricUnavailable, build_judges, labelled_classes
from evaluation.published import IMAGE_SIZE, PUBLISHED, SOURCE
from evaluation.reference import NUM_KEPT, build_reference
from evaluation.spatial import Moments
from evaluation.spatial import score as spatial_score
from evaluation.table import (
    Score,
    Scores,
    gains,
    mean_scores,
    print_scores,
    read_csv,
    read_metrics,
    write_csv,
    write_metrics,
)
from evaluation.triples import Triples
from i2sb.ckpt_util import RESULTS, build_ckpt_option, find_weights, load_checkpoint
from i2sb.config import as_image_size, size_text
from i2sb.errors import UserError
from i2sb.operator_file import load_operators
from i2sb.pixels import to_float, to_uint8
from i2sb.recon import Recon, find_recon, run_identity
from i2sb.restore import holes
from i2sb.runtime.logger import build_logger
from i2sb.runtime.progress import Progress

ROWS = ("degraded", "baseline", "restored", "clean")
Values = dict[str, dict[str, list[float]]]  # row -> metric -> value per image


class Samples(NamedTuple):
    """A folder of restored images.  run: `run_identity`; seed: of the degraded images, the run's where it tells."""

    folder: Path
    recon: Recon
    run: dict[str, Any]
    seed: int


class Evaluation(NamedTuple):
    """options: the checkpoint's, with the task and image size of the samples and the data set of this run.

    iterations: of the training behind the samples, where the checkpoint is still the same and tells.
    """

    options: Any
    dataset: Any
    corrupt: Callable
    imagenet: bool
    samples: dict[str, Samples]
    log: Any
    iterations: int | None = None


def judge_folders(opt: argparse.Namespace) -> dict[str, Scores]:
    """Judge results/CKPT/SAMPLE_DIR for each of `opt.sample_dir`: write the files, then print the table.

    Beside each recon.pt: metrics.json and metrics_per_image.csv, where scores of the same run stay that were not
    asked for now.  opt: the options of compute_metrices.py.  Returns sample folder -> row -> metric -> score.
    """
    found = open_samples(opt)
    shape = (found.options.channels, *height_width(found.options.image_size))
    classes, deep = labelled_classes(found.dataset), found.dataset.is_deep
    judges = build_judges(opt.metrics, classes, opt.device, opt.mode, shape, found.corrupt.scale, deep)
    reference = _reference(opt, found, judges)
    results: dict[str, Scores] = {}
    for name, samples in found.samples.items():
        values, features, moments = _judge(opt, samples, found, judges)
        results[name] = _table(opt.metrics, values, features, moments, judges, reference)
        _write(samples, found, results[name], values, _settings(opt, found, samples, reference))
    if opt.report:
        from evaluation.report import write_reports

        write_reports(opt)
    size = size_text(found.options.image_size)
    title = f"{opt.ckpt}: {found.options.corrupt}, {len(found.dataset)} images of {size} px"
    baseline = found.corrupt.baseline_name
    table = _one_table(results, published_scores(found.options, found.imagenet), baseline)
    lines = [gains(scores, name, baseline) for name, scores in results.items()]
    print_scores(table, title, lines=filter(None, lines))
    return results


def open_samples(opt: Any, device: str | None = None) -> Evaluation:
    """Everything that judging and reports need of results/CKPT/SAMPLE_DIR, checked to belong together.

    opt: `ckpt`, `sample_dir`, `image_size`, `given`, `device`, `seed` and the options of data are read.
    Task, image size and channels are the samples' own, or the checkpoint's for the original's samples.
    Raises UserError where samples are missing, of different tasks, or not of this data set.
    """
    ckpt_opt, samples, log = build_ckpt_option(opt, None, find_weights(opt.ckpt)), {}, None
    for name in opt.sample_dir:
        folder = RESULTS / opt.ckpt / name
        paths = find_recon(folder)
        log = log or build_logger(folder)
        run = run_identity(folder)
        samples[name] = Samples(folder, Recon(paths), run, run.get("seed", opt.seed))
    ckpt_opt.device = device or opt.device
    ckpt_opt.corrupt = _common("task", samples, ckpt_opt.corrupt)
    ckpt_opt.channels = _common("channels", samples, ckpt_opt.channels)
    ckpt_opt.exif_rotate = _common("exif_rotate", samples, ckpt_opt.exif_rotate)
    ckpt_opt.value_range = _common("value_range", samples, ckpt_opt.value_range)
    if "image_size" not in opt.given:
        ckpt_opt.image_size = as_image_size(_common("image_size", samples, ckpt_opt.image_size))
    ckpt_opt.corruption_sha256 = _common("operator", samples, ckpt_opt.corruption_sha256)
    load_operators(ckpt_opt, getattr(opt, "corruption_file", None), log)
    dataset = open_evaluation(ckpt_opt, log)
    corrupt = build_operator(ckpt_opt, dataset.classes, log)
    found = Evaluation(ckpt_opt, dataset, corrupt, is_imagenet(dataset.classes), samples, log)
    return found._replace(iterations=_check(found))


def _common(key: str, samples: Mapping[str, Samples], default: Any) -> Any:
    """What all folders say of `key`; those that say nothing have the default."""
    values = {name: found.run.get(key, default) for name, found in samples.items()}
    if len(set(map(str, values.values()))) > 1:
        listed = ", ".join(f"{name}: {size_text(value)}" for name, value in values.items())
        raise UserError(f"--sample-dir: the folders differ in {key} ({listed}): evaluate them one by one")
    return next(iter(values.values()))


def _check(found: Evaluation) -> int | None:
    """Compare the samples with the data set (UserError) and the checkpoint (a warning) as they are now.

    Returns the iterations of the checkpoint's training; None where it is another one now, or does not tell.

    Where the checksums of the image files are known, `Triples` compares each file as it is read instead.
    """
    known = any("checkpoint" in samples.run for samples in found.samples.values())
    state = load_checkpoint(found.options.load, found.log) if known else {}
    weights, iterations = state.get("identity"), state.get("resume", {}).get("iteration")
    targets, data = [label for _, label in found.dataset.samples], found.dataset.fingerprint()
    as_sampled = "give the --dataset-dir, --val-list and --val-split of sample.py"
    masks = holes(found.corrupt, len(targets), (found.options.channels, *height_width(found.options.image_size)))
    for folder, recon, run, _ in found.samples.values():
        channels, *size = recon.image_shape
        if len(recon) != len(targets):
            raise UserError(f"{folder}: holds {len(recon)} images, the data set has {len(targets)}; {as_sampled}")
        if as_image_size(size) != found.options.image_size:
            given = size_text(as_image_size(size))
            raise UserError(f"{folder}: its images have {size[0]}x{size[1]} pixels; give --image-size {given}")
        if channels != found.options.channels:
            raise UserError(f"{folder}: its images have {channels} channels, the checkpoint's {found.options.channels}")
        if recon.labels.tolist() != targets or (recon.checksums is None and run.get("data", data) != data):
            raise UserError(f"{folder}: was restored from other images than the data set's; {as_sampled}")
        if run.get("holes", masks) != masks:
            raise UserError(f"{folder}: was restored with other masks; put the former ones back, or run sample.py")
        if run.get("checkpoint", weights) != weights:
            found.log.warning(
                f"[Eval] {folder}: {found.options.load} is no longer the checkpoint that restored these images; they "
                f"are evaluated as {found.options.corrupt}, as they were made"
            )
            iterations = None
    return iterations


def _judge(
    opt: Any, samples: Samples, found: Evaluation, judges: Judges
) -> tuple[Values, FeatureSums | None, dict[str, dict[str, Moments]]]:
    """The values of each image, the features of the restored ones, metric -> row -> moments of its features."""
    count = len(samples.recon)
    values: Values = {}
    moments = {metric: {row: Moments() for row in ROWS} for metric in judges.to_clean}
    features = FeatureSums(count, NUM_KEPT if "kid" in opt.metrics else 0) if judges.features else None
    with_baseline = bool(judges.per_image or judges.to_clean)
    images = Triples(samples.recon, found.dataset, found.corrupt, samples.seed, opt.device, with_baseline)
    with Progress(f"evaluating {samples.folder.name}", count, text=f"0/{count} images") as progress:
        for batch in images.batches(opt.batch_size, opt.num_workers):
            if not batch.restored.isfinite().all():
                where = f"images {batch.numbers[0]} to {batch.numbers[-1]}"
                raise UserError(f"{samples.folder}: NaN or inf in {where}; run sample.py --overwrite")
            rows = dict(zip(ROWS, (batch.degraded, batch.baseline, to_float(batch.restored), batch.clean)))
            if batch.baseline is batch.degraded:
                del rows["baseline"]  # its scores are copied below
            for row, shown in rows.items():
                for metric, judge in judges.per_image.items():
                    if row != "clean" or METRICS[metric].of_one:
                        scores = judge(shown, batch.clean, batch.labels).tolist()
                        values.setdefault(row, {}).setdefault(metric, []).extend(scores)
                for metric, network in judges.to_clean.items():
                    moments[metric][row].add(network(shown))
            if features is not None:
                features.add(judges.features(to_uint8(batch.restored)))
            progress.update(batch.numbers[-1] + 1, f"{batch.numbers[-1] + 1}/{count} images")
    if "baseline" not in rows:
        values = {row: values.get(row if row != "baseline" else "degraded", {}) for row in ROWS}
        moments = {metric: {**of, "baseline": of["degraded"]} for metric, of in moments.items()}
    return values, features, moments


def _reference(opt: Any, found: Evaluation, judges: Judges) -> tuple[Features, str] | None:
    """What FID and KID compare with; None where neither can be measured, and `judges.unavailable` says why."""
    try:
        if judges.features is not None:
            return build_reference(opt, found.options, found.imagenet, judges.features, found.log)
    except MetricUnavailable as error:
        judges.features = None
        judges.unavailable |= {name: f"its reference: {error}" for name in opt.metrics if name in OF_SETS}
    return None


def _table(
    metrics: list[str], values: Values, features: FeatureSums | None, moments: dict, judges: Judges, reference: Any
) -> dict[str, dict[str, Score]]:
    """Row -> metric -> score.  features, moments: of `_judge`; reference: of `_reference`."""
    table: dict[str, dict[str, Score]] = {row: {} for row in ROWS}
    for metric in metrics:
        if metric in judges.unavailable:
            table["restored"][metric] = Score(None, judges.unavailable[metric])
        elif metric in OF_SETS:
            try:
                value, note = METRICS[metric].of_sets(features.finish(), reference[0]), reference[1]
            except MetricUnavailable as error:
                value, note = None, str(error)
            table["restored"][metric] = Score(value, note, features.num_images)
        elif metric in moments:
            for row in ("degraded", "baseline", "restored"):
                value, interval = spatial_score(moments[metric][row], moments[metric]["clean"])
                table[row][metric] = Score(value, "to the clean images", moments[metric][row].num_images, interval)
        else:
            rows = {row: found[metric] for row, found in values.items() if metric in found}
            for row, score in mean_scores(rows, METRICS[metric].scale).items():
                table[row][metric] = score
    return {row: scores for row, scores in table.items() if scores or row == "restored"}


def _write(samples: Samples, found: Evaluation, table: Scores, values: Values, settings: dict[str, Any]) -> None:
    """metrics.json and metrics_per_image.csv; other scores of the same run, judged alike, stay in them."""
    names = [found.dataset.short_name(path) for path, _ in found.dataset.samples]
    earlier, scores, columns = _earlier(samples, names, settings)
    merged = {row: dict(scores.get(row, {})) for row in ROWS if row in {*table, *scores}}
    for row, new in table.items():
        merged[row] |= {m: score for m, score in new.items() if score.value is not None or m not in merged[row]}
    columns |= {f"{metric}_{row}": column for row, new in values.items() for metric, column in new.items()}
    write_csv(samples.folder / "metrics_per_image.csv", names, columns, samples.run)
    write_metrics(samples.folder / "metrics.json", merged, {**earlier, **settings}, samples.run)


def _earlier(samples: Samples, names: list[str], settings: dict[str, Any]) -> tuple[dict, dict, dict]:
    """(settings, scores, columns) that an earlier run of compute_metrices.py left of the same images."""
    try:
        was, scores = read_metrics(samples.folder / "metrics.json", samples.run)
        judged, columns = read_csv(samples.folder / "metrics_per_image.csv", samples.run)
    except UserError:
        return {}, {}, {}
    alike = ("corrupt", "image_size", "seed", "data")
    if judged != names or any(was.get(key) != settings[key] for key in alike):
        return {}, {}, {}
    if any(was.get(key) != settings[key] for key in settings if key.startswith("fid_")):
        scores = {row: {m: s for m, s in found.items() if m not in OF_SETS} for row, found in scores.items()}
    return was, scores, columns


def _settings(opt: Any, found: Evaluation, samples: Samples, reference: tuple[Features, str] | None) -> dict[str, Any]:
    settings = {
        "checkpoint": opt.ckpt,
        "samples": samples.folder.name,
        "corrupt": found.options.corrupt,
        "baseline": found.corrupt.baseline_name,
        "image_size": size if isinstance(size := found.options.image_size, int) else list(size),
        "dataset_dir": str(opt.dataset_dir),
        "data": found.dataset.fingerprint(),
        "num_images": len(found.dataset),
        "seed": samples.seed,
    }
    if found.iterations is not None:
        settings["iterations"] = found.iterations
    if reference is not None:
        settings |= {"fid_mode": opt.mode, "fid_reference": opt.fid_ref or reference[1]}
    return settings


def published_scores(ckpt_opt: Any, imagenet: bool) -> Scores:
    """The paper's row, where it speaks of the same task, size and data."""
    same = (ckpt_opt.image_size, ckpt_opt.channels) == (IMAGE_SIZE, 3)
    if not (imagenet and same and ckpt_opt.corrupt in PUBLISHED):
        return {}
    return {"published": {metric: Score(value, SOURCE) for metric, value in PUBLISHED[ckpt_opt.corrupt].items()}}


def _one_table(results: Mapping[str, Scores], published: Scores, baseline: str) -> Scores:
    """All folders in one table; a row that is the same for all of them once."""
    rows: dict[str, Any] = {}
    for name, table in results.items():
        for row, scores in table.items():
            row = f"baseline: {baseline}" if row == "baseline" else row
            own = row == "restored" or rows.get(row, scores) != scores
            rows[f"{row}, {name}" if own else row] = scores
    return rows | dict(published)
