"""Names that the tests of sampling share."""

import torch

NAME, FOLDER = "sr4x-pool", "results/sr4x-pool/samples_nfe2"


def images(folder):
    """arr of a folder's recon.pt."""
    return torch.load(folder / "recon.pt", weights_only=True)["arr"]
