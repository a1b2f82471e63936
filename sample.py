"""Restore images with a trained bridge: those of a data set, or picture files; see --help."""

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

        return launch(opt, sample_files if opt.input else sample)

    return run_script("sample.py", work, opt.debug)


def sample(opt: argparse.Namespace) -> None:
    """The work of one process: the images of a data set."""
    with signals_held():
        import torch

        from dataset.freeform import build_operator
        from dataset.images import WithChecksum
        from dataset.open import open_evaluation
        from i2sb.ckpt_util import find_weights, sampling_options
        from i2sb.operator_file import load_operators
        from i2sb.pictures import Pictures
        from i2sb.recon import sample_folder
        from i2sb.restore import open_store, restore
        from i2sb.runner import Runner
        from i2sb.runtime.distributed import barrier, main_first
        from i2sb.runtime.files import only_if_used
        from i2sb.runtime.logger import build_logger
        from i2sb.runtime.script import explained

    ckpt_opt, nfe = sampling_options(opt, find_weights(opt.ckpt))
    folder = sample_folder(opt.ckpt, nfe, opt)
    with only_if_used(folder, opt.global_rank):
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


def sample_files(opt: argparse.Namespace) -> None:
    """The work of one process: picture files."""
    with signals_held():
        from i2sb.bridge import Bridge, locate
        from i2sb.ckpt_util import sampling_options
        from i2sb.operator_file import load_operators
        from i2sb.restore_files import restore_files
        from i2sb.runner import Runner
        from i2sb.runtime.logger import build_logger
        from i2sb.runtime.script import explained

    ckpt_opt, nfe = sampling_options(opt, locate(opt.ckpt))
    log = build_logger(None, opt.global_rank)
    load_operators(ckpt_opt, opt.corruption_file, log)
    runner = Runner(ckpt_opt, log, save_opt=False)
    runner.keep_average_only()
    bridge = Bridge(runner)
    tile = opt.tile or bridge.tile
    with explained(opt, smaller=f"--tile {tile}, to {tile // 2} for example"):
        restore_files(bridge, opt, nfe, log)


if __name__ == "__main__":
    sys.exit(main())
