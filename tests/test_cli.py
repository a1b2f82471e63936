"""The command lines: names and defaults are frozen, --help is quick, wrong values are one line; how scripts end."""

import importlib
import os
import re
import resource
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from small_runs import ROOT, photos, script, train_argv

import compute_metrices
import compute_metrics
from i2sb.errors import EndedElsewhere, UserError
from i2sb.options import parse_metrics_options, parse_sample_options, parse_train_options
from i2sb.runtime.script import explained, run_script

LAUNCH = {"n_gpu_per_node": 1, "master_address": "localhost", "num_proc_node": 1}
TRAIN = {
    **LAUNCH,
    "seed": 0, "name": "jpeg-5", "ckpt": None, "gpu": None, "image_size": 256, "corrupt": "jpeg-5",
    "t0": 1e-4, "T": 1.0, "interval": 1000, "beta_max": 0.3, "ot_ode": False, "clip_denoise": False,
    "cond_x1": False, "add_x1_noise": False, "batch_size": 256, "microbatch": 2, "num_itr": 1_000_000,
    "lr": 5e-5, "lr_gamma": 0.99, "lr_step": 1000, "l2_norm": 0.0, "ema": 0.99, "dataset_dir": Path("/dataset"),
    "log_dir": Path(".log"), "log_writer": None, "wandb_api_key": None, "wandb_user": None,
}  # fmt: skip
SAMPLE = {
    **LAUNCH,
    "seed": 0, "image_size": 256, "dataset_dir": Path("/dataset"), "partition": None, "batch_size": 32,
    "ckpt": "x", "nfe": None, "clip_denoise": False, "use_fp16": False,
}  # fmt: skip
METRICS = {
    "seed": 0, "gpu": None, "ckpt": "x", "mode": "legacy_pytorch", "dataset_dir": Path("/dataset"),
    "sample_dir": ["y"], "image_size": 256,
}  # fmt: skip


HABITS = "--corrupt jpeg-5 --weight-decay 0.1 --nnodes 2 --nproc-per-node 4"
EMPTY = "--corrupt jpeg-5 --node-rank --master-address h"  # `--node-rank $NODE_RANK`, unset: the launcher knows
NUMBERS = "--corrupt jpeg-5 --num-itr 1e3 --interval 1E2 --device cuda:0"


@pytest.mark.parametrize(
    ("parse", "argv", "expected"),
    [
        (parse_train_options, "--corrupt jpeg-5", TRAIN),
        (parse_sample_options, "--ckpt x", SAMPLE),
        (parse_metrics_options, "--ckpt x --sample-dir y", METRICS),
        (parse_train_options, HABITS, {"l2_norm": 0.1, "num_proc_node": 2, "n_gpu_per_node": 4}),
        (parse_sample_options, "--ckpt x --num-inference-steps 7", {"nfe": 7}),
        (parse_train_options, EMPTY, {"node_rank": None, "master_address": "h"}),
        (parse_train_options, NUMBERS, {"num_itr": 1000, "interval": 100, "device": "cuda:0"}),
    ],
)
def test_names_defaults_and_values(parse, argv, expected):
    options = vars(parse(argv.split()))
    assert {key: options[key] for key in expected} == expected
    assert {key: type(options[key]) for key in expected} == {key: type(value) for key, value in expected.items()}


def test_every_published_train_flag_is_taken():
    argv = shlex.split(
        "--seed 1 --name n --ckpt c --gpu 0 --n-gpu-per-node 2 --master-address h --node-rank 1 --num-proc-node 2 "
        "--image-size 64 --corrupt blur-uni --t0 1e-3 --T 0.5 --interval 100 --beta-max 1.0 --ot-ode --clip-denoise "
        "--cond-x1 --add-x1-noise --batch-size 8 --microbatch 2 --num-itr 5 --lr 1e-4 --lr-gamma 1 --lr-step 10 "
        "--l2-norm 0.1 --ema 0.9 --dataset-dir d --log-dir l --log-writer wandb --wandb-api-key k --wandb-user u"
    )
    opt = parse_train_options(argv)
    assert (opt.name, opt.ckpt, opt.node_rank, opt.interval, opt.wandb_user) == ("n", "c", 1, 100, "u")
    assert {"seed", "lr", "ot_ode", "wandb_api_key"} <= set(opt.given)
    assert "device" not in opt.given


