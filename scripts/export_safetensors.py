"""Export a checkpoint's averaged weights as safetensors, with a description as JSON and a model card.

sample.py and train.py take the resulting folder (results/NAME with ema.safetensors and ema.json) as --ckpt.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.options.parser import experiment
from i2sb.runtime.script import run_script, say


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = "the checkpoint is results/NAME/latest.pt"
    parser.add_argument("--ckpt", type=experiment, required=True, metavar="NAME", help=where)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: results/NAME)")
    half = "store the weights in float16: half the size, and pictures that differ by less than a grey level"
    parser.add_argument("--float16", action="store_true", help=half)
    args = parser.parse_args(argv)

    def work() -> int:
        import torch

        from i2sb.ckpt_util import RESULTS, build_ckpt_option
        from i2sb.export import export
        from i2sb.runner import Runner

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        opt = build_ckpt_option(argparse.Namespace(device="cpu"), None, RESULTS / args.ckpt)
        runner = Runner(opt, logging.getLogger("export"), save_opt=False)
        dtype = torch.float16 if args.float16 else torch.float32
        for path in export(runner, args.out or RESULTS / args.ckpt, dtype):
            say(path)
        return 0

    return run_script("export_safetensors.py", work)


if __name__ == "__main__":
    sys.exit(main())
