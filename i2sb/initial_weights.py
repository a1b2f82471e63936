"""Which weights a new training starts from."""

from __future__ import annotations

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
    load_initial_weights(net, path)
    log.info(f"[Net] initial weights: {path}")


def is_adm_256(kwargs: Mapping[str, Any]) -> bool:
    """Whether ADM's published weights for 256 px are of this network (first and last layer aside)."""
    mine, adm = (
        presets.canonical({**k, "in_channels": presets.CHANNELS}) for k in (kwargs, presets.PRESETS[presets.DEFAULT])
    )
    return mine == adm


def load_initial_weights(net: BridgeNet, path: str | Path) -> None:
    """Start from the weights of a diffusion model: ADM's published file, or any bare U-Net state dict.

    ADM also predicts variances: the first half of the output channels is kept. Of a network that sees the degraded
    image, the first half of the input channels takes ADM's kernel, the others stay as initialized.
    """
    state = load_torch(path)
    mine = net.diffusion_model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict of a U-Net")
    load_weights(net.diffusion_model, _adapted(dict(state), mine), path)


def load_weights(module: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Fill a module, strictly; weights of another network are a UserError."""
    try:
        # as a plain dict: torch would otherwise take the version of each layer from the file
        module.load_state_dict(dict(state), strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = one_line(str(error).partition(":\n")[2] or error, 160)
        raise UserError(f"{path}: its weights do not fit the network of the options: {reason}") from error


def _adapted(state: dict[str, Any], mine: Mapping[str, Tensor]) -> dict[str, Any]:
    for key in LAST:
        if key in state and state[key].ndim and len(state[key]) == 2 * len(mine[key]):
            state[key] = state[key][: len(mine[key])]
    value = state.get(FIRST)
    if value is not None and value.ndim == 4 and 2 * value.shape[1] == mine[FIRST].shape[1]:
        state[FIRST] = torch.cat([value.to(mine[FIRST]), mine[FIRST][:, value.shape[1] :]], dim=1)
    return state
