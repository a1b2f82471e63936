"""Notes what two ranks send each other while they train: called by `launch` in each process."""

import argparse
import json
import logging
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from corruption import build_corruption
from dataset.imagenet import build_lmdb_dataset
from i2sb import training
from i2sb.options import parse_train_options
from i2sb.runner import Runner
from i2sb.runtime.launch import launch

BETWEEN = -1  # after a step: signals are agreed on, checkpoints written


class Collectives(TorchDispatchMode):
    """`entries` are (step, micro-batch of the step, operation, numbers in its tensors); both from 1."""

    def __init__(self):
        super().__init__()
        self.step = self.micro = 0
        self.entries = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            numbers = sum(leaf.numel() for leaf in tree_leaves(args[0]) if isinstance(leaf, torch.Tensor))
            self.entries.append((self.step, self.micro, func.overloadpacket.__name__, numbers))
        return func(*args, **(kwargs or {}))


def note(opt: argparse.Namespace) -> None:
    log = logging.getLogger("note")
    runner = Runner(opt, log, save_opt=False)
    dataset = build_lmdb_dataset(opt, log, train=True)
    step, loss = training.Training.step, runner.training_loss

    def noted_step(self, *args):
        sent.step, sent.micro = sent.step + 1, 0
        result = step(self, *args)
        sent.micro = BETWEEN
        return result

    def noted_loss(*args):
        sent.micro += 1
        return loss(*args)

    runner.training_loss, training.Training.step = noted_loss, noted_step
    with Collectives() as sent:
        runner.train(opt, dataset, dataset, build_corruption(opt, log))
    notes = {
        "sent": [entry for entry in sent.entries if entry[1] != BETWEEN],
        "weights": sum(p.numel() for p in runner.net.parameters()),
        "ema": float(sum(average.double().abs().sum() for average in runner.ema.shadow_params)),
    }
    Path(f"rank-{opt.global_rank}.json").write_text(json.dumps(notes))


def main(argv: list[str]) -> int:
    options = parse_train_options(argv)
    options.ckpt_path, options.load = Path("results/x"), None
    return launch(options, note)
