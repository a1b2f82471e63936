"""The network of the bridge: a U-Net that is given a step's noise level, and the degraded image if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion import presets
from guided_diffusion.script_util import DIFFUSION_ARGUMENTS, create_model
from i2sb import portable
from i2sb.errors import UserError, one_line
from i2sb.options.saved import shown
from i2sb.safe_pickle import load_plain_dict
from i2sb.schedule import noise_levels

_LARGEST = {"num_res_blocks": 64}  # ADM's have 3 at most
_MAX_PARAMETERS = 2**33


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


def build_network(opt: Any, log: Any = None, check: Callable[[BridgeNet], None] | None = None) -> BridgeNet:
    """The network of the options, on the CPU, freshly initialised.

    Args:
        check: is given the network on the meta device, before anything is allocated.

    Raises:
        UserError: arguments that make no network, or none of a bridge.
    """
    kwargs = network_kwargs(opt, log)
    try:
        _check_kwargs(kwargs)
        with torch.device("meta"):
            unallocated = BridgeNet(kwargs, opt.t0, opt.T, opt.interval)
        if (count := sum(p.numel() for p in unallocated.parameters())) > _MAX_PARAMETERS:
            raise ValueError(f"it would have {count} parameters")
        if check is not None:
            check(unallocated)
        net = BridgeNet(kwargs, opt.t0, opt.T, opt.interval)
    except UserError:
        raise
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, RuntimeError, MemoryError) as error:
        raise UserError(f"{_origin(opt)}the network cannot be built: {one_line(error, 300)}") from error
    net.unnamed = not getattr(opt, "network", None)
    return net


def _origin(opt: Any) -> str:
    """The file or folder that the network's arguments come from, for a message."""
    if not getattr(opt, "network", None) and network_file(opt.cond_x1).is_file():
        return f"{network_file(opt.cond_x1)}: "
    if not getattr(opt, "load", None):
        return ""
    folder = Path(opt.load).parent
    return f"{folder / portable.DESCRIPTION if Path(opt.load).name == portable.WEIGHTS else folder}: "


def _check_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Raise a ValueError for values that another program (or a stranger) may have saved and no bridge can use.

    What they say together is checked where the network is built.
    """
    for name, value in kwargs.items():
        kind = type(presets.DEFAULTS.get(name, 0))
        if name in DIFFUSION_ARGUMENTS:
            legal = type(value) in (str, int, float, bool, list, tuple)
        elif name in ("channel_mult", "attention_resolutions"):
            row = [value] if type(value) is int and name == "attention_resolutions" else value
            legal = type(row) is str or (type(row) in (list, tuple) and all(type(n) in (int, float) for n in row))
        elif name == "dropout":
            legal = type(value) in (int, float) and 0 <= value < 1
        elif kind is bool:
            legal = type(value) is bool
        else:
            legal = type(value) is int and -1 <= value <= _LARGEST.get(name, 2**14)
        if not legal:
            raise ValueError(f"{one_line(name, 40)} is {shown(value)}, which is not legal")
    for name in ("class_cond", "learn_sigma"):
        if kwargs.get(name):
            raise ValueError(f"{name} is for other models: a bridge has no classes and predicts 3 channels")
    levels = presets.parse_channel_mult(kwargs.get("channel_mult", ""), kwargs.get("image_size", 256))
    if len(levels) > 16:
        raise ValueError(f"channel_mult has {len(levels)} levels")
