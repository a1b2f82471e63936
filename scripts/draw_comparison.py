"""Draw degraded, baseline, restored and clean images side by side, labelled with PSNR; see --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.options import shared
from i2sb.options.parser import Parser, positive_int
from i2sb.runtime.script import run_script, say


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        "draw_comparison.py", "Draw evaluated samples beside the degraded and clean images and the baseline."
    )
    run = shared.add_run(parser, shared.OF_DEGRADED)
    shared.add_samples(run)
    run.add_argument("--out", type=Path, default=Path("comparison.png"), metavar="FILE", help="PNG to write")
    run.add_argument("--rows", type=positive_int, default=6, metavar="N", help="images shown, spread over the classes")
    run.add_argument("--tile", type=positive_int, default=192, metavar="PX", help="width of each image [pixels]")
    shared.add_data(parser)
    opt = shared.parse_samples(parser, argv)

    def work() -> int:
        from evaluation.compare import draw_comparison

        for name, gain in draw_comparison(opt, opt.out, rows=opt.rows, tile=opt.tile).items():
            say(f"{name}: {gain:+.2f} dB PSNR over the baseline")
        say(f"The picture: {opt.out}")
        return 0

    return run_script("draw_comparison.py", work, opt.debug)


if __name__ == "__main__":
    sys.exit(main())
