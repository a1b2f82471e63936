"""Errors of libraries that become one line; dead loaders and lost ranks are met for real in tests/training."""

import os
from argparse import Namespace

import pytest
import torch
from small_runs import photos, script, train_argv

from i2sb.errors import UserError
from i2sb.mishaps import explained
from i2sb.runtime.children import EndedElsewhere


def meet(error, **options):
    opt = Namespace(**{"device": "cuda:0", "num_workers": 4, "global_size": 1, "compile": False, **options})
    with explained(opt, smaller="--microbatch"):
        raise error


def test_a_full_gpu():
    with pytest.raises(UserError, match=r"^the memory of cuda:0 is full: lower --microbatch \(CUDA out of memory"):
        meet(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"))


def test_a_rank_that_is_gone():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:23761: Connection reset by peer")
    with pytest.raises(EndedElsewhere, match=r"^another rank has ended, or the way to it"):
        meet(lost, global_size=2)
    with pytest.raises(RuntimeError, match=r"^\[gloo"):  # alone it means something else
        meet(lost)


HANDED_ON = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent ...")


@pytest.mark.parametrize(
    "error", [ValueError("a fault of ours"), UserError("one line"), KeyboardInterrupt(), HANDED_ON], ids=repr
)
def test_all_else_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught:
        meet(error, global_size=2, compile=True)
    assert caught.value is error


@pytest.mark.slow
def test_no_compiler(tmp_path):
    argv = train_argv(photos(tmp_path / "photos"), "--num-itr", "1", "--compile")
    done = script("train", argv, tmp_path, env={**os.environ, "CXX": "/nonexistent/compiler"})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("train.py: error: --compile: torch cannot compile the network here")
    assert "Traceback" not in done.stderr
