"""Restore photographs that the program degrades first, and draw baseline, restored and clean side by side; see --help.

Without --input the photographs in examples/, without --ckpt the demo models in turn: no training, nothing is fetched.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.options.parser import Parser, experiment, path, positive_int
from i2sb.runtime.script import run_script

EXAMPLES = Path(__file__).resolve().parents[1] / "examples/photographs"


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("restore_examples.py", __doc__.splitlines()[0].removesuffix("; see --help."))
    add = parser.add_argument
    add("--input", type=path, default=EXAMPLES, metavar="DIR", help="clean photographs (default: the examples)")
    models = "results/NAME or demo models, all for each photograph (default: one demo model each, in turn)"
    add("--ckpt", type=experiment, nargs="+", metavar="NAME", help=models)
    add("--nfe", type=positive_int, nargs="+", default=[1, 5], metavar="NFE", help="network calls (default: 1 5)")
    add("--tile", type=positive_int, metavar="PX", help="as for sample.py")
    add("--seed", type=int, default=0, help="of all noise")
    add("--out", type=path, default=Path("examples.png"), metavar="FILE", help="the picture (default: examples.png)")
    add("--width", type=positive_int, default=300, metavar="PX", help="of each photograph in it (default: 300)")
    add("--debug", action="store_true", help="errors with their traceback")
    opt = parser.parse_args(argv)

    def work() -> int:
        from evaluation.examples import restore_examples

        restore_examples(opt)
        return 0

    return run_script("restore_examples.py", work, opt.debug)


if __name__ == "__main__":
    sys.exit(main())