def test_the_other_name_of_compute_metrices():
    assert compute_metrics.main is compute_metrices.main


@pytest.mark.parametrize("script", ["train", "sample", "compute_metrices"])
def test_help_is_grouped_complete_and_quick(script):
    code = f"import sys, {script}\ntry: {script}.main(['--help'])\n"
    code += "except SystemExit: print({'torch', 'numpy'} & {*sys.modules})"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert text.strip().endswith("set()")  # neither: that is what keeps it quick
    assert text.index("basic:") < text.index("options:") < text.index("run:")
    assert "data:" in text
    package = {"train": "training", "sample": "sampling", "compute_metrices": "metrics"}[script]
    parser = importlib.import_module(f"i2sb.options.{package}").build_parser()
    for action in parser._actions:
        assert len((action.help or "").split()) >= 3, f"{action.option_strings} is not explained"
        assert action.option_strings[-1] in text


WRONG = [
    ("train", "", "--corrupt"),
    ("train", "--corrupt jpeg", "argument --corrupt: unknown task 'jpeg': did you mean jpeg-5. Choose one of: .*"),
    ("train", "--corrupt sr5x-pool", "argument --corrupt: 'sr5x-pool': SCALE must be one of 2|3|4|8"),
    ("train", "--corrupt jpeg-5 --corruption-file no.py", "argument --corruption-file: .*no.py: cannot be read"),
    ("train", "--corrupt jpeg-5 --lr -1", "argument --lr: '-1' is invalid: expected a number above 0"),
    ("train", "--corrupt jpeg-5 --lr nan", "argument --lr: 'nan' is invalid"),
    ("train", "--corrupt jpeg-5 --interval 7", "--interval: '7' is invalid: expected an even whole number"),
    ("train", "--corrupt jpeg-5 --image-size 64,0", "--image-size: '64,0' is invalid: expected whole numbers"),
    ("train", "--corrupt jpeg-5 --image-size 64x48", "--image-size: '64x48' is invalid: expected whole numbers"),
    ("train", "--corrupt jpeg-5 --image-size 64,48", "--image-size 64,48: .* takes multiples of 32"),
    ("train", "--corrupt jpeg-5 --image-size 48", "--image-size 48: this network halves images 5 times"),
    ("train", "--corrupt jpeg-5 --ema 1.5", "--ema: '1.5' is invalid: expected a number from 0 to 1"),
    ("train", "--corrupt jpeg-5 --net huge", "--net: invalid choice: 'huge' .*adm-256"),
    ("train", "--corrupt jpeg-5 --net tiny --num-channels 33", "--net tiny: .*33"),
    ("train", "--corrupt jpeg-5 --t0 2", "--t0 2: must be below --T 1"),
    ("train", "--corrupt jpeg-5 --num-itr 1.5e0", "'1.5e0' is invalid: expected a whole number of at least 1"),
    ("train", "--corrupt jpeg-5 --num-itr 1e-3", "--num-itr: '1e-3' is invalid: expected a whole number"),
    ("train", "--corrupt jpeg-5 --device gpu", "'gpu' is invalid: expected one of auto, cuda, mps, cpu, cuda:INDEX"),
    ("train", "--corrupt jpeg-5 --batchsize 4", "unrecognized arguments: --batchsize 4; did you mean --batch-size?"),
    ("train", "--corrupt jpeg-5 --distill cbt", "--distill cbt: starts from trained weights; give --init-from NAME"),
    ("train", "--corrupt jpeg-5 --ema 0.9 --ema-halflife-images 9", "images 9 is given in its place; give one"),
    ("compute_metrices", "--input a --report", "--report: does not go with --input"),
    ("train", "--corrupt jpeg-5 --eval-nfe 1000", "--eval-nfe 1000: must lie in 1..999"),
    ("train", "--corrupt jpeg-5 --keep-best psnr --eval-every 0", "--keep-best psnr: needs evaluations"),
    ("train", "--corrupt jpeg-5 --name ../x", "--name: '../x' is invalid"),
    ("sample", "--ckpt x --partition 4_4", "--partition: '4_4' is invalid: expected I_N"),
    ("sample", "--ckpt x --nfe 0", "--nfe/--num-inference-steps: '0' is invalid: expected a whole number"),
    ("sample", "--ckpt x --use-fp16 --precision bf16", "--use-fp16 and --precision bf16 contradict each other"),
    ("sample", "--ckpt missing", "--ckpt missing: there is no folder results/missing here"),
    ("train", "--corrupt jpeg-5 --init-from missing", "--init-from missing: there is no folder results/missing here"),
    ("train", "--corrupt jpeg-5 --init-from a --ckpt b", "--init-from a: contradicts --ckpt b, which resumes"),
    ("train", "--corrupt jpeg-5 --ckpt missing", "--ckpt missing: there is no folder results/missing here"),
    ("compute_metrices", "--ckpt x --sample-dir y --mode best", "--mode: invalid choice: 'best' .*legacy_pytorch"),
    ("compute_metrices", "--ckpt x --sample-dir y --metrics psnr nice", "--metrics: invalid choice: 'nice'"),
]


