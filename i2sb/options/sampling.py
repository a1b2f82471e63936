"""The options of sample.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import shared
from .parser import Parser, experiment, non_negative_int, partition, positive_int

DESCRIPTION = "Restore the validation images with a trained bridge."
EPILOG = "Writes results/CKPT/samples_nfeNFE/recon.pt. The same command resumes an interrupted run."


def build_parser() -> Parser:
    parser = Parser("sample.py", DESCRIPTION, EPILOG)
    run = shared.add_run(parser)
    shared.add_gpu(run)
    where = "the checkpoint is results/NAME/latest.pt"
    run.add_argument("--ckpt", type=experiment, required=True, metavar="NAME", help=where)
    run.add_argument("--overwrite", action="store_true", help="restore again, and remove what is there")

    group = parser.add_argument_group("sampling")
    add = group.add_argument
    nfe = "network calls per image (default: one less than the training's --interval)"
    # None: see schedule.num_evaluations
    add("--nfe", type=positive_int, metavar="NFE", help=nfe)
    shared.add_sampler(group)
    add("--clip-denoise", action="store_true", help="clamp predicted clean images to [-1,1] at each step")
    add("--batch-size", type=positive_int, default=32, metavar="N", help="images at a time, per process")
    part = "restore part I of N of the set only (I from 0 to N-1), such as 0_4"
    add("--partition", type=partition, metavar="I_N", help=part)
    shared.add_data(parser)

    add = parser.add_argument_group("output").add_argument
    dtype = "dtype of the images in recon.pt: float32 as published, or 8-bit pixels in a quarter of the space"
    add("--recon-dtype", choices=("float32", "uint8"), default="float32", help=dtype)
    images = "also write each restored image as a png or jpg file"
    add("--save-images", choices=("png", "jpg"), metavar="FORMAT", help=images)
    trajectory = "write the trajectories of the first K images, as animated WebP and as a strip of PNG"
    add("--save-trajectory", type=non_negative_int, default=0, metavar="K", help=trajectory)
    shared.add_network(parser)
    speed = shared.add_speed(parser, channels_last=None)
    speed.add_argument("--use-fp16", action="store_true", help="the same as --precision fp16")
    shared.add_launch(parser)
    return parser


def parse_sample_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of sample.py, checked as `parse_train_options` does."""
    parser = build_parser()
    opt = parser.parse(argv)
    if opt.use_fp16:
        if "precision" in opt.given and opt.precision != "fp16":
            parser.error(f"--use-fp16 and --precision {opt.precision} contradict each other; give one")
        opt.precision = "fp16"
    if opt.sampler == "dbim" and opt.eta is None:
        opt.eta = 0.0
    opt.network = shared.resolve_network(parser, opt)
    return opt
