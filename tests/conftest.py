"""Every test runs on one torch thread: two busy processes on two cores are several times slower otherwise."""

import os

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
