"""The options of compute_metrices.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import shared
from .parser import Parser, positive_int

DESCRIPTION = "Judge restored images: FID, ResNet-50 accuracy, PSNR, SSIM and others."
EPILOG = "Prints a table and writes metrics.json beside the samples."

METRICS = ("psnr", "ssim", "accuracy", "fid", "kid", "lpips")
DEFAULT_METRICS = ("psnr", "ssim", "accuracy", "fid")
MODES = ("legacy_pytorch", "legacy_tensorflow", "clean")


def build_parser() -> Parser:
    parser = Parser("compute_metrices.py", DESCRIPTION, EPILOG)
    run = shared.add_run(parser)
    shared.add_gpu(run)
    shared.add_samples(run)
    group = parser.add_argument_group("metrics")
    group.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        default=list(DEFAULT_METRICS),
        metavar="METRIC",
        help=f"among {', '.join(METRICS)} (default: {' '.join(DEFAULT_METRICS)})",
    )
    group.add_argument(
        "--mode", choices=MODES, default="legacy_pytorch", help="clean-fid's way to resize and its network"
    )
    group.add_argument(
        "--fid-ref",
        metavar="FILE|DATASET",
        help="reference of FID and KID: an npz file with mu and sigma, or a data set or folder of images "
        "(default: ImageNet's training set for sr4x-*, the validation set for others)",
    )
    group.add_argument(
        "--batch-size", type=positive_int, default=64, metavar="N", help="images at a time through a network"
    )
    group.add_argument("--report", action="store_true", help="also write report.html beside the samples")
    shared.add_data(parser)
    return parser


def parse_metrics_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of compute_metrices.py, checked as `parse_train_options` does."""
    parser = build_parser()
    opt = parser.parse(argv)
    # One process does it all; the launcher asks for these.
    opt.n_gpu_per_node, opt.num_proc_node, opt.node_rank = 1, 1, 0
    opt.master_address, opt.master_port = "localhost", None
    opt.metrics = [name for name in METRICS if name in opt.metrics]
    return opt
