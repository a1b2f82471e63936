"""AdamW with its learning rates, the scaling of fp16 losses, and the guard against NaN and inf."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

COSINE_END = 0.01  # of the learning rate, at the last iteration


def build_schedule(adamw: AdamW, opt: Any) -> LRScheduler | None:
    """The learning rate's way: `lr_step` and `lr_gamma` as published, or `lr_schedule` cosine; after `warmup` steps."""
    cosine, gamma, size, warmup, last = opt.lr_schedule == "cosine", opt.lr_gamma, opt.lr_step, opt.warmup, opt.num_itr

    def factor(k: int) -> float:
        rise = min(1.0, (k + 1) / (warmup + 1))
        if not cosine:
            return rise * gamma ** (k // size)
        way = min(1.0, max(0, k - warmup) / max(1, last - 1 - warmup))
        return rise * (COSINE_END + (1 - COSINE_END) * (1 + math.cos(math.pi * way)) / 2)

    if cosine or warmup:
        return LambdaLR(adamw, factor)
    return StepLR(adamw, step_size=size, gamma=gamma) if gamma < 1 else None


class Optimizer:
    """What happens between the backward pass and the next forward pass.

    A step with NaN or inf in a loss or gradient is skipped and counted; neither the check nor the skipping waits for
    the device.

    Args:
        parameters: what is optimized.
        opt: `lr`, multiplied by `lr_gamma` every `lr_step` steps (1: constant); `l2_norm`, AdamW's weight decay;
            `lr_schedule`, `warmup`: see `build_schedule`; `grad_clip`: largest norm of a gradient (0: any);
            `precision`: with fp16 the losses are scaled, so that small gradients survive.
    """

    def __init__(self, parameters: Iterable[Parameter], opt: Any):
        self.parameters = list(parameters)
        device = self.parameters[0].device
        self.adamw = AdamW(self.parameters, lr=opt.lr, weight_decay=opt.l2_norm, fused=True)
        self.sched = build_schedule(self.adamw, opt)
        self.clip = opt.grad_clip
        self.scaler = torch.amp.GradScaler(device.type, enabled=opt.precision == "fp16")
        self._skipped, self._in_a_row, self._worst = torch.zeros(3, device=device).unbind()

    @property
    def lr(self) -> float:
        """The present learning rate."""
        return self.adamw.param_groups[0]["lr"]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those that are there."""
        # A NaN loss may have finite gradients: spoil them, so that every rank skips the step.
        factor = torch.where(loss.detach().isfinite(), 1.0, math.nan)
        self.scaler.scale(loss * factor).backward()

    def step(self, num_micro: int = 1) -> Tensor:
        """Take one step with the gradients of `num_micro` backward passes and clear them.

        Returns the norm of their mean before clipping, on the device.
        """
        self.scaler.unscale_(self.adamw)
        norm = get_total_norm(p.grad for p in self.parameters if p.grad is not None)
        if self.clip:  # the gradients are summed, as published
            clip_grads_with_norm_(self.parameters, self.clip * num_micro, norm)
        bad = (~norm.isfinite()).float()
        self._skipped += bad
        self._in_a_row.add_(1).mul_(bad)
        torch.maximum(self._worst, self._in_a_row, out=self._worst)
        if self.scaler.is_enabled():
            self.scaler.step(self.adamw)  # skips by itself
            self.scaler.update()
        else:
            self.adamw.found_inf = bad  # the fused kernel leaves everything as it is where this is 1
            self.adamw.step()
        if self.sched is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns when the very first step was skipped
                self.sched.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm / num_micro

    def skipped(self) -> tuple[int, int]:
        """(steps skipped so far, longest row of skipped steps); waits for the device."""
        return int(self._skipped), int(self._worst)

    def state_dict(self) -> dict[str, Any]:
        """The published keys "optimizer" and "sched" (None without one), and "scaler"."""
        return {
            "optimizer": self.adamw.state_dict(),
            "sched": None if self.sched is None else self.sched.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], keep: Iterable[str] = (), iteration: int = 0) -> None:
        """Take over a state of `state_dict`, or the original's; "scaler" may be missing.

        Args:
            keep: which of lr, lr_gamma, lr_step, l2_norm stay as in the constructor.
            iteration: how many steps were taken, which a state without a schedule does not say.
        """
        mine, my_rates = dict(self.adamw.param_groups[0]), self._rates()
        # How to compute on this device, before loading: it decides where torch puts each `step`.
        ways = {key: mine[key] for key in ("fused", "foreach", "capturable", "differentiable")}
        groups = [{**group, **ways} for group in state["optimizer"]["param_groups"]]
        self.adamw.load_state_dict({**state["optimizer"], "param_groups": groups})
        for group in self.adamw.param_groups:
            if "l2_norm" in keep:
                group["weight_decay"] = mine["weight_decay"]
        sched = state.get("sched")
        another = ("step_size" in sched if sched else None) != (isinstance(self.sched, StepLR) if self.sched else None)
        if another and self.sched is not None:
            self.sched.last_epoch = sched["last_epoch"] if sched else iteration
        elif self.sched is not None:
            self.sched.load_state_dict(sched)
        loaded = self._rates()
        wanted = {key: my_rates[key] if key in keep else loaded[key] for key in loaded}
        if wanted != loaded or another or isinstance(self.sched, LambdaLR):  # --num-itr may be another as well
            self._set_rates(**wanted)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

    def _rates(self) -> dict[str, float]:
        """The rate that training began with, and its schedule if it has one, by their names as options."""
        group = self.adamw.param_groups[0]
        first = {"lr": group.get("initial_lr", group["lr"])}
        if not isinstance(self.sched, StepLR):
            return first
        return {**first, "lr_gamma": self.sched.gamma, "lr_step": self.sched.step_size}

    def _set_rates(self, lr: float, lr_gamma: float = 1.0, lr_step: int = 1) -> None:
        """Go over to the rate that training would have now, had it begun with these."""
        now = lr
        if isinstance(self.sched, StepLR):
            now = lr * lr_gamma ** (self.sched.last_epoch // lr_step)
            self.sched.gamma, self.sched.step_size = lr_gamma, lr_step
        elif self.sched is not None:
            now = lr * self.sched.lr_lambdas[0](self.sched.last_epoch)
        if self.sched is not None:
            self.sched.base_lrs, self.sched._last_lr = [lr], [now]
        for group in self.adamw.param_groups:
            group["initial_lr"], group["lr"] = lr, now