@pytest.mark.parametrize(("script", "argv", "message"), WRONG)
def test_a_wrong_value_is_one_line(script, argv, message, tmp_path, capsys):
    module = __import__(script)
    try:
        code = module.main(["--device", "cpu", *argv.split()])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert error.startswith(f"{script}.py: error: ")
    assert not list(tmp_path.iterdir())


# --- how scripts end


def meet(error, **options):
    opt = Namespace(**{"device": "cuda:0", "num_workers": 4, "compile": False, **options})
    with explained(opt, smaller="--microbatch"):
        raise error


def test_a_full_gpu():
    with pytest.raises(UserError, match=r"^cuda:0 is out of memory: lower --microbatch \(CUDA out of memory"):
        meet(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"))


HANDED_ON = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent ...")


@pytest.mark.parametrize("error", [ValueError("a bug"), UserError("a line"), KeyboardInterrupt(), HANDED_ON], ids=repr)
def test_all_else_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught:
        meet(error, compile=True)
    assert caught.value is error


NO_MEMORY = "x.py: error: no memory is left, or `ulimit -v` grants no more: "
NO_FOLDER = "x.py: error: no folder for temporary files can be written to; TMPDIR names another\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--lr -1: \x1b[31m"), 2, "x.py: error: --lr -1: ?[31m\n"),
        (EndedElsewhere("rank 0 has ended"), 1, "x.py: error: rank 0 has ended\n"),
        (KeyboardInterrupt(), 130, "x.py: interrupted\n"),
        (MemoryError(), 2, f"{NO_MEMORY}MemoryError\n"),
        (RuntimeError("can't start new thread"), 2, f"{NO_MEMORY}can't start new thread\n"),
        (RuntimeError("could not create a primitive"), 2, f"{NO_MEMORY}could not create a primitive\n"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 2, NO_FOLDER),
    ],
)
def test_one_line_and_a_code(capsys, error, code, line):
    def work():
        raise error

    assert run_script("x.py", work) == code
    assert capsys.readouterr().err == line


@pytest.mark.skipif(sys.platform != "linux", reason="the words of Linux's loader of libraries")
def test_too_little_memory_for_the_libraries(tmp_path):
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (600 << 20,) * 2)}
    done = script("train", train_argv(tmp_path), tmp_path, **limit)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(NO_MEMORY.replace("x.py", "train.py"))


@pytest.mark.slow
def test_no_compiler(tmp_path):
    argv = train_argv(photos(tmp_path / "photos"), "--num-itr", "1", "--compile")
    done = script("train", argv, tmp_path, env={**os.environ, "CXX": "/nonexistent/compiler"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("train.py: error: --compile: torch cannot compile the network here")
    assert "Traceback" not in done.stderr
