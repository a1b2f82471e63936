"""A small program that calls `launch` as the entry scripts do; `--do` says what its ranks go through.

Each rank writes what it sees as lines of JSON into FOLDER/rank-N.jsonl.
"""

import argparse
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.errors import UserError
from i2sb.options.parser import Parser
from i2sb.options.shared import add_launch
from i2sb.runtime.launch import launch
from i2sb.runtime.script import run_script


def shorten() -> None:
    if seconds := os.environ.get("COLLECTIVE_SECONDS"):
        from datetime import timedelta

        from i2sb.runtime import distributed

        distributed._COLLECTIVE_TIMEOUT, distributed._BEAT = timedelta(seconds=float(seconds)), 0.2


shorten()  # in spawned children too, which import this file


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("launch_worker.py", "")
    parser.add_argument("--do", default="talk")
    parser.add_argument("--folder", type=Path)
    parser.set_defaults(gpu=None, device="cpu")
    add_launch(parser)
    return parser.parse_args(argv)


def note(opt: argparse.Namespace, **values: object) -> None:
    line = json.dumps({"rank": opt.global_rank, "pid": os.getpid(), **values})
    with (opt.folder / f"rank-{opt.global_rank}.jsonl").open("a") as file:
        file.write(line + "\n")


def main(argv: list[str] | None = None) -> int:
    shorten()
    return run_script("launch_worker.py", partial(launch, parse(argv), work))


def work(opt: argparse.Namespace) -> None:
    globals()[f"do_{opt.do.replace('-', '_')}"](opt)


def do_user_error(opt: argparse.Namespace) -> None:
    raise UserError("--lr -1: must be above 0")


def do_first_fails(opt: argparse.Namespace) -> None:
    from i2sb.runtime import distributed

    with distributed.main_first():
        raise ZeroDivisionError(f"rank {opt.global_rank}")


def do_raise(opt: argparse.Namespace) -> None:
    """Rank 1 fails; rank 0 ignores signals and has nothing to do with rank 1."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(opt)
    if opt.global_rank == 1:
        raise ZeroDivisionError("rank 1")
    time.sleep(120)


def do_collective(opt: argparse.Namespace) -> None:
    """Rank 0 waits for rank 1, which never comes; local rank 1 has a forked helper, as a data loader has."""
    from i2sb.runtime import distributed

    note(opt)
    if opt.global_rank == 0:
        distributed.barrier()
    elif opt.local_rank == 1 and os.fork() == 0:
        note(opt)
    time.sleep(120)


def do_slow_barrier(opt: argparse.Namespace) -> None:
    """Rank 1 works for longer than a collective may take, or stops and is never heard of again."""
    from i2sb.runtime import distributed

    note(opt)
    if opt.global_rank == 1:
        if "STOP" in os.environ:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(4)
    distributed.barrier()
    note(opt)


def do_reduce_for_ever(opt: argparse.Namespace) -> None:
    from i2sb.runtime import distributed

    note(opt)
    while True:
        distributed.gather_objects(0)
        time.sleep(0.01)


def do_sleep(opt: argparse.Namespace) -> None:
    time.sleep(120)


def do_count_signals(opt: argparse.Namespace) -> None:
    """All signals are noted, until this process is killed."""
    names: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: names.append(signal.Signals(number).name))
    note(opt)
    noted = 0
    while True:
        time.sleep(0.01)
        if noted < len(names):
            noted = len(names)
            time.sleep(0.3)  # a second one that comes with it is noted too
            note(opt, names=names)


def do_talk(opt: argparse.Namespace) -> None:
    """Every field that `launch` sets, and every helper of `distributed`."""
    import torch

    from i2sb.runtime import distributed

    rank = distributed.rank()
    mean = distributed.mean_over_ranks(torch.tensor([1.0, 2.0]) * (1 + rank))
    gathered = distributed.gather_objects({"rank": rank, "state": torch.full((2,), rank)})
    with distributed.main_first():
        inside = time.time()
        time.sleep(0.4 if rank == 0 else 0)
        left = time.time()
    time.sleep(0.4 * rank)
    arrived = time.time()
    distributed.barrier()
    fields = ("local_rank", "node_rank", "device", "distributed", "global_size")
    note(
        opt,
        **{name: getattr(opt, name) for name in fields},
        mean=mean.tolist(),
        gathered=[(entry["rank"], entry["state"].tolist()) for entry in gathered],
        broadcast=distributed.broadcast_object(("from", rank)),
        first=[inside, left],
        barrier=[arrived, time.time()],
        stops=[stop_by_one_rank(rank, slower) for slower in (0, 1)],
    )


def stop_by_one_rank(rank: int, slower: int) -> tuple[int, str] | None:
    """(iteration, signal) at which this rank stops; only rank 1 gets a signal, at its fifth iteration."""
    from i2sb.runtime.distributed import StopSignal

    with StopSignal() as stop:
        for iteration in range(100):
            if rank == 1 and iteration == 5:
                os.kill(os.getpid(), signal.SIGUSR1)
            if name := stop.poll():
                return iteration, name
            time.sleep(0.01 if rank == slower else 0)


if __name__ == "__main__":
    sys.exit(main())
