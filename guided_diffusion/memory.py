"""What a network needs in memory while it trains, from its shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .script_util import create_model
from .unet import UNetModel

PARTS = {"parameters": 4, "gradients": 4, "AdamW's moments": 8, "EMA": 4}  # bytes per parameter, all in float32


def shapes_only(
    kwargs: Mapping[str, Any], dtype: torch.dtype = torch.float32, checkpointing: str = "none"
) -> UNetModel:
    """The network of `create_model`'s arguments without its numbers, in training mode.

    dtype: of its torso, see `convert_torso`; checkpointing: see `set_checkpointing`.
    """
    with torch.device("meta"):
        net = create_model(**kwargs)
    net.convert_torso(dtype)
    net.set_checkpointing(checkpointing)
    return net.train()


def saved_bytes(net: torch.nn.Module, height: int, width: int, microbatch: int) -> int:
    """Bytes of all tensors that a forward pass of `shapes_only` keeps for the backward pass, parameters aside."""
    parameters = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, tuple[int, object]] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage.nbytes(), storage  # held, so that no other takes its place
        return tensor

    images = torch.empty(microbatch, net.in_channels, height, width, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(images, torch.empty(microbatch, device="meta"))
    del out
    return sum(count for count, _ in kept.values())
