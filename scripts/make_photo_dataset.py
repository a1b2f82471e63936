"""Make a small data set of photographs that come with scikit-image and scikit-learn; nothing is fetched."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.runtime.script import run_script


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the new data set")
    add("--size", type=int, default=64, help="side of the crops [pixels]")
    add("--val-size", type=int, default=argparse.SUPPRESS, help="side of the validation crops (default: --size)")
    add("--num-train", type=int, default=3000, help="training crops in all")
    add("--num-val", type=int, default=12, help="validation crops per held-out photograph")
    pairs = "pairs for --corrupt paired: grey images (trainA, valA) and their colours (trainB, valB)"
    add("--pairs", choices=("grey",), default=argparse.SUPPRESS, help=pairs)
    options = vars(parser.parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def work() -> int:
        from dataset.bundled import build_bundled_photos

        build_bundled_photos(options.pop("out"), logging.getLogger(), **options)
        return 0

    return run_script("make_photo_dataset.py", work)


if __name__ == "__main__":
    sys.exit(main())
