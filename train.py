"""Train a bridge; see --help, or scripts/train.sh for the published settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from i2sb.options import parse_train_options
from i2sb.runtime.script import run_script, signals_held


def main(argv: Sequence[str] | None = None) -> int:
    opt = parse_train_options(argv)

    def work() -> int:
        from i2sb.runtime.launch import launch

        return launch(opt, train)

    return run_script("train.py", work, opt.debug)


def train(opt: argparse.Namespace) -> None:
    """The work of one process: everything is built here and handed to the runner."""
    with signals_held():
        import torch

        from dataset.freeform import build_operator
        from dataset.open import open_dataset
        from evaluation.metrics import training_judges
        from i2sb.ckpt_util import LATEST, find_weights, only_training
        from i2sb.operator_file import load_operators
        from i2sb.resume import training_options
        from i2sb.runner import Runner
        from i2sb.runtime.distributed import main_first
        from i2sb.runtime.files import only_if_used
        from i2sb.runtime.logger import build_logger, log_options
        from i2sb.runtime.script import explained
        from i2sb.runtime.writers import build_writer

    if opt.init_from is not None and not Path(opt.init_from).is_file():
        opt.init_from = str(find_weights(opt.init_from, "--init-from"))
    log_folder = Path(opt.log_dir, opt.name)
    with only_training(opt), only_if_used(log_folder, opt.global_rank):
        resumed = opt.ckpt is not None and find_weights(opt.ckpt).name == LATEST
        log = build_logger(log_folder, opt.global_rank, resumed=resumed)
        opt = training_options(opt, log)
        load_operators(opt, opt.corruption_file, log)
        log_options(log, opt)
        torch.manual_seed(opt.seed)
        with explained(opt, smaller="the size of the network"), main_first():
            train_dataset = open_dataset(opt, log, train=True)
            val_dataset = open_dataset(opt, log, train=False) if opt.eval_every else None
            corrupt = build_operator(opt, train_dataset.classes, log)
            runner = Runner(opt, log, save_opt=False)  # the first checkpoint takes the options with it
        judges = training_judges(val_dataset, opt, log) if opt.eval_every else {}
        writer = build_writer(opt, network=runner.net.kwargs, start=runner.loaded_iteration())
        with writer, explained(opt, smaller="--microbatch"):
            if writer.where:
                log.info(f"[Log] {writer.where}")
            runner.train(opt, train_dataset, val_dataset, corrupt, writer=writer, judges=judges)


if __name__ == "__main__":
    sys.exit(main())
