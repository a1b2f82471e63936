"""Names, paths and numbers as people type them, and what is said where they are wrong."""

from pathlib import Path

import pytest

from i2sb.options import parse_metrics_options, parse_sample_options, parse_train_options

# --- options alone


@pytest.mark.parametrize("typed", ["x", "x/", "results/x", "./results/x/", "results/x/latest.pt", "{cwd}/results/x"])
def test_a_checkpoint_may_be_given_by_its_path(typed):
    typed = typed.format(cwd=Path.cwd())
    assert parse_sample_options(["--ckpt", typed]).ckpt == "x"
    assert parse_train_options(["--corrupt", "jpeg-5", "--ckpt", typed]).ckpt == "x"
    typed = ["--ckpt", typed, "--sample-dir", "results/x/samples_nfe5/", "b", "results/x/samples_nfe2/recon.pt"]
    assert parse_metrics_options(typed).sample_dir == ["samples_nfe5", "b", "samples_nfe2"]


def test_samples_of_another_checkpoint(capsys):
    Path("results/y/samples_nfe5").mkdir(parents=True)
    with pytest.raises(SystemExit):
        parse_metrics_options(["--ckpt", "x", "--sample-dir", "results/y/samples_nfe5"])
    assert "--sample-dir results/y/samples_nfe5: lies not in results/x" in capsys.readouterr().err


def test_numbers_and_devices():
    opt = parse_train_options(["--corrupt", "jpeg-5", "--num-itr", "1e3", "--interval", "1E2", "--device", "cuda:0"])
    assert (opt.num_itr, opt.interval, opt.device) == (1000, 100, "cuda:0")
    assert type(opt.num_itr) is int


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--num-itr 1.5e0", "--num-itr: '1.5e0' is invalid: expected a whole number of at least 1"),
        ("--num-itr 1e-3", "--num-itr: '1e-3' is invalid: expected a whole number"),
        ("--device gpu", "--device: 'gpu' is invalid: expected one of auto, cuda, mps, cpu, cuda:INDEX"),
        ("--batchsize 4", "unrecognized arguments: --batchsize 4; did you mean --batch-size?"),
    ],
)
def test_what_is_wrong_says_what_would_be_right(typed, message, capsys):
    with pytest.raises(SystemExit):
        parse_train_options(["--corrupt", "jpeg-5", *typed.split()])
    assert message in capsys.readouterr().err
