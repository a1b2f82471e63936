"""Evaluation during training: a few validation images restored, judged, and shown as grids; the best is kept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2sb.batch import Given, baseline, unpack
from i2sb.ckpt_util import BEST
from i2sb.loader import ordered_loader
from i2sb.noise import TrainingDraws
from i2sb.pictures import labelled_strip, to_pixels
from i2sb.pixels import shown_channels
from i2sb.runtime.distributed import StopSignal, gather_objects
from i2sb.runtime.progress import Progress
from i2sb.schedule import num_evaluations

SHOWN = 16  # images from which on no further micro-batch is shown


class _Stopped(Exception):
    """A signal, named here, came while images were restored."""


def evaluate(training: Any, stop: StopSignal) -> str | None:
    """Restore the first validation images with the averaged weights; write scores and six grids, and keep the best.

    --eval-images says how many, over all ranks; by default a micro-batch per rank.  Neither the random numbers of the
    training nor the network's mode change: each image has its own generator.

    stop: polled after each step; a signal ends the evaluation and its name is returned, else None.
    """
    runner, opt, dataset, iteration = training.runner, training.opt, training.val_dataset, training.state.iteration
    nfe, together = num_evaluations(opt.eval_nfe, opt.interval), opt.global_size * opt.microbatch
    count, own = min(opt.eval_images or together, len(dataset)), opt.global_rank * opt.microbatch
    runner.log.info(f"[Eval] iteration {iteration}: {count} images, NFE {nfe}")
    places = [range(first + own, first + own + opt.microbatch) for first in range(0, count, together)]
    batches = [[place % count for place in each] for each in places]
    loader = ordered_loader(dataset, batches, num_workers=0)
    draws = TrainingDraws(opt.global_rank, opt.global_size, runner.device, opt.seed)
    scores: dict[str, list[float]] = {}
    pictures: list[dict[str, Tensor]] = []
    states: dict[str, Tensor] = {}
    with Progress("evaluating", nfe * len(batches), shown=opt.global_rank == 0) as bar:

        def on_step(*_: Any) -> None:
            bar.advance()
            if signal := stop.poll():
                raise _Stopped(signal)

        gpus = [runner.device] if runner.device.type == "cuda" else []
        sampling = {"clip_denoise": opt.clip_denoise, "nfe": nfe, "on_step": on_step}
        try:
            with torch.random.fork_rng(gpus):
                torch.manual_seed(opt.seed)  # for operators that draw from torch's generator
                for each, numbers in zip(places, batches):
                    if (loaded := stop.next(loader)) is None:
                        raise _Stopped(stop.poll())
                    given = unpack(loaded).to(runner.device)
                    batch, xs, pred_x0s = runner.restore(given, training.corrupt, numbers, opt.seed, **sampling)
                    shown = {"degraded": batch.x1.cpu(), "restored": xs[:, 0].cpu(), "clean": batch.x0.cpu()}
                    if len(pictures) * opt.microbatch < SHOWN:
                        pictures.append(shown)
                    states = states or {"restored": xs, "predicted_clean": pred_x0s}
                    operator = None if opt.add_x1_noise else training.corrupt  # none knows of that noise
                    classical = baseline(batch.x1, operator, batch.mask, torch.tensor(numbers))
                    judged = shown if classical is batch.x1 else {"baseline": classical.cpu(), **shown}
                    for key, values in _scores(training, judged, given, draws).items():
                        once = (value for place, value in zip(each, values) if place < count)
                        scores.setdefault(key, []).extend(once)
        except _Stopped as stopped:
            return str(stopped)
        finally:
            runner.net.train()
    _write_grids(training, {name: torch.cat([each[name] for each in pictures]) for name in pictures[0]})
    _write_trajectories(training, states, batches[0])
    means = _write_means(training, scores)
    if opt.keep_best and iteration:
        _keep_best(training, means)
    return None


def _scores(training: Any, shown: dict[str, Tensor], given: Given, draws: TrainingDraws) -> dict[str, list[float]]:
    """What each judge says of each image [B,C,H,W] of each kind; with --keep-best loss, the averaged weights' loss."""
    runner = training.runner
    scores = {
        f"{metric}/{name}": judge(images, shown["clean"], given.labels).float().tolist()
        for metric, judge in training.judges.items()
        for name, images in shown.items()
        if name != "clean" or metric == "accuracy"
    }
    if training.opt.keep_best == "loss":
        with runner.ema.average_parameters(), torch.no_grad():
            loss = runner.training_loss(given, training.corrupt, draws, runner.forward)
        scores["loss/restored"] = [loss.item()] * len(shown["clean"])
    return scores


def _write_means(training: Any, scores: dict[str, list[float]]) -> dict[str, float]:
    """The mean of each score over the images of all ranks, the same on each of them.

    An image that is infinite in one row (PSNR of equal images) is left out of all rows, as in compute_metrices.py.
    """
    ranks = gather_objects(scores)
    together = {key: [value for rank in ranks for value in rank[key]] for key in scores}
    means = {}
    for key, values in together.items():
        rows = [others for name, others in together.items() if name.split("/")[0] == key.split("/")[0]]
        kept = [value for value, *row in zip(values, *rows) if all(map(math.isfinite, row))] or values
        means[key] = sum(kept) / len(kept)
    if means:
        training.writer.add_scalars(training.state.iteration, means)
        training.log.info("[Eval] " + " | ".join(f"{key} {value:.4g}" for key, value in means.items()))
    return means


def _keep_best(training: Any, means: dict[str, float]) -> None:
    """Save, and keep as best.pt, where no evaluation before was better; all ranks come to the same."""
    metric, state = training.opt.keep_best, training.state
    value, sign = means[f"{metric}/restored"], -1 if metric == "loss" else 1
    if math.isfinite(value) and (state.best is None or sign * value > sign * state.best["value"]):
        state.best = {"metric": metric, "value": value, "iteration": state.iteration}
        training.save()
        training.finish_saving()
        training.log.info(f"[Save] {training.latest.with_name(BEST)}: {metric} {value:.5g} is the best so far")


def _write_grids(training: Any, shown: dict[str, Tensor]) -> None:
    """Pictures of each kind [B,C,H,W], and all kinds in one: a row per image, in the order of `shown`."""
    for name, images in shown.items():
        training.writer.add_image(training.state.iteration, f"image/{name}", _grid(images))
    rows = torch.stack([*shown.values()], dim=1).flatten(0, 1)
    training.writer.add_image(training.state.iteration, f"image/{'_'.join(shown)}", _grid(rows, columns=len(shown)))


def _write_trajectories(training: Any, states: dict[str, Tensor], numbers: list[int]) -> None:
    """Kind -> states [B,K,C,H,W], the last one first, of these images of the data set: a strip per image."""
    dataset = training.val_dataset
    samples = getattr(dataset, "samples", None)  # data sets of one's own may have no names
    names = [dataset.short_name(samples[n][0]) if samples else f"image {n}" for n in numbers]
    for kind, trajectories in states.items():
        rows = [
            labelled_strip([*map(to_pixels, each.flip(0).nan_to_num(0))], name)
            for each, name in zip(trajectories, names)
        ]
        picture = torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1) / 255
        training.writer.add_image(training.state.iteration, f"trajectory/{kind}", picture)


def _grid(images: Tensor, columns: int = 8) -> Tensor:
    """[N,C,H,W] in [-1,1] -> one picture [3,h,w] in [0,1], without transparency."""
    from torchvision.utils import make_grid

    return make_grid((shown_channels(images)[:, :3].float().cpu() + 1) / 2, nrow=columns).clamp(0, 1)
