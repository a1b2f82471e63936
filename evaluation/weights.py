"""Files that other people publish (network weights, reference statistics): found, fetched, or asked for."""

from pathlib import Path

from i2sb.errors import UserError

TIMEOUT = 10.0  # seconds of silence; without network the other metrics must not wait for long


class WeightsUnavailable(RuntimeError):
    """A published file is neither here nor to be had, or is broken.

    The message is one line with the reason, the address, and where to put the file by hand.
    """


def fetch(url: str, path: Path, what: str) -> Path:
    """`path` if it exists, else the file from `url` put there (whole or not at all).

    what: a few words for messages, such as "ResNet-50 weights".  Raises WeightsUnavailable.
    """
    from i2sb.runtime.download import download

    path = Path(path).absolute()
    try:
        return download(url, path, what=what, timeout=TIMEOUT, retries=1, backoff=0.5)
    except UserError as error:
        raise WeightsUnavailable(str(error)) from error


def torch_hub_path(url: str) -> Path:
    """Where torch.hub (so torchvision and clean-fid too) keeps this file; follows TORCH_HOME."""
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def read_state_dict(path: Path, url: str, what: str) -> dict:
    """A plain state dict, loaded without running any pickled code.  Raises WeightsUnavailable if it is none."""
    from i2sb.runtime.safe_torch import load_torch

    try:
        state = load_torch(path)
    except UserError as error:
        raise broken(path, url, what, error) from error
    if not isinstance(state, dict):
        raise broken(path, url, what, TypeError(f"it holds a {type(state).__name__}"))
    return dict(state)  # without _metadata, which may be anything


def broken(path: Path, url: str, what: str, error: Exception) -> WeightsUnavailable:
    """The exception for a file that is here and unusable."""
    # torch's messages go on over many lines, one for each key
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return WeightsUnavailable(
        f"{what} at {path} cannot be used ({reason}): remove it, or replace it by {url}"
    )
