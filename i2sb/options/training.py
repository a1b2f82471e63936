"""The options of train.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corruption.names import PATTERNS, TASKS, check_task, read_operators
from i2sb.config import size_text
from i2sb.runtime.writers import adopt_wandb_key

from . import shared
from .parser import (
    Parser,
    even_int,
    experiment,
    non_negative_float,
    non_negative_int,
    number,
    path,
    positive_float,
    positive_int,
    weights,
)

DESCRIPTION = "Train an image-to-image Schrodinger bridge that restores one kind of degraded images."
EPILOG = "A run writes results/NAME/latest.pt and options.pkl. Ctrl-C and SIGTERM save first; --ckpt NAME resumes."
BASIC = ("corrupt", "dataset_dir", "name", "ckpt", "net", "image_size", "batch_size", "microbatch", "num_itr", "device")


def build_parser() -> Parser:
    parser = Parser("train.py", DESCRIPTION, EPILOG)
    run = shared.add_run(parser)
    shared.add_gpu(run)
    add = run.add_argument
    add("--name", type=experiment, metavar="NAME", help="the results go to results/NAME (default: --corrupt)")
    add("--ckpt", type=experiment, metavar="NAME", help="resume from results/NAME (its own name by default)")
    start = "start from what fits of these weights (a run's, a demo model's, a file); all else is as for a new training"
    add("--init-from", type=weights, metavar="NAME|FILE", help=start)
    add("--overwrite", action="store_true", help="start from scratch where a checkpoint is already")
    _add_bridge(parser)
    shared.add_data(parser, training=True)
    shared.add_network(parser)
    _add_optimization(parser)
    _add_periodic(parser)
    add = shared.add_speed(parser).add_argument
    modes = ("none", "attention", "all")
    about = "activations to recompute in the backward pass, for less memory"
    add("--grad-checkpoint", choices=modes, default="none", help=about)
    add("--deterministic", action="store_true", help="only kernels that give the same bits each time")
    shared.add_launch(parser)
    _add_logging(parser)
    parser.lead_with(*BASIC)
    return parser


def _add_bridge(parser: Parser) -> None:
    add = parser.add_argument_group("bridge").add_argument
    tasks = f"the degradation to learn to undo: {', '.join(TASKS)}; {', '.join(map(str, PATTERNS))}"
    add("--corrupt", required=True, metavar="TASK", help=f"{tasks}; or one of --corruption-file")
    add("--interval", type=even_int, default=1000, metavar="N", help="steps of the bridge, an even number")
    beta_max = "noise of the bridge: N times the largest beta of the ramp"
    add("--beta-max", type=positive_float, default=0.3, metavar="B", help=beta_max)
    add("--t0", type=non_negative_float, default=1e-4, metavar="T0", help="network time at step 0")
    add("--T", type=positive_float, default=1.0, metavar="T", help="network time at the last step")
    add("--ot-ode", action="store_true", help="no noise: the deterministic limit, optimal transport")
    add("--clip-denoise", action="store_true", help="clamp predicted clean images to [-1,1] when sampling")
    add("--cond-x1", action="store_true", help="the network also sees the degraded image (twice the input channels)")
    add("--add-x1-noise", action="store_true", help="add Gaussian noise of deviation 1 to degraded images")


def _add_optimization(parser: Parser) -> None:
    add = parser.add_argument_group("optimization").add_argument
    batch = "images per optimizer step, over all processes"
    add("--batch-size", type=positive_int, default=256, metavar="N", help=batch)
    add("--microbatch", type=positive_int, default=2, metavar="N", help="images per forward pass and process")
    add("--num-itr", type=positive_int, default=1_000_000, metavar="N", help="optimizer steps in all")
    add("--lr", type=positive_float, default=5e-5, metavar="LR", help="learning rate of AdamW")
    gamma = number(float, 0, 1, above=True)
    add("--lr-gamma", type=gamma, default=0.99, metavar="G", help="factor by which the learning rate decays")
    add("--lr-step", type=positive_int, default=1000, metavar="N", help="iterations between these decays")
    decay = "weight decay of AdamW"
    add("--l2-norm", "--weight-decay", type=non_negative_float, default=0.0, metavar="W", help=decay)
    add("--ema", type=number(float, 0, 1), default=0.99, metavar="D", help="decay of the weights' moving average")
    halflife = "seen images by which the moving average's memory halves, in place of --ema (0: --ema counts)"
    add("--ema-halflife-images", type=non_negative_int, default=0, metavar="N", help=halflife)
    schedule = "how the learning rate decays; cosine: to 1 %% at --num-itr"
    add("--lr-schedule", choices=("step", "cosine"), default="step", help=schedule)
    warmup = "iterations in which the learning rate rises to --lr"
    add("--warmup", type=non_negative_int, default=0, metavar="N", help=warmup)
    clip = "shorten gradients, the mean over a batch, to this norm (0: never)"
    add("--grad-clip", type=non_negative_float, default=0.0, metavar="X", help=clip)
    weight = "weight of the steps in the loss; balanced: squared errors count A / (A + s2), A = std_fwd^2"
    add("--loss-weight", choices=("published", "balanced"), default="published", help=weight)
    s2 = "variance of degraded minus clean image, for balanced (0: measured on the first 16 batches)"
    add("--loss-s2", type=non_negative_float, default=0.0, metavar="S2", help=s2)
    perceptual = "weight of how different predicted and clean images look to EfficientNet-Lite0 (0: does not count)"
    add("--perceptual", type=non_negative_float, default=0.0, metavar="W", help=perceptual)
    distill = "cbt: train the weights of --init-from to answer alike at all steps of a path, for one call"
    add("--distill", choices=("cbt",), help=distill)
    add("--no-pretrained", action="store_true", help="start ADM-256 from random weights, fetch nothing")
    nonfinite = "stop after N consecutive steps with NaN or inf in loss or gradients (each is skipped)"
    add("--max-nonfinite", type=positive_int, default=50, metavar="N", help=nonfinite)


def _add_periodic(parser: Parser) -> None:
    add = parser.add_argument_group("saving and evaluation").add_argument
    add("--save-every", type=positive_int, default=5000, metavar="N", help="iterations between checkpoints")
    keep = "also keep a numbered checkpoint every N iterations (0: none)"
    add("--keep-every", type=non_negative_int, default=0, metavar="N", help=keep)
    evaluate = "iterations between evaluations, besides those at 0 and 500 (0: no evaluation at all)"
    add("--eval-every", type=non_negative_int, default=3000, metavar="N", help=evaluate)
    nfe = "network calls per image in evaluations (default: one less than --interval)"
    add("--eval-nfe", type=positive_int, metavar="NFE", help=nfe)
    images = "validation images of an evaluation (default: a micro-batch of each process)"
    add("--eval-images", type=positive_int, metavar="N", help=images)
    best = "also keep the checkpoint of the best evaluation, as best.pt"
    add("--keep-best", choices=("psnr", "ssim", "loss"), help=best)
    add("--log-every", type=positive_int, default=10, metavar="N", help="iterations between log lines")


def _add_logging(parser: Parser) -> None:
    add = parser.add_argument_group("logging").add_argument
    files = "log file, metrics.jsonl, event files"
    add("--log-dir", type=path, default=Path(".log"), metavar="DIR", help=files)
    add("--log-writer", choices=("tensorboard", "wandb"), help="also log scalars and images to this")
    key = "Weights & Biases key (or WANDB_API_KEY, or netrc); never saved"
    add("--wandb-api-key", metavar="KEY", help=key)
    add("--wandb-user", metavar="USER", help="Weights & Biases user or team")


def parse_train_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of train.py, checked; exits with code 2 and one line at a wrong value.

    Besides the flags: `given` (names of those on the command line) and `network` (arguments of create_model,
    None where the command line names no network). The W&B key moves to the environment.
    """
    parser = build_parser()
    opt = parser.parse(argv)
    try:
        check_task(opt.corrupt, read_operators(opt.corruption_file) if opt.corruption_file else None)
    except ValueError as error:
        parser.error(f"argument --corrupt: {error}")
    if opt.init_from is not None and (opt.ckpt is not None or opt.no_pretrained):
        other = "--no-pretrained" if opt.ckpt is None else f"--ckpt {opt.ckpt}, which resumes a training"
        parser.error(f"--init-from {opt.init_from}: contradicts {other}; give one of them")
    opt.name = opt.name or opt.ckpt or opt.corrupt.replace("/", "-")  # inpaint-masks=DIR
    opt.network = shared.resolve_network(parser, opt)
    if opt.ckpt is None and (reason := contradiction(opt)):  # else see `resume.training_options`
        parser.error(reason)
    adopt_wandb_key(opt)
    return opt


