"""A small program that calls `launch` as the entry scripts do; `--do` says what its ranks go through.

Each rank prints one line of JSON for what it saw, into FOLDER/rank-N.jsonl where a folder is given.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from i2sb.errors import UserError
from i2sb.runtime.launch import launch


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--do", default="report")
    parser.add_argument("--folder", type=Path)
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
    if opt.folder is None:
        print(line, flush=True)
    else:
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
    wait_for_the_others(opt)


def do_user_error(opt: argparse.Namespace) -> None:
    raise UserError("--lr -1: must be above 0")


def do_exit(opt: argparse.Namespace) -> None:
    sys.exit("nothing to do" if opt.global_rank == 1 else None)


def do_first_fails(opt: argparse.Namespace) -> None:
    from i2sb.runtime import distributed

    with distributed.main_first():
        raise ZeroDivisionError(f"rank {opt.global_rank}")


def do_sleep(opt: argparse.Namespace) -> None:
    """Keeps a helper process of its own, as a rank with a data loader does, and its sentinel open in it."""
    helper = os.fork()
    if helper == 0:
        time.sleep(120)
        os._exit(0)
    note(opt, helper=helper)
    wait_for_the_others(opt)


def wait_for_the_others(opt: argparse.Namespace) -> None:
    """Hangs in a collective that nobody else joins, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
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


def do_deaf(opt: argparse.Namespace) -> None:
    """Has handlers, but never looks at the flag."""
    from i2sb.runtime.distributed import StopSignal

    with StopSignal():
        note(opt, step="started")
        while True:
            time.sleep(0.05)


def do_grandchild(opt: argparse.Namespace) -> None:
    """A process that has nothing to do with the run; it must not hold up anything."""
    subprocess.Popen(["sleep", "60"])
    note(opt)


if __name__ == "__main__":
    try:
        code = launch(parse(), main)
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    sys.exit(code)
