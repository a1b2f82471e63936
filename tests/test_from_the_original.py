"""What scripts of the original import is here, as docs/from-the-original.md says."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from i2sb.util import space_indices, unsqueeze_xdim

TABLES = (Path(__file__).parents[1] / "docs/from-the-original.md").read_text()
SAME, MOVED = TABLES.split("## Commands")[0].split("## Names that moved")
HERE = r"`((?:i2sb|corruption|dataset|evaluation|guided_diffusion)(?:\.\w+)+)`"
ROWS = [row.split("|")[2] for row in MOVED.splitlines() if row.startswith("|")]
NAMES = re.findall(HERE, SAME) + re.findall(HERE, " ".join(ROWS))


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_name_what_is_there(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_util():
    assert space_indices(1000, 3) == [0, 500, 999]
    assert unsqueeze_xdim(torch.arange(4), (3, 8, 8)).shape == (4, 1, 1, 1)
    assert unsqueeze_xdim(torch.tensor(2.0), (3, 8)).shape == (1, 1)
