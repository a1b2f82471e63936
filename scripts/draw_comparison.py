"""Draw degraded, restored and clean images side by side, labelled with PSNR."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, metavar="NAME", help="the samples are in results/NAME/")
    parser.add_argument(
        "--sample-dir", nargs="+", required=True, metavar="DIR", help="a column for each of these folders"
    )
    parser.add_argument("--dataset-dir", type=Path, default=Path("/dataset"), metavar="DIR", help="the data set")
    parser.add_argument("--val-list", type=Path, metavar="FILE", help="as given to sample.py")
    parser.add_argument("--image-size", type=int, metavar="PX", help="as given to sample.py, else the checkpoint's")
    parser.add_argument("--out", type=Path, default=Path("comparison.png"), metavar="FILE", help="PNG to write")
    parser.add_argument("--rows", type=int, default=6, help="images shown")
    parser.add_argument("--tile", type=int, default=192, help="side of each image in the picture [pixels]")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    args.device = "cpu"

    def work() -> int:
        from wiring.comparison import draw_comparison

        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        gains = draw_comparison(
            args, args.sample_dir, args.out, logging.getLogger("compare"), rows=args.rows, tile=args.tile
        )
        for name, gain in gains.items():
            print(f"{name}: {gain:+.2f} dB PSNR over the degraded images")
        print(f"The picture: {args.out}")
        return 0

    from i2sb.runtime.script import run_script

    return run_script("draw_comparison.py", work)


if __name__ == "__main__":
    sys.exit(main())
