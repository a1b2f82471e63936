"""Which weights a new training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_diffusion import presets
from i2sb import addresses
from i2sb.errors import UserError
from i2sb.network import BridgeNet, network_file
from i2sb.runtime.safe_torch import check_state, load_torch

FIRST, LAST = "input_blocks.0.0.weight", ("out.2.weight", "out.2.bias")
# Arguments that change no weight's name, shape or meaning.
_FREE = ("image_size", "channel_mult", "attention_resolutions", "dropout", "use_checkpoint", "use_fp16", "num_heads")


def load_initial(net: BridgeNet, opt: Any, log: Any) -> None:
    """Fill a new network: ADM's weights for ADM-256, fetched at first use; others stay random.

    A bare state dict `data/256x256_diffusion_{uncond,cond}_fixedsigma.pt`, such as the original made, is
    taken instead where it is there and the options name no network. `opt.no_pretrained`: nothing is loaded.

    Raises:
        UserError: the weights cannot be fetched, or are of another network.
    """
    path = None if opt.no_pretrained else _source(net, opt, log)
    if path is None:
        log.info("[Net] random weights")
        return
    load_initial_weights(net, path)
    log.info(f"[Net] initial weights: {path}")


def _source(net: BridgeNet, opt: Any, log: Any) -> Path | None:
    own = network_file(opt.cond_x1).with_suffix(".pt")
    if net.unnamed and own.is_file():
        return own
    if is_adm_256(net.kwargs):
        from i2sb.fetch import fetch

        return fetch(addresses.ADM_WEIGHTS, "data", log)
    return None


def is_adm_256(kwargs: Mapping[str, Any]) -> bool:
    """Whether ADM's published weights for 256 px are of this network (first and last layer aside)."""

    def essence(kwargs: Mapping[str, Any]) -> tuple:
        full = {**presets.DEFAULTS, **kwargs}
        others = {key: full[key] for key in presets.DEFAULTS if key not in (*_FREE, "in_channels")}
        sizes = (full["num_channels"], full["num_res_blocks"])
        return presets.parse_levels(full), sizes, others

    return essence(kwargs) == essence(presets.PRESETS[presets.DEFAULT])


def load_initial_weights(net: BridgeNet, path: str | Path) -> None:
    """Start from the weights of a diffusion model: ADM's published file, or any bare U-Net state dict.

    ADM also predicts variances (6 output channels): the first 3 are kept. A network that sees the degraded
    image has 6 input channels: the first 3 take ADM's kernel, the others stay as they were initialised.

    Raises:
        UserError: the file cannot be read or is of another network.
    """
    unet = net.diffusion_model
    mine = unet.state_dict()
    state = load_torch(path, mmap=True)
    if isinstance(state, dict):
        state = _adapted(dict(state), mine)
    check_state(path, state, mine)
    if not all(value.is_floating_point() for value in state.values()):
        raise UserError(f"{path}: refused: it holds tensors that are no weights")
    unet.load_state_dict(state, strict=True)


def _adapted(state: dict[str, Any], mine: Mapping[str, Tensor]) -> dict[str, Any]:
    def fits(value: Any, key: str) -> bool:
        return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == mine[key].ndim

    for key in LAST:
        value = state.get(key)
        if fits(value, key) and len(value) == 2 * len(mine[key]):
            state[key] = value[: len(mine[key])]
    value = state.get(FIRST)
    if fits(value, FIRST) and 2 * value.shape[1] == mine[FIRST].shape[1]:
        state[FIRST] = torch.cat([value.to(mine[FIRST]), mine[FIRST][:, value.shape[1] :]], dim=1)
    return state
