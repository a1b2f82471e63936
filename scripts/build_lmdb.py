"""Build an LMDB from a folder of images, or verify one.

An interrupted build resumes where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

EXAMPLES = """examples:
  python scripts/build_lmdb.py /imagenet/train /dataset/train_faster_imagefolder.lmdb
  python scripts/build_lmdb.py --verify /dataset/train_faster_imagefolder.lmdb
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "images", type=Path, nargs="?", metavar="IMAGES", help="folder with images in CLASS/"
    )
    parser.add_argument("lmdb", type=Path, metavar="NAME.lmdb", help="the LMDB; NAME.lmdb.pt goes beside it")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read and decode every image of an existing LMDB and list the bad ones (exit code 1 if any)",
    )
    parser.add_argument("--threads", type=int, default=8, help="files read at once (default: 8)")
    parser.add_argument(
        "--skip-unreadable", type=int, default=0, metavar="N", help="leave out up to N damaged images (default: 0)"
    )
    args = parser.parse_args(argv)
    if args.threads < 1:
        parser.error(f"--threads {args.threads}: must be 1 or more")
    if args.skip_unreadable < 0:
        parser.error(f"--skip-unreadable {args.skip_unreadable}: must be 0 or more")
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
        args.images,
        args.lmdb,
        threads=args.threads,
        log=logging.getLogger(),
        skip_unreadable=args.skip_unreadable,
    )
    state = "is complete"
    if was_there:
        state = f"was there already; to rebuild it: {how_to_rebuild(args.images, args.lmdb)}"
    print(f"{args.lmdb}: {len(index.samples)} images of {len(index.classes)} classes; it {state}")
    return 0


def verify(args: argparse.Namespace) -> int:
    from dataset.verify import verify_lmdb
    from i2sb.errors import printable

    count, bad = verify_lmdb(args.lmdb, threads=args.threads)
    for path, reason in bad:
        print(f"{printable(path)}: {printable(reason)}")
    print(f"{args.lmdb}: {count} images read, {len(bad)} faults")
    return 1 if bad else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from i2sb.errors import UserError, printable

    for stream in (sys.stdout, sys.stderr):  # paths may hold what the terminal cannot show
        stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata of images is none of our business
            return verify(args) if args.verify else build(args)
    except UserError as error:
        print(f"build_lmdb.py: error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("build_lmdb.py: interrupted; the same command resumes from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
