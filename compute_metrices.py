"""Evaluate restored images; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from evaluation.metrics import METRICS
from i2sb.options import parse_metrics_options
from i2sb.runtime.script import explained, run_script


def main(argv: Sequence[str] | None = None) -> int:
    opt = parse_metrics_options(argv, METRICS)

    def work() -> int:
        from i2sb.runtime.launch import launch

        return launch(opt, judge)

    return run_script("compute_metrices.py", work, opt.debug)


def judge(opt: argparse.Namespace) -> None:
    """The work of the one process."""
    import torch

    from evaluation.judge import judge_folders
    from evaluation.no_reference import judge_pictures

    torch.manual_seed(opt.seed)
    with explained(opt, smaller="--batch-size"):
        judge_pictures(opt) if opt.input else judge_folders(opt)


if __name__ == "__main__":
    sys.exit(main())
