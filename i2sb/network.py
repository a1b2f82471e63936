"""The network of the bridge: a U-Net that is given a step's noise level, and the degraded image if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion import presets
from guided_diffusion.script_util import create_model
from i2sb.errors import UserError
from i2sb.safe_pickle import load_plain_dict
from i2sb.schedule import noise_levels


class BridgeNet(nn.Module):
    """The U-Net at step n of the bridge.  State dict keys are `diffusion_model.*`.

    Args:
        kwargs: of `create_model`; in_channels is 6 for a network that sees the degraded image.
        t0, T, interval: what the time embedding is given, see `schedule.noise_levels`.

    Raises:
        ValueError: kwargs that make no network.
    """

    def __init__(self, kwargs: Mapping[str, Any], t0: float, T: float, interval: int):
        super().__init__()
        self.kwargs = dict(kwargs)
        self.diffusion_model = create_model(**kwargs)
        levels = torch.tensor(noise_levels(t0, T, interval), dtype=torch.float32)
        self.register_buffer("noise_levels", levels, persistent=False)
        self.cond = self.diffusion_model.in_channels == 6
        self.unnamed = False  # whether the options named it; see build_network

    def forward(self, xt: Tensor, step: Tensor, cond: Tensor | None = None) -> Tensor:
        """The predicted label, Eq. 12.  xt, cond: [B,3,H,W]; step: LongTensor [B].  -> [B,3,H,W]."""
        if self.cond != (cond is not None):
            raise ValueError("this network needs cond" if self.cond else "this network takes no cond")
        x = xt if cond is None else torch.cat([xt, cond], dim=1)
        return self.diffusion_model(x, self.noise_levels[step])


def network_file(cond_x1: bool, data_dir: str | Path = "data") -> Path:
    """Where the original's network arguments lie if they are not ADM-256's."""
    return Path(data_dir) / f"256x256_diffusion_{'cond' if cond_x1 else 'uncond'}_fixedsigma.pkl"


def network_kwargs(opt: Any, log: Any = None) -> dict[str, Any]:
    """The arguments of create_model that the options mean.

    In this order: `opt.network`; `data/256x256_diffusion_{uncond,cond}_fixedsigma.pkl` in the current folder;
    ADM-256.

    Raises:
        UserError: that file cannot be read or describes no network.
    """
    named = getattr(opt, "network", None)
    in_channels = 6 if opt.cond_x1 else 3
    if named:
        return {**named, "in_channels": in_channels}
    path = network_file(opt.cond_x1)
    if not path.is_file():
        return presets.resolve(presets.DEFAULT, in_channels=in_channels)
    kwargs = {**load_plain_dict(path), "in_channels": in_channels, "use_fp16": False}
    if log is not None:
        log.info(f"[Net] the network is the one in {path}")
    return kwargs


def build_network(opt: Any, log: Any = None) -> BridgeNet:
    """The network of the options, on the CPU, freshly initialised.

    Raises:
        UserError: arguments that make no network.
    """
    kwargs = network_kwargs(opt, log)
    try:
        net = BridgeNet(kwargs, opt.t0, opt.T, opt.interval)
    except (TypeError, ValueError) as error:
        raise UserError(f"the network cannot be built: {error}") from error
    net.unnamed = not getattr(opt, "network", None)
    return net
