"""Where there is no GPU, one line says so in place of each test's own."""

import os

import pytest
import torch


def pytest_collection_modifyitems(items):
    ours = [item for item in items if item.get_closest_marker("gpu")]
    if ours and not (
        torch.cuda.is_available() or torch.backends.mps.is_available() or "I2SB_TEST_DEVICE" in os.environ
    ):
        ours[0].add_marker(pytest.mark.skip(reason=f"there is no GPU here, for {len(ours)} tests"))
        items[:] = [item for item in items if item not in ours[1:]]
