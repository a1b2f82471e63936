"""Images that come with their degraded ones."""

from torch import Tensor

from .base import Corruption
from .registry import corruption


@corruption("paired")
class Paired(Corruption):
    """Stands for a degradation that nobody has as a formula; never called."""

    is_paired = True

    def degrade(self, x: Tensor) -> Tensor:
        raise ValueError("paired: the degraded images come from the data set, there is no operator to apply")
