"""The options of compute_metrices.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import shared
from .parser import Parser, path, positive_int

DESCRIPTION = "Evaluate restored images: FID, ResNet-50 accuracy, PSNR, SSIM and others; or pictures of your own."
EPILOG = "Prints a table and writes metrics.json beside the samples."
BASIC = ("ckpt", "sample_dir", "dataset_dir", "metrics", "input", "report")

DEFAULT_METRICS = ("psnr", "ssim", "accuracy", "fid")
OF_INPUT = ("input", "metrics", "device", "gpu", "debug", "seed")
MODES = ("legacy_pytorch", "legacy_tensorflow", "clean")


def build_parser(metrics: Sequence[str] = ()) -> Parser:
    """metrics: the names to choose from, `evaluation.metrics.METRICS`; they are not known in this package."""
    parser = Parser("compute_metrices.py", DESCRIPTION, EPILOG)
    run = shared.add_run(parser, shared.OF_DEGRADED)
    shared.add_gpu(run)
    shared.add_samples(run, required=False)
    add = parser.add_argument_group("metrics").add_argument
    defaults = list(DEFAULT_METRICS)
    about = f"among {', '.join(metrics)} (default: {' '.join(defaults)})"
    add("--metrics", nargs="+", choices=metrics or None, default=defaults, metavar="METRIC", help=about)
    mode = "clean-fid's way to resize and its network"
    add("--mode", choices=MODES, default="legacy_pytorch", help=mode)
    reference = (
        "reference of FID and KID: an npz file with mu and sigma, or a data set or folder of images "
        "(default: ImageNet's training set for sr4x-*, the validation set for others)"
    )
    add("--fid-ref", metavar="FILE|DATASET", help=reference)
    alone = "judge these pictures (files, folders, or patterns in quotes), which have no clean ones, by arniqa"
    add("--input", type=path, nargs="+", metavar="FILE|DIR|GLOB", help=alone)
    add("--batch-size", type=positive_int, default=64, metavar="N", help="images at a time through a network")
    add("--report", action="store_true", help="also write report.html beside the samples")
    shared.add_data(parser)
    parser.lead_with(*BASIC)
    return parser


def parse_metrics_options(argv: Sequence[str] | None = None, metrics: Sequence[str] = ()) -> argparse.Namespace:
    """The options of compute_metrices.py, checked as `parse_train_options` does; metrics: see `build_parser`."""
    parser = build_parser(tuple(metrics))
    opt = shared.parse_samples(parser, argv)
    if opt.input:
        if wrong := [name for name in opt.given if name not in OF_INPUT]:
            parser.error(f"--{wrong[0].replace('_', '-')}: does not go with --input")
        if "metrics" not in opt.given:
            opt.metrics = ["arniqa"]
    elif missing := [flag for flag, value in (("--ckpt", opt.ckpt), ("--sample-dir", opt.sample_dir)) if not value]:
        parser.error(f"the following arguments are required: {', '.join(missing)} (or --input, for pictures alone)")
    # One process does it all; the launcher asks for these.
    opt.n_gpu_per_node, opt.num_proc_node, opt.node_rank = 1, 1, 0
    opt.master_address, opt.master_port = "localhost", None
    opt.metrics = list(dict.fromkeys(opt.metrics))
    return opt
