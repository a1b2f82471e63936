"""A probe for what would make a GPU's host wait, which works without a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Notes the operations that would make a GPU's host wait: reading a number, shapes from data, copies away."""

    SUSPECTS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.seen, self.count = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        name = func.overloadpacket.__name__
        to_a_device = any(isinstance(value, torch.device) for value in (*args, *(kwargs or {}).values()))
        if self.reads_data(name) or (to_a_device and name not in ("randn", "arange")):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))

    def reads_data(self, name: str) -> bool:
        """Whether an operation's answer, or its shape, depends on numbers that only the device knows."""
        return any(suspect in name for suspect in self.SUSPECTS)
