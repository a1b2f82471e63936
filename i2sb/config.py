"""What a bridge is: everything that gives its weights their meaning, in one frozen record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corruption.geometry import Size
from guided_diffusion import presets
from i2sb.errors import UserError

SPACINGS = ("uniform", "quadratic", "logsnr")
"""How the sampling steps may lie, see `schedule.sampling_steps`."""


def as_image_size(value: int | Sequence[int]) -> Size:
    """The one form of a size: squares are their side; files hold rectangles as lists.  Raises ValueError for others."""
    height, width = map(int, value) if isinstance(value, (list, tuple)) else (int(value),) * 2
    if min(height, width) < 1:
        raise ValueError("sizes are at least 1")
    return height if height == width else (height, width)


def size_text(size: Any) -> str:
    """As the command line takes it: "256", or "192,256" of height and width; other values are `str` of them."""
    return ",".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size)


@dataclass(frozen=True)
class BridgeConfig:
    """One bridge; two are the same bridge where the records are equal.

    It is saved inside latest.pt and exported weights, and compared wherever files must belong together.

    Attributes:
        task: name of the degradation, see `corruption`.
        image_size: side of the training's images [pixels], or (height, width).
        channels: of the images, such as 1 (grey), 3 (RGB), 4 (RGB and alpha).
        interval, beta_max: steps N and noise of the schedule, see `schedule.make_betas`.
        t0, T: what the network's time runs between, see `schedule.noise_levels`.
        ot_ode: no noise between the two ends.
        cond_x1: the network also sees the degraded image.
        add_x1_noise: degraded images get noise of deviation 1.
        network: arguments of `create_model`, in the form of `presets.canonical`.
        value_range: the values of black and white in files and arrays; None: those of their types, 0 to 255 and so on.
    """

    task: str
    image_size: Size
    interval: int
    beta_max: float
    t0: float
    T: float
    ot_ode: bool
    cond_x1: bool
    add_x1_noise: bool
    network: Mapping[str, Any]
    channels: int = presets.CHANNELS
    value_range: tuple[float, float] | None = None

    @classmethod
    def from_options(cls, opt: Any, network: Mapping[str, Any]) -> BridgeConfig:
        """The bridge that options (as those of train.py) and arguments of `create_model` describe; see `from_dict`."""
        values = {field: getattr(opt, "corrupt" if field == "task" else field, None) for field in FIELDS}
        return cls.from_dict({**values, "channels": values["channels"] or presets.CHANNELS, "network": network})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BridgeConfig:
        """The bridge of a saved record; unknown keys are ignored.

        Raises:
            ValueError: values are missing or make no bridge.
        """
        kinds = {"task": str, "network": presets.canonical, "interval": int, "channels": _positive}
        kinds |= {"image_size": as_image_size, **dict.fromkeys(("beta_max", "t0", "T"), float)}
        kinds["value_range"] = _range
        values, found = {"value_range": None, **values}, {}
        for field in FIELDS:
            try:
                found[field] = kinds.get(field, bool)(values[field])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                reason = "is missing" if isinstance(error, KeyError) else f"is {str(values[field])[:60]!r} ({error})"
                raise ValueError(f"{field} {reason}") from None
        if not found["t0"] < found["T"]:
            raise ValueError(f"t0 {found['t0']:g} must be below T {found['T']:g}")
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for files; those of before there was a value_range have none."""
        size = self.image_size if isinstance(self.image_size, int) else list(self.image_size)
        values = {**dataclasses.asdict(self), "image_size": size, "network": dict(self.network)}
        found = values.pop("value_range")
        return values if found is None else {**values, "value_range": list(found)}

    def differences(self, other: BridgeConfig) -> list[str]:
        """What tells two bridges apart, one text per field: "interval 1000, not 100"."""
        mine, theirs = self.to_dict(), other.to_dict()
        mine |= {f"network's {key}": value for key, value in mine.pop("network").items()}
        theirs |= {f"network's {key}": value for key, value in theirs.pop("network").items()}
        keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        return [f"{key} {mine.get(key)}, not {theirs.get(key)}" for key in keys]

    def check_description(self, path: Path, weights: str, read: Callable[[], BridgeConfig]) -> None:
        """Check that the file beside the weights, which `read` reads, describes this bridge."""
        try:
            different = read().differences(self)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: describes no bridge ({error}); remove it, {weights} holds the same") from error
        if different:
            raise UserError(
                f"{path}: is not that of {weights} ({'; '.join(different[:3])}); put back the one that belongs to it, "
                f"or remove it: {weights} holds the same"
            )


def _positive(value: Any) -> int:
    if int(value) < 1:
        raise ValueError("is at least 1")
    return int(value)


def _range(value: Sequence[float] | None) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = map(float, value)
    if not -math.inf < low < high < math.inf:
        raise ValueError("is black and white, the lower first")
    return low, high


FIELDS = tuple(field.name for field in dataclasses.fields(BridgeConfig))
