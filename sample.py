"""Restore the validation images with a trained bridge; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from i2sb.options import parse_sample_options
from i2sb.runtime.script import run_script, signals_held


def main(argv: Sequence[str] | None = None) -> int:
    opt = parse_sample_options(argv)

    def work() -> int:
        from i2sb.runtime.launch import launch

        return launch(opt, sample)

    return run_script("sample.py", work, opt.debug)


def sample(opt: argparse.Namespace) -> None:
    """The work of one process."""
    with signals_held():
        import torch

        from dataset.freeform import build_operator
        from dataset.images import WithChecksum
        from dataset.open import open_evaluation
        from i2sb.ckpt_util import RESULTS, build_ckpt_option
        from i2sb.errors import UserError
        from i2sb.operator_file import load_operators
        from i2sb.pictures import Pictures
        from i2sb.precision import LOW
        from i2sb.recon import sample_folder
        from i2sb.restore import open_store, restore
        from i2sb.runner import Runner
        from i2sb.runtime.distributed import barrier, main_first
        from i2sb.runtime.logger import build_logger
        from i2sb.runtime.script import explained
        from i2sb.samplers import check_sampler
        from i2sb.schedule import num_evaluations

    ckpt_opt = build_ckpt_option(opt, None, RESULTS / opt.ckpt)
    ckpt_opt.network = opt.network or ckpt_opt.network
    if opt.channels_last is None:
        ckpt_opt.channels_last = opt.device == "cpu" or opt.precision in LOW
    try:
        nfe = num_evaluations(opt.nfe, ckpt_opt.interval)
    except ValueError as error:
        reason = f"{opt.ckpt} was trained with --interval {ckpt_opt.interval}: at most {ckpt_opt.interval - 1}"
        raise UserError(f"--nfe {opt.nfe}: {reason}") from error
    try:
        check_sampler(opt.sampler, opt.eta, ckpt_opt.ot_ode)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    folder = sample_folder(opt.ckpt, nfe, opt)
    log = build_logger(folder, opt.global_rank)
    torch.manual_seed(opt.seed)
    load_operators(ckpt_opt, opt.corruption_file, log)
    with main_first():
        dataset = WithChecksum(open_evaluation(ckpt_opt, log))
        corrupt = build_operator(ckpt_opt, dataset.classes, log)
    pictures = Pictures(folder, dataset, opt.save_images, opt.save_trajectory)
    with explained(opt, smaller="--batch-size"):
        runner = Runner(ckpt_opt, log, save_opt=False)
        runner.keep_average_only()
        with open_store(runner, opt, folder, dataset, corrupt, log) as (store, finished):
            if not finished:
                restore(runner, opt, dataset, corrupt, store, pictures)
            if opt.global_rank == 0:
                if not finished:
                    log.info(f"[Sample] {store.stop - store.start} images: {store.finish()}")
                pictures.complete(store, log)
            barrier()


if __name__ == "__main__":
    sys.exit(main())
