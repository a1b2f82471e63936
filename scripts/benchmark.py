"""How fast everything is, beside a plain version of it and what bounds it; prints a table, writes JSON.

python scripts/benchmark.py --quick                        # without ADM-256
python scripts/benchmark.py --compare OLD.json NEW.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ITEMS = ("training", "forward", "adm-256", "corruptions", "frechet", "loading", "optimizer", "sampling")
ITEMS += ("start-up", "checkpoint", "ranks", "memory")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda or mps")
    add("--quick", action="store_true", help="leave out ADM-256, which takes minutes on a CPU")
    add(
        "--only",
        nargs="+",
        choices=ITEMS,
        metavar="ITEM",
        help=f"only these: {', '.join(ITEMS)}",
    )
    add(
        "--out",
        type=Path,
        default=Path("benchmark.json"),
        metavar="FILE",
        help="where the rows go (default: %(default)s)",
    )
    add(
        "--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="measure nothing, set two such files side by side"
    )
    add("--cpu-time", action="store_true", help="for a busy machine, with OMP_NUM_THREADS=1: CPU time, not the clock's")
    add("--tiny", action="store_true", help="sizes that only show that everything works")
    args = parser.parse_args(argv)
    if args.compare:
        compare(*(json.loads(path.read_text())["rows"] for path in args.compare))
        return 0

    import torch

    from benchmarks.timing import Setting, cpu_time
    from i2sb.runtime.memory import kept_memory

    clock = cpu_time if args.cpu_time else time.perf_counter
    setting, rows = Setting(torch.device(args.device), args.tiny, clock), []
    print("| item | ours | plain | ratio | floor | |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, measure in items().items():
        if name not in (args.only or ITEMS) or (args.quick and name == "adm-256"):
            continue
        with kept_memory(setting.device):  # as in training and sampling
            for row in measure(setting):
                rows.append(row._asdict())
                print(line(rows[-1]), flush=True)
    gpu = torch.cuda.get_device_name() if setting.device.type == "cuda" else None
    about = {"device": args.device, "gpu": gpu, "torch": torch.__version__, "threads": torch.get_num_threads()}
    about |= {
        "processor": platform.processor(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "cpu_time": args.cpu_time,
    }
    args.out.write_text(json.dumps({**about, "tiny": args.tiny, "rows": rows}, indent=1) + "\n")
    return 0


def items() -> dict[str, Callable]:
    """Name -> function that yields its rows."""
    from benchmarks import computing, running

    functions = computing.training_step, computing.forward, computing.adm, computing.corruptions
    functions += computing.frechet, running.loading, computing.optimizer, computing.sampling
    functions += running.start_up, running.checkpoint, running.ranks, running.memory
    return dict(zip(ITEMS, functions))


def line(row: dict) -> str:
    """A row of the table in Markdown; ratio: plain over ours; behind the floor its share of ours, MFU for a network."""
    ours, plain, floor = row["ours"], row["baseline"], row["floor"]
    ratio = f"{plain / ours:.2f}" if plain else ""
    share = f", {floor / ours:.0%}" if floor else ""
    ours, plain, floor = (_quantity(value, row["unit"]) for value in (ours, plain, floor))
    return "| " + " | ".join([row["item"], ours, plain, ratio, floor + share, row["note"]]) + " |"


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value * 1e3:.3g} ms" if unit == "s" and value < 1 else f"{value:.3g} {unit}"


def compare(old: list[dict], new: list[dict]) -> None:
    """Two releases on one machine: what is above 1 has become faster (or larger, where it is no time)."""
    before = {row["item"]: row for row in old}
    print("| item | old | new | old / new |\n| --- | --- | --- | --- |")
    for row in new:
        if row["item"] in before:
            was = before[row["item"]]["ours"]
            print(f"| {row['item']} | {was:.3g} {row['unit']} | {row['ours']:.3g} | {was / row['ours']:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