def contradiction(opt: argparse.Namespace) -> str | None:
    """What is wrong with options that are valid one by one; None: nothing."""
    processes = getattr(opt, "global_size", None)
    if processes is None and not os.environ.get("WORLD_SIZE"):  # where torchrun set it, each rank looks
        processes = opt.num_proc_node * opt.n_gpu_per_node
    if processes and (reason := batch_fault(opt.batch_size, opt.microbatch, processes)):
        return reason
    if opt.value_range and opt.value_range[0] >= opt.value_range[1]:
        return f"--value-range {size_text(opt.value_range)}: LO must be below HI"
    if opt.distill and opt.ckpt is None and opt.init_from is None:
        return f"--distill {opt.distill}: starts from trained weights; give --init-from NAME"
    if opt.t0 >= opt.T:
        return f"--t0 {opt.t0:g}: must be below --T {opt.T:g}"
    if opt.eval_nfe is not None and opt.eval_nfe >= opt.interval:
        return f"--eval-nfe {opt.eval_nfe}: must lie in 1..{opt.interval - 1} (--interval - 1)"
    if "keep_best" in opt.given and not opt.eval_every:
        return f"--keep-best {opt.keep_best}: needs evaluations, an --eval-every above 0"
    if opt.ema_halflife_images and "ema" in opt.given:
        return f"--ema {opt.ema:g}: --ema-halflife-images {opt.ema_halflife_images} is given in its place; give one"
    if opt.ckpt is not None and opt.network is None:
        return None  # which network the checkpoint has is seen when it is built
    return shared.misfit(opt.image_size, opt.network)


def batch_fault(batch_size: int, microbatch: int, processes: int) -> str | None:
    """Why the ranks cannot share a batch alike; None where they can."""
    per_pass = processes * microbatch
    if batch_size % per_pass == 0:
        return None
    return (
        f"--batch-size {batch_size}: must be a multiple of processes x --microbatch = {processes} x {microbatch} = "
        f"{per_pass}"
    )


def training_defaults() -> dict[str, Any]:
    """Every option of train.py with its default; for options that were saved before some of them existed."""
    return {**build_parser().defaults(), "network": None}
