"""Counts what two ranks send each other while they train: called by `launch` in each process."""

import argparse
import json
import logging
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from i2sb.runtime.launch import launch  # noqa: E402


def count(opt: argparse.Namespace) -> None:
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from corruption import build_corruption
    from dataset.imagenet import build_lmdb_dataset
    from i2sb import training
    from i2sb.runner import Runner

    log = logging.getLogger("count")
    runner = Runner(opt, log, save_opt=False)
    dataset = build_lmdb_dataset(opt, log, train=True)
    rounds, micro = [], []
    wrap = training.Training._distributed

    def counted(self, runner):
        ddp = wrap(self, runner)

        def hook(state, bucket):
            if bucket.is_last():
                rounds.append(len(micro))  # after how many micro-batches the gradients travelled
            return allreduce_hook(None, bucket)

        ddp.register_comm_hook(None, hook)
        return ddp

    loss = runner.training_loss
    runner.training_loss = lambda *args: micro.append(1) or loss(*args)
    training.Training._distributed = counted
    runner.train(opt, dataset, dataset, build_corruption(opt, log))
    same = [torch.zeros_like(p) for p in runner.net.parameters()]
    for mine, average in zip(same, runner.ema.shadow_params):
        mine.copy_(average)
    digest = float(sum(tensor.double().abs().sum() for tensor in same))
    Path(f"rank-{opt.global_rank}.json").write_text(json.dumps({"rounds": rounds, "ema": digest}))


if __name__ == "__main__":
    from i2sb.options import parse_train_options

    options = parse_train_options(sys.argv[1:])
    options.ckpt_path, options.load = Path("results/x"), None
    sys.exit(launch(options, count))
