"""Build an LMDB from a folder of images, or verify one.

An interrupted build resumes where it stopped when it is started again.

python scripts/build_lmdb.py /imagenet/train /dataset/train_faster_imagefolder.lmdb
python scripts/build_lmdb.py --verify /dataset/train_faster_imagefolder.lmdb
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.options.parser import Parser, non_negative_int, positive_int
from i2sb.runtime.script import run_script, say


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("build_lmdb.py", __doc__.splitlines()[0], "An interrupted build resumes where it stopped.")
    add = parser.add_argument
    add("images", type=Path, nargs="?", metavar="IMAGES", help="folder of images, in CLASS/ or without classes")
    add("lmdb", type=Path, metavar="NAME.lmdb", help="the LMDB; NAME.lmdb.pt goes beside it")
    about = "read and decode every image of an existing LMDB and list the bad ones (exit code 1 if any)"
    add("--verify", action="store_true", help=about)
    add("--threads", type=positive_int, default=8, metavar="N", help="files read at once")
    about = "leave out up to N damaged images"
    add("--skip-unreadable", type=non_negative_int, default=0, metavar="N", help=about)
    args = parser.parse_args(argv)
    if args.verify and args.images is not None:
        parser.error("--verify takes the LMDB alone")
    if not args.verify and args.images is None:
        parser.error("give the folder of images and the LMDB to build, or --verify and an LMDB")
    if args.lmdb.suffix != ".lmdb":
        parser.error(f"{args.lmdb}: the LMDB's name must end in .lmdb")
    return args


def build(args: argparse.Namespace) -> int:
    from dataset.build import build_lmdb, is_complete
    from dataset.index import how_to_rebuild

    was_there = is_complete(args.lmdb)
    index = build_lmdb(
        args.images, args.lmdb, threads=args.threads, log=logging.getLogger(), skip_unreadable=args.skip_unreadable
    )
    state = "is complete"
    if was_there:
        state = f"was there already; to rebuild it: {how_to_rebuild(args.images, args.lmdb)}"
    say(f"{args.lmdb}: {len(index.samples)} images of {len(index.classes)} classes; it {state}")
    return 0


def verify(args: argparse.Namespace) -> int:
    from dataset.build import verify_lmdb
    from i2sb.errors import printable

    count, bad = verify_lmdb(args.lmdb, threads=args.threads)
    for path, reason in bad:
        say(f"{printable(path)}: {printable(reason)}")
    say(f"{args.lmdb}: {count} images read, {len(bad)} faults")
    return 1 if bad else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.simplefilter("ignore")  # about odd metadata of images
    return run_script("build_lmdb.py", lambda: verify(args) if args.verify else build(args))


if __name__ == "__main__":
    sys.exit(main())
