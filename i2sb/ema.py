"""Exponential moving average of the weights, with torch_ema's names and state, so that published files load."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def average_decay(opt: Any) -> float:
    """The decay that the options ask for: `ema`, or that of `ema_halflife_images`, at one update per `batch_size`."""
    return 0.5 ** (opt.batch_size / opt.ema_halflife_images) if opt.ema_halflife_images else opt.ema


class ExponentialMovingAverage:
    """shadow <- shadow + (1 - d) (param - shadow), with d = min(decay, (1 + k) / (10 + k)) at update k.

    The shadow is a positional list in the order of `parameters()`: that order is part of the file format.

    Args:
        parameters: the parameters to follow, e.g. `net.parameters()`; kept as the default of every method.
        decay: in [0, 1].

    Raises:
        ValueError: decay is outside [0, 1].
    """

    def __init__(self, parameters: Iterable[Parameter], decay: float):
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"EMA decay must lie in 0..1, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self._params = list(parameters)
        self.shadow_params = [p.detach().clone() for p in self._params]

    def _targets(self, parameters: Iterable[Parameter] | None) -> list[Tensor]:
        params = self._params if parameters is None else list(parameters)
        if len(params) != len(self.shadow_params):
            raise ValueError(f"the EMA follows {len(self.shadow_params)} parameters, got {len(params)}")
        return [p.data for p in params]

    @torch.no_grad()
    def update(self, parameters: Iterable[Parameter] | None = None) -> None:
        """Take one step of the average towards the current parameters."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self.shadow_params, self._targets(parameters), 1.0 - decay)

    @torch.no_grad()
    def follow(self) -> None:
        """Start from scratch: the average is the current parameters."""
        torch._foreach_copy_(self.shadow_params, self._targets(None))
        self.num_updates = 0

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Parameter] | None = None) -> None:
        """Overwrite the parameters with the average."""
        for target, shadow in zip(self._targets(parameters), self.shadow_params):
            target.copy_(shadow)

    @contextlib.contextmanager
    def average_parameters(self, parameters: Iterable[Parameter] | None = None) -> Iterator[None]:
        """The average in place of the parameters inside a `with` block."""
        params = self._params if parameters is None else list(parameters)
        before = [p.detach().clone() for p in params]
        try:
            self.copy_to(params)
            yield
        finally:
            for param, kept in zip(params, before):
                param.data.copy_(kept)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move the average to a device; `dtype` changes its floating-point type."""
        self.shadow_params = [shadow.to(device=device, dtype=dtype) for shadow in self.shadow_params]

    def state_dict(self) -> dict:
        """torch_ema's four fields; the tensors are the live ones, not copies."""
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "shadow_params": self.shadow_params,
            "collected_params": None,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Take over a state of `state_dict` (or torch_ema's), on the devices of the present shadow.

        Raises:
            ValueError: a field is missing, or number or shapes of the tensors differ.
        """
        if missing := {"decay", "num_updates", "shadow_params"} - set(state):
            raise ValueError(f"EMA state lacks {', '.join(sorted(missing))}")
        loaded = list(state["shadow_params"])
        if [p.shape for p in loaded] != [p.shape for p in self.shadow_params]:
            raise ValueError(f"the {len(loaded)} tensors of the EMA state have other shapes than the network's")
        torch._foreach_copy_(self.shadow_params, loaded)
        self.decay, self.num_updates = float(state["decay"]), int(state["num_updates"] or 0)
