"""Write report.html, one self-contained page, from samples that compute_metrices.py has evaluated; see --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.options import shared
from i2sb.options.parser import Parser, non_negative_int
from i2sb.runtime.script import run_script, say


def main(argv: Sequence[str] | None = None) -> int:
    epilog = "compute_metrices.py --report does the same at the end of its work."
    parser = Parser("report.py", "Write report.html, one self-contained page, beside evaluated samples.", epilog)
    run = shared.add_run(parser, shared.OF_DEGRADED)
    shared.add_samples(run)
    run.add_argument(
        "--num-images", type=non_negative_int, default=12, metavar="N", help="images shown, spread over the classes"
    )
    shared.add_data(parser)
    opt = shared.parse_samples(parser, argv)

    def work() -> int:
        from evaluation.report import write_reports

        for path in write_reports(opt, num_gallery=opt.num_images):
            say(path)
        return 0

    return run_script("report.py", work, opt.debug)


if __name__ == "__main__":
    sys.exit(main())
