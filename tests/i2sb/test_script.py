"""How scripts end: errors of libraries that become one line; dead loaders are met for real in tests/training."""

import os
from argparse import Namespace

import pytest
import torch
from small_runs import photos, script, train_argv

from i2sb.errors import EndedElsewhere, UserError
from i2sb.runtime.script import explained, run_script


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


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--lr -1: \x1b[31m"), 2, "x.py: error: --lr -1: ?[31m\n"),
        (EndedElsewhere("rank 0 has ended"), 1, "x.py: error: rank 0 has ended\n"),
        (KeyboardInterrupt(), 130, "x.py: interrupted\n"),
    ],
)
def test_one_line_and_a_code(capsys, error, code, line):
    def work():
        raise error

    assert run_script("x.py", work) == code
    assert capsys.readouterr().err == line


@pytest.mark.slow
def test_no_compiler(tmp_path):
    argv = train_argv(photos(tmp_path / "photos"), "--num-itr", "1", "--compile")
    done = script("train", argv, tmp_path, env={**os.environ, "CXX": "/nonexistent/compiler"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("train.py: error: --compile: torch cannot compile the network here")
    assert "Traceback" not in done.stderr
