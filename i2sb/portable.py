"""A bridge as two files for everyone: the averaged weights as safetensors, and a JSON file that says what they are.

    ema.safetensors     tensors `diffusion_model.*`, float32
    ema.json            {"format": 1, "network": {arguments of create_model}, "bridge": {...}}

Neither pickle nor optimizer state; sample.py and train.py take a folder with these two in place of a latest.pt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2sb.errors import UserError, one_line
from i2sb.runtime.files import atomic_write, read_json

WEIGHTS, DESCRIPTION = "ema.safetensors", "ema.json"
FORMAT = 1
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BRIDGE = ("interval", "t0", "T", "beta_max", "ot_ode", "cond_x1", "add_x1_noise", "corrupt", "image_size")


def export(runner: Any, folder: Path) -> tuple[Path, Path]:
    """Write the averaged weights of a `Runner` and their description into `folder`.

    Raises:
        UserError: a file cannot be written.
    """
    from safetensors.torch import save

    tensors = {
        name: average.detach().float().cpu().contiguous()
        for (name, _), average in zip(runner.net.named_parameters(), runner.ema.shadow_params)
    }
    about = {
        "format": FORMAT,
        "network": runner.net.kwargs,
        "bridge": {name: getattr(runner.opt, name) for name in BRIDGE},
    }
    weights, description = folder / WEIGHTS, folder / DESCRIPTION
    with atomic_write(weights) as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    with atomic_write(description) as file:
        file.write((json.dumps(about, indent=2) + "\n").encode())
    return weights, description


def is_portable(folder: Path) -> bool:
    """Whether `folder` holds an exported bridge and no latest.pt."""
    return (folder / WEIGHTS).is_file() and not (folder / "latest.pt").exists()


def load_description(path: Path) -> argparse.Namespace:
    """The options in an ema.json: those of the bridge, and `network`.

    Raises:
        UserError: no such file, or one that describes no bridge.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        about = read_json(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise UserError(f"{path}: refused: it is no JSON") from None
    bridge, network = (about.get(key) if isinstance(about, dict) else None for key in ("bridge", "network"))
    if not isinstance(bridge, dict) or not isinstance(network, dict) or about.get("format") != FORMAT:
        raise UserError(f"{path}: refused: it has no bridge and network of format {FORMAT}")
    plain = (bool, int, float, str)
    for name in BRIDGE:
        if type(bridge.get(name)) not in plain:
            raise UserError(f"{path}: refused: its bridge lacks {name}, or holds no plain value there")
    for name, value in network.items():
        if type(value) not in plain:
            raise UserError(f"{path}: refused: {one_line(name, 40)} of its network is no plain value")
    return argparse.Namespace(**{name: bridge[name] for name in BRIDGE}, network=network)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: no such file, or one that is broken or holds other tensors than of float16, 32, 64 or bfloat16.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
        raise UserError(f"{path}: refused: {one_line(error, 200)}") from None
    if others := {str(tensor.dtype) for tensor in state.values() if tensor.dtype not in _DTYPES}:
        raise UserError(f"{path}: refused: it holds tensors that are no weights ({', '.join(sorted(others))})")
    return {name: tensor.to(torch.float32) for name, tensor in state.items()}
