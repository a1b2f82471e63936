"""The options of compute_metrices.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import shared
from .parser import Parser, positive_int

DESCRIPTION = "Evaluate restored images: FID, ResNet-50 accuracy, PSNR, SSIM and others."
EPILOG = "Prints a table and writes metrics.json beside the samples."
BASIC = ("ckpt", "sample_dir", "dataset_dir", "metrics", "report")

DEFAULT_METRICS = ("psnr", "ssim", "accuracy", "fid")
MODES = ("legacy_pytorch", "legacy_tensorflow", "clean")


def build_parser(metrics: Sequence[str] = ()) -> Parser:
    """metrics: the names to choose from, `evaluation.metrics.METRICS`; they are not known in this package."""
    parser = Parser("compute_metrices.py", DESCRIPTION, EPILOG)
    run = shared.add_run(parser, shared.OF_DEGRADED)
    shared.add_gpu(run)
    shared.add_samples(run)
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
    add("--batch-size", type=positive_int, default=64, metavar="N", help="images at a time through a network")
    add("--report", action="store_true", help="also write report.html beside the samples")
    shared.add_data(parser)
    parser.lead_with(*BASIC)
    return parser


def parse_metrics_options(argv: Sequence[str] | None = None, metrics: Sequence[str] = ()) -> argparse.Namespace:
    """The options of compute_metrices.py, checked as `parse_train_options` does; metrics: see `build_parser`."""
    opt = shared.parse_samples(build_parser(tuple(metrics)), argv)
    # One process does it all; the launcher asks for these.
    opt.n_gpu_per_node, opt.num_proc_node, opt.node_rank = 1, 1, 0
    opt.master_address, opt.master_port = "localhost", None
    opt.metrics = list(dict.fromkeys(opt.metrics))
    return opt
