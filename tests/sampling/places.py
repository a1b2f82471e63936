"""Names and states that the tests of sampling share."""

import numpy as np
import pytest
import torch
from small_runs import sample_argv

import sample
from i2sb.errors import UserError
from i2sb.recon import _ROW, ReconStore

NAME, FOLDER = "sr4x-pool", "results/sr4x-pool/samples_nfe2"


def images(folder):
    """arr of a folder's recon.pt."""
    return torch.load(folder / "recon.pt", weights_only=True)["arr"]


def restore(here, *flags):
    """Run sample.py to its end; returns its folder for NFE 2."""
    assert sample.main(sample_argv(here / "photos", NAME, *flags)) == 0
    return here / FOLDER


def interrupt(here, *flags, lost=()):
    """A run that ended before recon.pt was written, without the batches of four at the positions `lost`."""

    def fail(store):
        raise UserError("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReconStore, "finish", fail)
        assert sample.main(sample_argv(here / "photos", NAME, *flags)) == 2
    for path in (here / FOLDER / ".recon.parts").glob("rows.*"):
        rows = np.fromfile(path, _ROW)
        rows[~np.isin(rows["number"] // 4, lost)].tofile(path)


def refusal(capsys, script, argv):
    """The one line with which a script refuses."""
    capsys.readouterr()
    assert script.main(argv) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ".py: error: " in last, last
    return last
