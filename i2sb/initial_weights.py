"""Which weights a new training starts from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion import presets
from i2sb import addresses
from i2sb.errors import UserError, one_line
from i2sb.network import BridgeNet, network_file
from i2sb.runtime.reading import load_torch

FIRST, LAST = "input_blocks.0.0.weight", ("out.2.weight", "out.2.bias")


def load_initial(net: BridgeNet, named: bool, log: Any, data_dir: str | Path = "data") -> None:
    """Fill a new network: ADM's weights for ADM-256, fetched at first use; others stay random.

    Unless the options name a network (`named`), the original's bare state dict
    `256x256_diffusion_{uncond,cond}_fixedsigma.pt` in `data_dir` is taken instead if it is there.
    """
    path = network_file(net.cond, data_dir).with_suffix(".pt")
    if named or not path.is_file():
        if not is_adm_256(net.kwargs):
            log.info("[Net] random weights")
            return
        from i2sb.fetch import fetch

        path = fetch(addresses.ADM_WEIGHTS, data_dir, log)
    adapted = load_initial_weights(net, path)
    log.info(f"[Net] initial weights: {path}{adapted and f'; {adapted}'}")


def is_adm_256(kwargs: Mapping[str, Any]) -> bool:
    """Whether ADM's published weights for 256 px are of this network (first and last layer aside)."""
    ends = {"in_channels": 3, "out_channels": 3}
    mine, adm = (presets.canonical({**k, **ends}) for k in (kwargs, presets.PRESETS[presets.DEFAULT]))
    return mine == adm


def load_initial_weights(net: BridgeNet, path: str | Path) -> str:
    """Start from the weights of a diffusion model: ADM's published file, or any bare U-Net state dict.

    ADM also predicts variances: the first half of the output channels is kept. Of a network that sees the degraded
    image, the first half of the input channels takes ADM's kernel, the others stay as initialized.

    For images of other than three channels first and last convolution of an RGB network are adapted, see `_of_rgb`.

    Returns what was adapted, in one line; "" where nothing was.
    """
    state = load_torch(path)
    mine = net.diffusion_model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict of a U-Net")
    bare = bare_names(state)
    prefixed = "" if bare.keys() == state.keys() else "prefixes of its names left out"
    state, adapted = _adapted(bare, mine)
    load_weights(net.diffusion_model, state, path)
    return "; ".join(filter(None, (prefixed, adapted)))


def bare_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the U-Net's own names, without what DataParallel, torch.compile and `BridgeNet` put before them."""
    return {re.sub(r"\b(module|_orig_mod|diffusion_model)\.", "", str(name)): value for name, value in state.items()}


def load_weights(module: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Fill a module, strictly; weights of another network are a UserError."""
    try:
        # as a plain dict: torch would otherwise take the version of each layer from the file
        module.load_state_dict(dict(state), strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = one_line(str(error).partition(":\n")[2] or error, 160)
        raise UserError(f"{path}: its weights do not fit the network of the options: {reason}") from error


def _adapted(state: dict[str, Any], mine: Mapping[str, Tensor]) -> tuple[dict[str, Any], str]:
    """The weights for the network `mine`, and in one line how RGB became its channels; see `load_initial_weights`."""
    keys, adapted = (FIRST, *LAST), ""
    if any(key not in state or state[key].ndim != mine[key].ndim for key in keys):
        return state, ""  # of no network like ours: loading says which keys are missing or wrong
    first, *last = (state[key] for key in keys)
    channels, seen = len(mine[LAST[0]]), mine[FIRST].shape[1]
    own = channels == 3 or first.shape[1] == len(last[0]) == channels
    if not own and first.shape[1] in (3, 6) and len(last[0]) in (3, 6):
        # two halves where the file's network sees the degraded image, too
        halves = [_of_rgb(half.transpose(0, 1), channels, torch.sum) for half in first.split(3, dim=1)]
        first, last = torch.cat(halves).transpose(0, 1), [_of_rgb(x[:3], channels, torch.mean) for x in last]
        how = "grey takes their sum and their mean" if channels < 3 else "the others start from zero"
        adapted = f"first and last convolution, of RGB, adapted to {channels} channel{'s'[: channels - 1]} ({how})"
    elif len(last[0]) == 2 * channels:
        last = [x[:channels] for x in last]
    if 2 * first.shape[1] == seen:
        first = torch.cat([first.to(mine[FIRST]), mine[FIRST][:, first.shape[1] :]], dim=1)
    return {**state, **dict(zip(keys, (first, *last)))}, adapted


def _of_rgb(weights: Tensor, channels: int, to_grey: Callable) -> Tensor:
    """[3,..] of the channels R, G and B -> [channels,..]: grey of them, or themselves, and zeros for further ones.

    A grey image then gives what it gave as an RGB image of three equal channels: the first convolution takes the sum
    over its input channels, the last the mean over its output channels.
    """
    colours = to_grey(weights, dim=0, keepdim=True) if channels < 3 else weights
    return torch.cat([colours, weights.new_zeros(channels - len(colours), *weights.shape[1:])])
