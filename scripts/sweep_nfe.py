"""Restore and judge with several numbers of network calls: quality against cost; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import compute_metrices
import sample
from i2sb.options import judging, parse_metrics_options, parse_sample_options
from i2sb.options.parser import Parser, positive_int
from i2sb.runtime.script import run_script

DESCRIPTION = "Run sample.py and compute_metrices.py for several NFE, and draw quality against cost."
EPILOG = (
    "All other flags are sample.py's, such as --ckpt NAME (required), --dataset-dir and --batch-size. Writes "
    "results/NAME/sweep.csv and sweep.png after each NFE. The same command goes on where it was interrupted."
)
# Flags of sample.py that mean the same to compute_metrices.py.
_OF_BOTH = ("ckpt", "dataset_dir", "val_list", "num_workers", "seed", "device", "image_size", "gpu")


def build_parser() -> Parser:
    parser = Parser("sweep_nfe.py", DESCRIPTION, EPILOG)
    parser.allow_abbrev = False  # what is not ours must reach sample.py as it is
    parser.add_argument("--nfe", type=positive_int, nargs="+", required=True, metavar="NFE", help="such as 1 2 5 10 20")
    defaults = list(judging.DEFAULT_METRICS)
    parser.add_argument(
        "--metrics", nargs="+", choices=judging.METRICS, default=defaults, help="as for compute_metrices.py"
    )
    parser.add_argument("--mode", choices=judging.MODES, default="legacy_pytorch", help="as for compute_metrices.py")
    parser.add_argument("--fid-ref", metavar="FILE|DATASET", help="as for compute_metrices.py")
    parser.add_argument("--judge-again", action="store_true", help="judge also what has been judged already")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    opt, passed_on = build_parser().parse_known_args(argv)
    runs = {nfe: [*passed_on, "--nfe", str(nfe)] for nfe in dict.fromkeys(opt.nfe)}
    parsed = {nfe: parse_sample_options(run) for nfe, run in runs.items()}  # all are checked before the first works
    first = next(iter(parsed.values()))
    if first.partition:
        build_parser().error("--partition: a sweep judges whole sets; give the parts to sample.py, then sweep without")

    def work() -> int:
        for nfe, run in runs.items():
            if code := sample.main(run):
                return code
            if code := _judge(opt, parsed[nfe]):
                return code
            _write(first, list(parsed.values()))
        return 0

    return run_script("sweep_nfe.py", work, first.debug)


def _judge(opt: argparse.Namespace, run: argparse.Namespace) -> int:
    """compute_metrices.py on one folder, unless its metrics.json says the same already."""
    from wiring.sweeping import is_judged

    folder = _folder(run)
    argv = ["--sample-dir", folder.name, "--mode", opt.mode, "--metrics", *opt.metrics]
    argv += ["--fid-ref", opt.fid_ref] if opt.fid_ref else []
    for name in _OF_BOTH:
        if name in run.given:
            argv += [f"--{name.replace('_', '-')}", str(getattr(run, name))]
    wanted = parse_metrics_options(argv)
    if not opt.judge_again and is_judged(folder, wanted):
        print(f"{folder}: is judged already; --judge-again judges again", file=sys.stderr)
        return 0
    return compute_metrices.main(argv)


def _folder(run: argparse.Namespace) -> Path:
    from i2sb.ckpt_util import RESULTS
    from i2sb.recon import sample_folder

    return sample_folder(run.ckpt, run.nfe, run.clip_denoise, RESULTS)


def _write(first: argparse.Namespace, runs: list[argparse.Namespace]) -> None:
    from wiring.sweeping import write_sweep

    done = [folder for folder in map(_folder, runs) if (folder / "metrics.json").is_file()]
    write_sweep(done, _folder(first).parent)


if __name__ == "__main__":
    sys.exit(main())
