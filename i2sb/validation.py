"""Evaluation during training: a few validation images restored, judged, and shown as grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2sb.batch import unpack
from i2sb.loader import ordered_loader
from i2sb.pictures import labelled_strip, to_pixels
from i2sb.pixels import shown_channels
from i2sb.runtime.distributed import StopSignal, gather_objects
from i2sb.runtime.progress import Progress
from i2sb.schedule import num_evaluations


class _Stopped(Exception):
    """A signal, named here, came while images were restored."""


def evaluate(training: Any, stop: StopSignal) -> str | None:
    """Restore one micro-batch per rank with the averaged weights; write scores and five grids.

    Neither the random numbers of the training nor the network's mode change: each image has its own generator.

    stop: polled after each step; a signal ends the evaluation and its name is returned, else None.
    """
    runner, opt, dataset, iteration = training.runner, training.opt, training.val_dataset, training.state.iteration
    nfe = num_evaluations(opt.eval_nfe, opt.interval)
    count = min(opt.global_size * opt.microbatch, len(dataset))
    runner.log.info(f"[Eval] iteration {iteration}: {count} images, NFE {nfe}")
    numbers = [(opt.global_rank * opt.microbatch + i) % len(dataset) for i in range(opt.microbatch)]
    if (loaded := stop.next(ordered_loader(dataset, [numbers], num_workers=0))) is None:
        return stop.poll()
    given = unpack(loaded).to(runner.device)
    with Progress("evaluating", nfe, shown=opt.global_rank == 0) as bar:

        def on_step(*_: Any) -> None:
            bar.advance()
            if signal := stop.poll():
                raise _Stopped(signal)

        gpus = [runner.device] if runner.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(gpus):
                torch.manual_seed(opt.seed)  # for operators that draw from torch's generator
                batch, xs, pred_x0s = runner.restore(
                    given,
                    training.corrupt,
                    numbers,
                    opt.seed,
                    clip_denoise=opt.clip_denoise,
                    nfe=nfe,
                    on_step=on_step,
                )
        except _Stopped as stopped:
            return str(stopped)
        finally:
            runner.net.train()
    shown = {"degraded": batch.x1, "restored": xs[:, 0], "clean": batch.x0}
    _write_scores(training, shown, given.labels)
    for name, grid in shown.items():
        training.writer.add_image(iteration, f"image/{name}", _grid(grid))
    samples = getattr(dataset, "samples", None)  # data sets of one's own may have no names
    names = [dataset.short_name(samples[n][0]) if samples else f"image {n}" for n in numbers]
    for kind, trajectories in (("restored", xs), ("predicted_clean", pred_x0s)):
        rows = [
            labelled_strip([*map(to_pixels, states.flip(0).nan_to_num(0))], name)
            for states, name in zip(trajectories, names)
        ]
        picture = torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1) / 255
        training.writer.add_image(iteration, f"trajectory/{kind}", picture)
    return None


def _write_scores(training: Any, shown: dict[str, Tensor], labels: Any) -> None:
    """Means over all ranks of what each judge says of each kind of images [B,C,H,W]."""
    clean = shown["clean"].cpu()
    scores = {
        f"{metric}/{name}": judge(images.cpu(), clean, labels).float().mean().item()
        for metric, judge in training.judges.items()
        for name, images in shown.items()
        if (metric, name) != ("psnr", "clean")
    }
    if scores:
        ranks = gather_objects(scores)
        means = {key: sum(each[key] for each in ranks) / len(ranks) for key in scores}
        training.writer.add_scalars(training.state.iteration, means)
        training.log.info("[Eval] " + " | ".join(f"{key} {value:.4g}" for key, value in means.items()))


def _grid(images: Tensor) -> Tensor:
    """[N,C,H,W] in [-1,1] -> one picture [3,h,w] in [0,1], without transparency."""
    from torchvision.utils import make_grid

    return make_grid((shown_channels(images)[:, :3].float().cpu() + 1) / 2).clamp(0, 1)
