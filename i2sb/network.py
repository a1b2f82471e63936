"""The network of the bridge: a U-Net that takes the step's noise level and, with --cond-x1, the degraded image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion import presets
from guided_diffusion.script_util import create_model
from i2sb.errors import UserError, one_line
from i2sb.options.shared import misfit
from i2sb.runtime.reading import load_plain_dict
from i2sb.schedule import noise_levels


class BridgeNet(nn.Module):
    """The U-Net at step n of the bridge.  State dict keys are `diffusion_model.*`.

    Args:
        kwargs: of `create_model`; in_channels is doubled for a network that sees the degraded image.
        levels: [N], the input of the time embedding at each step, see `schedule.noise_levels`.
        cond: whether the network sees the degraded image.

    Raises:
        ValueError: kwargs that make no network.
    """

    def __init__(self, kwargs: Mapping[str, Any], levels: Any, cond: bool = False):
        super().__init__()
        self.kwargs = dict(kwargs)
        self.cond = cond
        self.diffusion_model = create_model(**kwargs)
        self.register_buffer("noise_levels", torch.as_tensor(levels).float(), persistent=False)

    def forward(self, xt: Tensor, step: Tensor, cond: Tensor | None = None) -> Tensor:
        """The predicted label, Eq. 12.  xt, cond: [B,C,H,W]; step: LongTensor [B].  -> [B,C,H,W].

        A cond that the network does not take is ignored, as in the original.

        Raises:
            ValueError: cond is missing.
        """
        if self.cond and cond is None:
            raise ValueError("this network also takes the degraded image: give cond")
        x = torch.cat([xt, cond], dim=1) if self.cond else xt
        return self.diffusion_model(x, self.noise_levels[step])


class Image256Net(BridgeNet):
    """The published name: the network described by the pickle in `ckpt_dir`, else ADM-256.

    Args:
        noise_levels: [N]; cond: the network also sees the degraded image; use_fp16: the torso in float16.
        pretrained_adm: start from the weights in `ckpt_dir`, fetched unless they are there.
    """

    def __init__(
        self,
        log: Any,
        noise_levels: Tensor,
        use_fp16: bool = False,
        cond: bool = False,
        pretrained_adm: bool = True,
        ckpt_dir: str | Path = "data/",
    ):
        super().__init__(network_kwargs(None, cond, log, ckpt_dir), noise_levels, cond)
        if pretrained_adm:
            from i2sb.initial_weights import load_initial

            load_initial(self, named=False, log=log, data_dir=ckpt_dir)
        if use_fp16:
            self.diffusion_model.convert_to_fp16()


def network_file(cond_x1: bool, data_dir: str | Path = "data") -> Path:
    """Where the original keeps the arguments of a network other than ADM-256."""
    return Path(data_dir) / f"256x256_diffusion_{'cond' if cond_x1 else 'uncond'}_fixedsigma.pkl"


def network_kwargs(
    named: Mapping[str, Any] | None,
    cond_x1: bool,
    log: Any = None,
    data_dir: str | Path = "data",
    channels: int = presets.CHANNELS,
) -> dict[str, Any]:
    """The arguments of `create_model`: the network `named` in the options, else the original's choice.

    That is `data/256x256_diffusion_{uncond,cond}_fixedsigma.pkl` in the current folder, or ADM-256.  Whatever they say,
    it takes images of `channels` channels, and with `cond_x1` the degraded ones beside them.
    """
    ends = {"in_channels": 2 * channels if cond_x1 else channels, "out_channels": channels}
    if named:
        return {**named, **ends}
    path = network_file(cond_x1, data_dir)
    if not path.is_file():
        return {**presets.resolve(presets.DEFAULT), **ends}
    if log is not None:
        log.info(f"[Net] the network is the one in {path}")
    return {**load_plain_dict(path), **ends, "use_fp16": False}


def network_of(opt: Any, log: Any = None) -> dict[str, Any]:
    """`network_kwargs` of options."""
    channels = getattr(opt, "channels", None) or presets.CHANNELS
    return network_kwargs(getattr(opt, "network", None), opt.cond_x1, log, channels=channels)


def build_network(opt: Any, log: Any = None) -> BridgeNet:
    """The network of the options, on the CPU, freshly initialized.

    Raises:
        UserError: arguments that make no network, or one that does not take images of the options' size.
    """
    kwargs = network_of(opt, log)
    try:
        if kwargs.get("class_cond") or kwargs.get("learn_sigma"):
            raise ValueError("class_cond, learn_sigma: a bridge has no classes and predicts no variances")
        net = BridgeNet(kwargs, noise_levels(opt.t0, opt.T, opt.interval), bool(opt.cond_x1))
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        origin = f"{opt.load}: " if getattr(opt, "load", None) else ""
        raise UserError(f"{origin}the network cannot be built: {one_line(error, 300)}") from error
    if reason := misfit(getattr(opt, "image_size", net.diffusion_model.downsampling), kwargs):
        raise UserError(reason)
    return net
