"""Restore and evaluate with several numbers of network calls: quality against cost; see --help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import compute_metrices
import sample
from evaluation.metrics import METRICS
from i2sb.config import size_text
from i2sb.options import metrics, parse_metrics_options, parse_sample_options
from i2sb.options.parser import Parser, positive_int
from i2sb.options.shared import SAMPLERS
from i2sb.runtime.script import run_script

DESCRIPTION = "Run sample.py and compute_metrices.py for several NFE and samplers, and draw quality against cost."
EPILOG = (
    "All other flags are sample.py's, such as --ckpt NAME (required), --dataset-dir and --batch-size. Writes "
    "results/NAME/sweep.csv and sweep.png after each NFE. After an interruption, the same command resumes."
)
# Flags of sample.py that mean the same to compute_metrices.py.
OF_BOTH = ("ckpt", "dataset_dir", "val_list", "num_workers", "seed", "device", "image_size", "gpu")
OF_BOTH += ("val_split", "source", "target", "pair_layout", "corruption_file", "skip_unreadable")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("sweep_nfe.py", DESCRIPTION, EPILOG)
    parser.allow_abbrev = False  # what is not ours must reach sample.py as it is
    parser.add_argument("--nfe", type=positive_int, nargs="+", required=True, metavar="NFE", help="such as 1 2 5 10 20")
    parser.add_argument("--sampler", nargs="+", choices=tuple(SAMPLERS), default=["ddpm"], help="a curve for each")
    parser.add_argument("--eta", metavar="ETA", help="of dbim")
    as_there = "as for compute_metrices.py"
    defaults = list(metrics.DEFAULT_METRICS)
    parser.add_argument("--metrics", nargs="+", choices=tuple(METRICS), default=defaults, help=as_there)
    parser.add_argument("--mode", choices=metrics.MODES, default="legacy_pytorch", help=as_there)
    parser.add_argument("--fid-ref", metavar="FILE|DATASET", help=as_there)
    parser.add_argument("--judge-again", action="store_true", help="evaluate again what has been evaluated already")
    opt, passed_on = parser.parse_known_args(argv)
    argvs = []
    for sampler in dict.fromkeys(opt.sampler):
        eta = ["--eta", opt.eta] if opt.eta and sampler == "dbim" else []
        argvs += [[*passed_on, "--nfe", str(n), "--sampler", sampler, *eta] for n in dict.fromkeys(opt.nfe)]
    runs = [parse_sample_options(each) for each in argvs]  # all are checked before the first works
    first = runs[0]
    if first.partition:
        parser.error("--partition: a sweep evaluates whole sets; give the parts to sample.py, then sweep without")

    def work() -> int:
        from evaluation.sweep import write_sweep
        from i2sb.recon import sample_folder

        done = []
        for each, run in zip(argvs, runs):
            folder = sample_folder(run.ckpt, run.nfe, run)
            if code := sample.main(each) or _judge(opt, run, folder):
                return code
            done.append(folder)
            write_sweep(done, folder.parent)
        return 0

    return run_script("sweep_nfe.py", work, first.debug)


def _judge(opt: argparse.Namespace, run: argparse.Namespace, folder: Path) -> int:
    """compute_metrices.py on one folder, unless its metrics.json says the same already."""
    from evaluation.sweep import is_judged

    argv = ["--sample-dir", folder.name, "--mode", opt.mode, "--metrics", *opt.metrics]
    argv += ["--fid-ref", opt.fid_ref] if opt.fid_ref else []
    for name in OF_BOTH:
        if name in run.given:
            argv += [f"--{name.replace('_', '-')}", size_text(getattr(run, name))]
    if not opt.judge_again and is_judged(folder, parse_metrics_options(argv, METRICS)):
        print(f"{folder}: is evaluated already; --judge-again does it again", file=sys.stderr)
        return 0
    return compute_metrices.main(argv)


if __name__ == "__main__":
    sys.exit(main())
