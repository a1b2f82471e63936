"""Judging folders of restored images: what compute_metrices.py does, and the NFE sweep and the report use."""

from __future__ import annotations

import argparse
import functools
import hashlib
from pathlib import Path
from typing import Any

from corruption import build_corruption
from dataset.freeform import bank_for
from dataset.imagenet import build_evaluation_dataset, build_lmdb_dataset, is_imagenet
from evaluation.fid import (
    cached_statistics,
    training_statistics,
    uses_training_statistics,
    validation_statistics_path,
)
from evaluation.fid_reference import reference_from
from evaluation.kid import FeatureReservoir
from evaluation.metrics import Judges, build_judges
from evaluation.published import IMAGE_SIZE, PUBLISHED, SOURCE
from evaluation.sample_scores import Reference, SampleScores, uint8_batches
from evaluation.table import Score, Scores, print_scores, write_metrics
from evaluation.triples import check_pairs, triples
from evaluation.weights import WeightsUnavailable
from i2sb.ckpt_util import RESULTS, build_ckpt_option
from i2sb.errors import UserError
from i2sb.loader import ordered_loader
from i2sb.recon import Recon, find_recon, made_with
from i2sb.restore import open_log
from i2sb.runtime.progress import SampleProgress


def judge_folders(opt: argparse.Namespace) -> dict[str, Scores]:
    """Judge results/CKPT/SAMPLE_DIR for each of `opt.sample_dir`: print the table, write the files.

    Beside each recon.pt: metrics.json, and metrics_per_image.csv.  opt: the options of compute_metrices.py.

    Returns sample folder -> row -> metric -> score.

    Raises:
        UserError: folders that are missing or of other images than the data set's.
    """
    ckpt_opt = build_ckpt_option(opt, None, RESULTS / opt.ckpt)
    recons = {name: Recon(find_recon(RESULTS / opt.ckpt / name)) for name in opt.sample_dir}
    log = open_log(RESULTS / opt.ckpt / opt.sample_dir[0])
    ckpt_opt.dataset_dir, ckpt_opt.val_list = opt.dataset_dir, opt.val_list
    if "image_size" in opt.given:
        ckpt_opt.image_size = opt.image_size
    dataset, corrupt, imagenet = open_evaluation(ckpt_opt, log)
    for name, recon in recons.items():
        check_pairs(recon, dataset, f"{opt.ckpt}/{name}", ckpt_opt.image_size)
    judges = build_judges(opt.metrics, dataset.classes, opt.device, opt.mode)
    reference = distance_reference(opt, ckpt_opt, imagenet, judges, log)
    results: dict[str, Scores] = {}
    for name, recon in recons.items():
        scores = _judge(opt, recon, dataset, corrupt, judges, name)
        results[name] = scores.table(opt.metrics, reference)
        settings = _settings(opt, ckpt_opt, dataset, name, reference)
        write_metrics(RESULTS / opt.ckpt / name / "metrics.json", results[name], settings)
        scores.write_csv(RESULTS / opt.ckpt / name / "metrics_per_image.csv")
    title = f"{opt.ckpt}: {ckpt_opt.corrupt}, {len(dataset)} images of {ckpt_opt.image_size} px"
    print_scores(_one_table(results, published_scores(ckpt_opt, imagenet)), title)
    return results


def open_evaluation(ckpt_opt: Any, log: Any) -> tuple[Any, Any, bool]:
    """(data set, operator, whether it is ImageNet) that a checkpoint's task is judged on."""
    dataset = build_evaluation_dataset(ckpt_opt, log)
    imagenet = is_imagenet(dataset.classes)
    ckpt_opt.freeform_bank = bank_for(ckpt_opt, imagenet, log)
    return dataset, build_corruption(ckpt_opt, log), imagenet


def _judge(opt: Any, recon: Recon, dataset: Any, corrupt: Any, judges: Judges, name: str) -> SampleScores:
    scores = SampleScores(judges, keep_features="kid" in opt.metrics)
    stream = triples(
        recon,
        dataset,
        corrupt,
        batch_size=opt.batch_size,
        num_workers=opt.num_workers,
        seed=made_with(recon.paths[0]).get("seed", opt.seed),  # the same noise as the restored images saw
        device=opt.device,
    )
    with SampleProgress(len(recon), 1, opt.batch_size, description=f"judging {name}") as progress:
        for batch in stream:
            names = [dataset.short_name(dataset.samples[i][0]) for i in batch.numbers]
            if not batch.restored.isfinite().all():
                where = f"{names[0]} to {names[-1]}"
                raise UserError(f"{name}: pixels that are no numbers in some image from {where}; restore them anew")
            scores.add(names, batch.clean, batch.degraded, batch.restored, batch.labels)
            progress.images(len(names))
    return scores


