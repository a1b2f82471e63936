"""In which precision the network computes; the bridge and the degradations always compute in float32."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Names in torch.cpu.get_capabilities(), of x86 and ARM.
_INSTRUCTIONS = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def set_float32_products(precision: str) -> None:
    """TF32 for float32 products where `precision` is tf32, else full float32 (cuDNN's default is TF32)."""
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def settle(opt: Any, *, trains: bool = True) -> None:
    """Decide what the options leave to the machine: `precision` auto, and `channels_last` None."""
    device = torch.device(opt.device)
    if opt.precision == "auto":
        opt.precision = "bf16" if has_bf16(device) else "fp32"
    if opt.channels_last is None:
        # with AVX2 alone the gradient of the weights takes 1.2 to 5 times as long in this layout
        on_cpu = device.type == "cpu" and not (trains and has_avx2_alone())
        opt.channels_last = on_cpu or opt.precision in LOW


def has_bf16(device: torch.device) -> bool:
    """Whether this device has instructions for bfloat16; without them, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and any(_capabilities().get(name) for name in _INSTRUCTIONS["bf16"])


def has_avx2_alone() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def slower_than_fp32(device: torch.device, precision: str) -> bool:
    """Whether this is half precision on a processor that is known to have no instructions for it."""
    known = _capabilities() if device.type == "cpu" and precision in LOW else {}
    return bool(known) and not any(known.get(name) for name in _INSTRUCTIONS[precision])


def _capabilities() -> dict[str, Any]:
    """Of the processor; torch 2.10 and later say them."""
    return getattr(torch.cpu, "get_capabilities", dict)()


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 inside the block: it would flip roundings of jpeg and put 1e-3 on blur."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_float32_products("fp32")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Training in bf16 or fp16: products in low precision, weights in float32."""
    if precision not in LOW:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=LOW[precision])


def use_deterministic_kernels() -> None:
    """The same bits at each run on the same machine; kernels that cannot are replaced by slower ones."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
