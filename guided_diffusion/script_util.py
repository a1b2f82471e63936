"""`create_model`: a U-Net from the keyword arguments that ADM's scripts and published option files use."""

from typing import Any

from .presets import DEFAULTS, DIFFUSION_ARGUMENTS, parse_attention_resolutions, parse_channel_mult
from .unet import UNetModel


def create_model(image_size: int, num_channels: int, num_res_blocks: int, *more: Any, **others: Any) -> UNetModel:
    """The U-Net these arguments describe; see `UNetModel` for those not listed here.

    Args:
        more, others: those of `presets.DEFAULTS`, which has their order and defaults; the arguments of ADM's diffusion
            process are ignored.  Among them:
        channel_mult: numbers with commas between them, one per level; "" is ADM's choice for an image_size of
            64, 128, 256 or 512.
        attention_resolutions: image sizes with commas between them ("" for none): attention sits on the
            levels where the image is downsampled by image_size // resolution.
        learn_sigma: twice as many output channels.
        class_cond: one of 1000 classes is given with each image.
        num_groups, out_channels: not arguments of ADM's, whose networks have 32 and 3.

    Raises:
        ValueError: an unknown argument, or values that describe no network.
    """
    named = dict(zip(DEFAULTS, more))
    if len(named) < len(more):
        raise TypeError(f"create_model takes {3 + len(DEFAULTS)} arguments, got {3 + len(more)}")
    if twice := named.keys() & others.keys():
        raise TypeError(f"create_model got {min(twice)} twice")
    others = named | others
    unknown = [name for name in others if name not in (*DEFAULTS, *DIFFUSION_ARGUMENTS)]
    if unknown:
        raise ValueError(f"create_model knows no argument named {', '.join(unknown)}")
    given = {name: others.get(name, default) for name, default in DEFAULTS.items()}
    factors = [image_size // size for size in parse_attention_resolutions(given.pop("attention_resolutions"))]
    return UNetModel(
        image_size=image_size,
        model_channels=num_channels,
        num_res_blocks=num_res_blocks,
        attention_resolutions=factors,
        channel_mult=parse_channel_mult(given.pop("channel_mult"), image_size),
        num_classes=1000 if given.pop("class_cond") else None,
        out_channels=(2 if given.pop("learn_sigma") else 1) * given.pop("out_channels"),
        **given,
    )
