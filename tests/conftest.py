"""Every test runs on one torch thread: two busy processes on two cores are several times slower otherwise."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_seed():
    """Each test starts from the same global generator, so that its order in the run does not matter."""
    torch.manual_seed(0)


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A copy of the module's `place` (a folder with data and results, made once) as the current folder."""
    shutil.copytree(place, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"