def distance_reference(opt: Any, ckpt_opt: Any, imagenet: bool, judges: Judges, log: Any) -> Reference | None:
    """What FID and KID compare with; None where neither can be measured.

    `--fid-ref`, if given; ImageNet's training set for sr4x-* on ImageNet; else the whole validation set.
    """
    if judges.features is None:
        return None
    reservoir = FeatureReservoir() if "kid" in opt.metrics else None
    from_images = functools.partial(
        reference_from,
        features=judges.features,
        image_size=ckpt_opt.image_size,
        batch_size=opt.batch_size,
        reservoir=reservoir,
    )
    if opt.fid_ref is not None:
        path = Path(opt.fid_ref)
        if _is_dataset(path):
            return Reference(from_images(_clean_batches(opt, ckpt_opt, path, log)), reservoir)
        return Reference(from_images(path), reservoir)
    if imagenet and uses_training_statistics(ckpt_opt.corrupt):
        try:
            return Reference(training_statistics(), None, "to ImageNet's training set")
        except WeightsUnavailable as error:
            return Reference(None, None, str(error))
    source, path = _validation_set(opt, ckpt_opt, imagenet, log)
    compute = functools.partial(from_images, _clean_batches(opt, ckpt_opt, opt.dataset_dir, log))
    if reservoir is not None:  # its features are not kept on the disk
        return Reference(compute(), reservoir, "to the validation set")
    return Reference(cached_statistics(path, compute, source), None, "to the validation set")


def _validation_set(opt: Any, ckpt_opt: Any, imagenet: bool, log: Any) -> tuple[str, Path]:
    """What tells the validation set from others, and where its statistics are kept."""
    whole = build_lmdb_dataset(ckpt_opt, log, train=False)
    source = f"{whole.fingerprint()}, {ckpt_opt.image_size} px"
    path = validation_statistics_path(ckpt_opt.image_size, opt.mode)
    if not imagenet:  # many data sets may be judged in one folder
        digest = hashlib.sha256(source.encode()).hexdigest()[:8]
        path = path.with_name(path.name.replace("imagenet", f"data-{digest}"))
    return source, path


def _is_dataset(path: Path) -> bool:
    return (path / "val_faster_imagefolder.lmdb").exists() or (path / "val").is_dir()


def _clean_batches(opt: Any, ckpt_opt: Any, dataset_dir: Path, log: Any):
    """The validation images of a data set folder as uint8 batches, read when they are asked for."""
    place = argparse.Namespace(dataset_dir=dataset_dir, image_size=ckpt_opt.image_size)
    dataset = build_lmdb_dataset(place, log, train=False)
    numbers = range(len(dataset))
    batches = [list(numbers[i : i + opt.batch_size]) for i in range(0, len(dataset), opt.batch_size)]
    return uint8_batches(ordered_loader(dataset, batches, num_workers=opt.num_workers))


def published_scores(ckpt_opt: Any, imagenet: bool) -> Scores:
    """The paper's row, where it speaks of the same task, size and data."""
    if not (imagenet and ckpt_opt.image_size == IMAGE_SIZE and ckpt_opt.corrupt in PUBLISHED):
        return {}
    found = PUBLISHED[ckpt_opt.corrupt]
    return {"published": {"fid": Score(found.fid, SOURCE), "accuracy": Score(found.accuracy, SOURCE)}}


def _one_table(results: dict[str, Scores], published: Scores) -> Scores:
    """All folders in one table: what is the same for all of them once."""
    rows: dict[str, Any] = {}
    for name, table in results.items():
        for row, scores in table.items():
            rows[f"restored, {name}" if row == "restored" else row] = scores
    return rows | dict(published)


def _settings(opt: Any, ckpt_opt: Any, dataset: Any, name: str, reference: Reference | None) -> dict[str, Any]:
    return {
        "checkpoint": opt.ckpt,
        "samples": name,
        "corrupt": ckpt_opt.corrupt,
        "image_size": ckpt_opt.image_size,
        "dataset_dir": opt.dataset_dir,
        "num_images": len(dataset),
        "fid_mode": opt.mode,
        "fid_reference": opt.fid_ref or (reference.note if reference else None),
        "seed": opt.seed,
    }


__all__ = ["distance_reference", "judge_folders", "open_evaluation", "published_scores"]
