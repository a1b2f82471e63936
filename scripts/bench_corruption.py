"""Time of every degradation in milliseconds per image.

python scripts/bench_corruption.py                     # 256 px, batch 8, two threads, on the CPU
python scripts/bench_corruption.py --device cuda --batch-size 64 --corrupt jpeg-5 mixture
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_args() -> argparse.Namespace:
    from corruption import TASKS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--corrupt",
        nargs="+",
        choices=TASKS,
        default=TASKS,
        metavar="TASK",
        help=f"among {', '.join(TASKS)} (all)",
    )
    parser.add_argument("--image-size", type=int, default=256, metavar="PX", help="side of the images (256)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images per call (8)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (2)")
    parser.add_argument("--repeats", type=int, default=30, metavar="N", help="timed calls per task (30)")
    parser.add_argument("--device", default="cpu", help="torch device (cpu)")
    return parser.parse_args()


def time_calls(call, repeats: int, synchronize) -> list[float]:
    """Seconds of each of `repeats` calls, ascending, after three unmeasured ones."""
    seconds = []
    for _ in range(repeats + 3):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[3:])


def main() -> None:
    opt = parse_args()
    import torch

    from corruption import create_corruption

    torch.set_num_threads(opt.threads)
    synchronize = torch.cuda.synchronize if torch.device(opt.device).type == "cuda" else lambda: None
    x = torch.rand(opt.batch_size, 3, opt.image_size, opt.image_size, device=opt.device) * 2 - 1
    print(f"{opt.image_size} px, batch {opt.batch_size}, {opt.device}, {opt.threads} CPU threads")
    print(f"{'task':24}{'build ms':>10}{'best ms/image':>16}{'median ms/image':>17}")
    for task in opt.corrupt:
        start = time.perf_counter()
        operator = create_corruption(task, opt.image_size, opt.device)
        built = (time.perf_counter() - start) * 1e3
        with torch.no_grad():
            seconds = time_calls(lambda op=operator: op(x), opt.repeats, synchronize)
        per_image = [s * 1e3 / opt.batch_size for s in (seconds[0], seconds[len(seconds) // 2])]
        print(f"{task:24}{built:10.1f}{per_image[0]:16.3f}{per_image[1]:17.3f}")


if __name__ == "__main__":
    main()
