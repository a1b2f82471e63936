"""Evaluation during training: a few validation images restored, judged, and shown as grids."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from i2sb.batch import Given, make_batch, unpack
from i2sb.noise import ImageNoise
from i2sb.runtime.distributed import gather_objects
from i2sb.runtime.progress import Progress
from i2sb.schedule import num_evaluations


class _Stopped(Exception):
    """A signal came while images were restored."""


def evaluate(
    runner: Any,
    opt: Any,
    dataset: Any,
    corrupt: Callable,
    judges: dict[str, Callable],
    writer: Any,
    iteration: int,
    poll: Callable[[], str | None],
) -> str | None:
    """Restore one micro-batch per rank with the averaged weights; write scores and five grids.

    The random numbers of the training are not touched: each image has a generator of its own.

    Args:
        judges: name -> function (images, clean, labels) -> scores [B].
        poll: asked after each step; the name of a signal ends the evaluation.

    Returns the name of the signal that ended it, or None.
    """
    numbers = [(opt.global_rank * opt.microbatch + i) % len(dataset) for i in range(opt.microbatch)]
    given = unpack(default_collate([dataset[i] for i in numbers])).to(runner.device)
    noise = ImageNoise(opt.seed, numbers, runner.device)
    batch = _boundary(runner, opt, given, corrupt, numbers, noise)
    nfe = num_evaluations(opt.eval_nfe, opt.interval)
    stopped_by: list[str] = []
    with Progress("evaluating", nfe, shown=opt.global_rank == 0) as bar, _unchanged_mode(runner.net):

        def on_step(*_: Any) -> None:
            bar.advance()
            if signal := poll():
                stopped_by.append(signal)
                raise _Stopped

        try:
            xs, pred_x0s = runner.ddpm_sampling(
                opt,
                batch.x1,
                mask=batch.mask,
                cond=batch.cond,
                clip_denoise=opt.clip_denoise,
                nfe=nfe,
                verbose=False,
                randn=noise.randn_like,
                redraw_hole=False,
                on_step=on_step,
            )
        except _Stopped:
            return stopped_by[0]
    shown = {"clean": batch.x0, "corrupt": batch.x1, "recon": xs[:, 0]}
    _write_scores(runner, shown, given.labels, judges, writer, iteration)
    for name, grid in shown.items():
        writer.add_image(iteration, f"image/{name}", _grid(grid))
    for name, states in (("recon_traj", xs), ("pred_clean_traj", pred_x0s)):
        rows = states.flip(1).flatten(0, 1)  # a row per image, from degraded to restored
        writer.add_image(iteration, f"trajectory/{name}", _grid(rows, columns=states.shape[1]))
    return None


def _boundary(runner: Any, opt: Any, given: Given, corrupt: Callable, numbers: list[int], noise: ImageNoise) -> Any:
    """Both ends of the bridge; an operator that draws from torch's generator leaves the training's as it is."""
    with torch.random.fork_rng(devices=[runner.device] if runner.device.type == "cuda" else []):
        torch.manual_seed(opt.seed)
        return make_batch(
            given,
            corrupt,
            cond_x1=opt.cond_x1,
            add_x1_noise=opt.add_x1_noise,
            index=torch.tensor(numbers),
            randn=noise.randn_like,
        )


@contextlib.contextmanager
def _unchanged_mode(net: nn.Module) -> Iterator[None]:
    """Dropout is on after the block where it was on before, however the block ends."""
    training = net.training
    try:
        yield
    finally:
        net.train(training)


def _write_scores(
    runner: Any, shown: dict[str, Tensor], labels: Any, judges: dict[str, Callable], writer: Any, iteration: int
) -> None:
    clean = shown["clean"].cpu()
    scores = {}
    for metric, judge in judges.items():
        for name, images in shown.items():
            if metric != "psnr" or name != "clean":
                scores[f"{metric}/{name}"] = judge(images.cpu(), clean, labels).float().mean().item()
    every = gather_objects(scores)
    means = {key: sum(each[key] for each in every) / len(every) for key in scores}
    if means:
        writer.add_scalars(iteration, means)
        runner.log.info("[Eval] " + " | ".join(f"{key} {value:.4g}" for key, value in means.items()))


def _grid(images: Tensor, columns: int = 8) -> Tensor:
    """[N,3,S,S] in [-1,1] -> one picture [3,H,W] in [0,1]."""
    from torchvision.utils import make_grid

    return make_grid((images.float().cpu() + 1) / 2, nrow=columns).clamp(0, 1)
