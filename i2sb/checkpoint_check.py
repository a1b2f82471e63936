"""Whether all parts of a latest.pt are of the kinds and sizes that training and sampling count on.

The file itself is sound by then (see `runtime.safe_torch`); this is about senseless content, which would otherwise
show itself as an error of some library in the middle of a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

from i2sb.errors import UserError
from i2sb.options.saved import shown

_LARGEST = 2**50  # of counts: iterations, images
_LARGEST_RATE = 1e10  # of lr, eps and weight decay: far beyond sense, and products of them still are float32
_BELOW_1 = math.nextafter(1.0, 0.0)  # AdamW divides by 1 - beta
_SCHED_COUNTS = ("last_epoch", "_step_count", "step_size")
_SCALER = {  # name -> the largest that torch's tensors of it hold
    **dict.fromkeys(("scale", "growth_factor", "backoff_factor"), 2.0**127),
    **dict.fromkeys(("growth_interval", "_growth_tracker"), 2**31 - 1),
}


def check_checkpoint(path: str | Path, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Raise a UserError with the first fault that `state` has.

    Args:
        path: the file that it comes from, for the message.
        state: net, ema (or None), and as far as there: optimizer, sched, scaler, resume.
        parameters: the network's, in order.
    """
    for fault in _faults(state, [tuple(parameter.shape) for parameter in parameters]):
        raise UserError(f"{path}: refused: {fault}")


def _faults(state: Mapping[str, Any], shapes: list[tuple]) -> Iterator[str]:
    if not all(_is_tensor(tensor) for tensor in state["net"].values()):
        yield "its network has tensors that are no weights"
    if state["ema"] is not None:
        yield from _average(state["ema"], shapes)
    if "optimizer" in state:
        yield from _optimizer(state["optimizer"], shapes)
    if state.get("sched") is not None:
        yield from _schedule(state["sched"])
    if state.get("scaler"):
        yield from _scaler(state["scaler"])
    if state.get("resume") is not None:
        yield from _position(state["resume"])


def _average(ema: Any, shapes: list[tuple]) -> Iterator[str]:
    if not isinstance(ema, dict):
        yield "its average of weights is no dictionary"
        return
    tensors = ema.get("shadow_params")
    if not (isinstance(tensors, (list, tuple)) and all(map(_is_tensor, tensors))):
        yield "its average of weights has no list of tensors shadow_params"
    elif [tuple(tensor.shape) for tensor in tensors] != shapes:
        yield "its average of weights does not fit the network"
    if not _is_number(ema.get("decay"), 0, 1):
        yield f"its average of weights has the decay {shown(ema.get('decay'))}"
    if ema.get("num_updates") is not None and not _is_count(ema["num_updates"]):
        yield f"its average of weights has num_updates {shown(ema['num_updates'])}"


def _optimizer(optimizer: Any, shapes: list[tuple]) -> Iterator[str]:
    moments, groups = (optimizer.get(k) if isinstance(optimizer, dict) else None for k in ("state", "param_groups"))
    if not (isinstance(moments, dict) and isinstance(groups, list) and len(groups) == 1):
        yield "its optimizer has no state and one group of parameters"
        return
    group = groups[0]
    if not isinstance(group, dict) or group.get("params") != list(range(len(shapes))):
        yield f"its optimizer is not of the network's {len(shapes)} parameters"
        return
    betas = group.get("betas")
    if not (isinstance(betas, (list, tuple)) and len(betas) == 2 and all(_is_number(b, 0, _BELOW_1) for b in betas)):
        yield f"its optimizer has the betas {shown(betas)}"
    for name in ("lr", "eps", "weight_decay", *(["initial_lr"] if "initial_lr" in group else [])):
        if not _is_number(group.get(name), 0, _LARGEST_RATE):
            yield f"its optimizer has the {name} {shown(group.get(name))}"
    for name in ("amsgrad", "maximize"):
        if group.get(name, False) is not False:
            yield f"its optimizer has {name} {shown(group[name])}"
    for name in ("foreach", "fused", "capturable", "differentiable"):
        if type(group.get(name)) not in (bool, type(None)):
            yield f"its optimizer has {name} {shown(group[name])}"
    for number, entry in moments.items():
        if type(number) is not int or not 0 <= number < len(shapes) or not _is_entry(entry, shapes[number]):
            yield f"its optimizer has no sound state of parameter {shown(number)}"


def _is_entry(entry: Any, shape: tuple) -> bool:
    """step, exp_avg and exp_avg_sq of one parameter."""
    if not isinstance(entry, dict):
        return False
    step = entry.get("step")
    if isinstance(step, Tensor):
        step = step.item() if step.numel() == 1 and not step.is_complex() else None
    moments = (entry.get(name) for name in ("exp_avg", "exp_avg_sq"))
    return _is_number(step, 0, _LARGEST) and all(_is_tensor(m) and tuple(m.shape) == shape for m in moments)


def _schedule(sched: Any) -> Iterator[str]:
    # torch would put any entry in the place of its own methods
    if not isinstance(sched, dict) or any(map(_is_method, sched)):
        yield "its sched is not the state of a StepLR"
        return
    for name in _SCHED_COUNTS:
        if not _is_count(sched.get(name)) or (name == "step_size" and not sched[name]):
            yield f"its sched has {name} {shown(sched.get(name))}"
    if not _is_number(sched.get("gamma"), 0, 1):
        yield f"its sched has gamma {shown(sched.get('gamma'))}"
    for name in ("base_lrs", "_last_lr"):
        values = sched.get(name)
        if not (isinstance(values, list) and len(values) == 1 and _is_number(values[0], 0, _LARGEST_RATE)):
            yield f"its sched has {name} {shown(values)}"


def _is_method(key: Any) -> bool:
    return key == "optimizer" or callable(getattr(StepLR, str(key), None))


def _scaler(scaler: Any) -> Iterator[str]:
    for name, largest in _SCALER.items():
        if not (isinstance(scaler, dict) and _is_number(scaler.get(name), 0, largest)):
            yield f"its scaler has no sound {name}"


def _position(resume: Any) -> Iterator[str]:
    if not isinstance(resume, dict):
        yield "its resume is no dictionary"
        return
    for name in ("iteration", "num_images", "dataset_size", "world_size"):
        if name in resume and not _is_count(resume[name]):
            yield f"its resume has {name} {shown(resume[name])}"
    states, draws = resume.get("random_states", []), resume.get("draws", {})
    if not (isinstance(states, list) and all(map(_is_random_state, states))):
        yield "its random_states are none"
    if draws != {} and not (_is_random_state(draws) and "device" in draws):
        yield "its draws are no states of random numbers"


def _is_random_state(states: Any) -> bool:
    if not isinstance(states, dict) or "cpu" not in states:
        return False
    if not all(isinstance(s, Tensor) and s.dtype == torch.uint8 and s.ndim == 1 for s in states.values()):
        return False
    try:
        torch.Generator().set_state(states["cpu"].cpu())
    except RuntimeError:
        return False
    return True


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_number(value: Any, low: float, high: float = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST
