"""Every test runs on one torch thread: two busy processes on two cores are several times slower otherwise."""

import os
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("WANDB_SILENT", "true")
if "I2SB_TEST_STATE" not in os.environ:  # not the user's own; child processes share it
    os.environ["XDG_STATE_HOME"] = os.environ["I2SB_TEST_STATE"] = tempfile.mkdtemp(prefix="i2sb-state-")

import pytest
import torch
from warm import server_fixture, warm_fixture  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_seed_and_folder(tmp_path, monkeypatch):
    """Each test starts in an empty folder and from the same generator: their order does not matter."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A copy of the module's `place` (a folder with data and results, made once) as the current folder."""
    shutil.copytree(place, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"
