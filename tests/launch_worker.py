"""A small program that calls `launch` as the entry scripts do; `--do` says what its ranks go through.

Each rank writes what it sees as lines of JSON into FOLDER/rank-N.jsonl.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.errors import UserError
from i2sb.runtime.children import run_children
from i2sb.runtime.launch import launch


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--do", default="report")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", type=int)
    parser.add_argument("--n-gpu-per-node", type=int, default=1)
    parser.add_argument("--num-proc-node", type=int, default=1)
    parser.add_argument("--node-rank", type=int)
    parser.add_argument("--master-address", default="localhost")
    parser.add_argument("--master-port", type=int)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def note(opt: argparse.Namespace, **values: object) -> None:
    line = json.dumps({"rank": opt.global_rank, "pid": os.getpid(), **values})
    with (opt.folder / f"rank-{opt.global_rank}.jsonl").open("a") as file:
        file.write(line + "\n")


def main(opt: argparse.Namespace) -> None:
    globals()[f"do_{opt.do.replace('-', '_')}"](opt)


def do_report(opt: argparse.Namespace) -> None:
    """Every field that `launch` sets, and a sum over ranks: 1 + 2 + ... + size."""
    import torch

    from i2sb.runtime import distributed

    tensor = torch.tensor([float(distributed.rank() + 1)])
    note(
        opt,
        size=opt.global_size,
        local_rank=opt.local_rank,
        node_rank=opt.node_rank,
        distributed=opt.distributed,
        device=opt.device,
        backend=torch.distributed.get_backend() if opt.distributed else "",
        threads=torch.get_num_threads(),
        sum=float(distributed.mean_over_ranks(tensor)) * distributed.world_size(),
    )


def do_raise(opt: argparse.Namespace) -> None:
    if opt.global_rank == 1:
        raise ZeroDivisionError("told once")
    time.sleep(120)


def do_user_error(opt: argparse.Namespace) -> None:
    raise UserError("--lr -1: must be above 0")


def do_exit(opt: argparse.Namespace) -> None:
    sys.exit("nothing to do" if opt.global_rank == 1 else None)


def do_sleep(opt: argparse.Namespace) -> None:
    time.sleep(120)


def do_first_fails(opt: argparse.Namespace) -> None:
    from i2sb.runtime import distributed

    with distributed.main_first():
        raise ZeroDivisionError(f"rank {opt.global_rank}")


def do_collective(opt: argparse.Namespace) -> None:
    """Rank 0 waits in a collective for rank 1, which never comes."""
    from i2sb.runtime import distributed

    note(opt)
    if opt.global_rank == 0:
        distributed.barrier()
    time.sleep(120)


def do_helper(opt: argparse.Namespace) -> None:
    """Deaf to SIGTERM, with a forked helper as a data loader has: it inherits what is open in the rank."""
    helper = os.fork()
    if helper == 0:
        time.sleep(120)
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(opt, helper=helper)
    time.sleep(120)


def do_count_signals(opt: argparse.Namespace) -> None:
    """Ends well half a second after the first signal, with the names of all that came."""
    names: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: names.append(signal.Signals(number).name))
    note(opt)
    while not names:
        time.sleep(0.01)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        time.sleep(0.01)
    note(opt, names=names)


def do_ignore_signals(opt: argparse.Namespace) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    note(opt)
    time.sleep(120)


def do_train(opt: argparse.Namespace) -> None:
    """A loop that saves when told to stop."""
    from i2sb.runtime.distributed import StopSignal

    with StopSignal() as stop:
        note(opt, step="started")
        for iteration in range(6000):
            if name := stop.poll():
                note(opt, step="saved", signal=name, iteration=iteration)
                return
            time.sleep(0.01)
    raise TimeoutError("no signal came")


def do_talk(opt: argparse.Namespace) -> None:
    """Every helper of `distributed`, on two ranks."""
    import torch

    from i2sb.runtime import distributed

    rank = distributed.rank()
    mean = distributed.mean_over_ranks(torch.tensor([[1.0, 2.0]]) * (1 + 2 * rank))
    gathered = distributed.gather_objects({"rank": rank, "state": torch.full((2,), rank)})
    broadcast = distributed.broadcast_object(("from", rank))
    entered = time.time()
    with distributed.main_first():
        inside = time.time()
        if distributed.is_main():
            time.sleep(0.4)
        left = time.time()
    time.sleep(0.4 * rank)
    arrived = time.time()
    distributed.barrier()
    note(
        opt,
        world_size=distributed.world_size(),
        is_main=distributed.is_main(),
        mean=mean.tolist(),
        gathered=[(entry["rank"], entry["state"].tolist()) for entry in gathered],
        broadcast=broadcast,
        first=[entered, inside, left],
        barrier=[arrived, time.time()],
        stops=[stop_by_one_rank(rank, round) for round in range(3)],
    )


def stop_by_one_rank(rank: int, round: int) -> dict:
    """Only rank 1 gets a signal, at its fifth iteration; `first` is how long the first poll took.

    In round 0 rank 1 begins later, in round 1 it is slower, in round 2 it is faster.
    """
    from i2sb.runtime.distributed import StopSignal

    with StopSignal() as stop:
        time.sleep(0.5 if (round, rank) == (0, 1) else 0)
        for iteration in range(100):
            if rank == 1 and iteration == 5:
                os.kill(os.getpid(), signal.SIGUSR1)
            start = time.perf_counter()
            name = stop.poll()
            if iteration == 0:
                first = time.perf_counter() - start
            if name:
                return {"iteration": iteration, "signal": name, "first": first}
            time.sleep(0.01 if (round, rank) in ((1, 1), (2, 0)) else 0)
    return {}


def children_without_torch(opt: argparse.Namespace) -> int:
    """The processes that `launch` would start, but without torch, which takes seconds to import."""
    arguments = [(opt, rank) for rank in range(opt.n_gpu_per_node)]
    return run_children(as_rank, main, arguments)


def as_rank(main: Callable, opt: argparse.Namespace, rank: int) -> None:
    opt.global_rank = rank
    main(opt)


if __name__ == "__main__":
    try:
        opt = parse()
        code = children_without_torch(opt) if opt.without_torch else launch(opt, main)
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    sys.exit(code)
