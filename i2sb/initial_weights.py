"""Which weights a new training starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

    First and last convolution are adapted, see `_adapted`.  Returns how, in one line; "" where nothing was.
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


def load_fitting(net: BridgeNet, loaded: Mapping[str, Any], path: str | Path) -> str:
    """Start from what fits by name and shape of another bridge's averaged weights (`loaded`: of `load_checkpoint`).

    First and last convolution are adapted, see `_adapted`.  Returns in one line how, and which layers stay random.

    Raises:
        UserError: nothing fits.
    """
    state, mine = bare_names(loaded["net"]), net.diffusion_model.state_dict()
    if loaded["ema"] is not None:
        state = dict(zip(state, loaded["ema"]["shadow_params"]))
    state, adapted = _adapted(state, mine)
    fitting = {name: value for name, value in state.items() if name in mine and value.shape == mine[name].shape}
    if not any(value.ndim > 1 for value in fitting.values()):  # a bias alone is no start
        raise UserError(f"--init-from: nothing of {path} fits the network of the options, see --net and --num-channels")
    net.diffusion_model.load_state_dict(fitting, strict=False)
    layers = dict.fromkeys(name.rpartition(".")[0] for name in mine if name not in fitting)
    random = f"of {len(mine)} tensors {len(mine) - len(fitting)} stay random: {', '.join(layers)}" if layers else ""
    return "; ".join(filter(None, (adapted, random)))


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
    """The weights for the network `mine`, where first and last convolution differ in channels alone; how, in one line.

    Twice as many output as input channels (ADM's) hold variances, too: only the means are kept.  Twice as many input
    channels are those of a network that sees the degraded image: the second half of ours takes theirs, else it stays as
    initialized.  On images of other channels see `_of_channels`.
    """
    keys = (FIRST, *LAST)
    if any(_beside_channels(key, state.get(key)) != _beside_channels(key, mine[key]) for key in keys):
        return state, ""  # of no network like ours: loading says which keys are missing or wrong
    first, *last = (state[key] for key in keys)
    theirs, ours = min(first.shape[1], len(last[0])), len(mine[LAST[0]])
    halves = first.transpose(0, 1).split(theirs)
    first = torch.cat([_of_channels(half, ours, summed=True) for half in halves]).transpose(0, 1)
    first = torch.cat([first.to(mine[FIRST]), mine[FIRST][:, first.shape[1] :]], dim=1)[:, : mine[FIRST].shape[1]]
    last = [_of_channels(weights[:theirs], ours, summed=False) for weights in last]
    before = "RGB" if theirs == 3 else f"{theirs} channel{'s'[: theirs - 1]}"
    adapted = f"first and last convolution, of {before}, adapted to {ours} channel{'s'[: ours - 1]}"
    return {**state, **dict(zip(keys, (first, *last)))}, adapted if ours != theirs else ""


def _beside_channels(key: str, weights: Tensor | None) -> tuple[int, ...] | None:
    """The shape of a tensor of the first or last convolution without the images' channels; None: there is none."""
    dim = int(key == FIRST)
    return None if weights is None or not weights.numel() else (*weights.shape[:dim], *weights.shape[dim + 1 :])


def _of_channels(weights: Tensor, channels: int, summed: bool) -> Tensor:
    """[n,..] of the channels of an image -> [channels,..]; one or two are grey (and alpha), others begin with RGB.

    A grey image then gives what it gives as an RGB image of three equal channels: the first convolution is `summed`
    over its input channels, of the last the mean is taken.  Further channels are taken over; new ones start from zero.
    """
    theirs, ours = (1 if count < 3 else 3 for count in (len(weights), channels))
    colours = weights[:theirs]
    if ours != theirs:
        colours = colours.mean(0, keepdim=True).expand(ours, *weights.shape[1:]) * (theirs / ours if summed else 1)
    return torch.cat([colours, weights[theirs:], weights.new_zeros(channels, *weights.shape[1:])])[:channels]
