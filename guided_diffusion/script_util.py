"""`create_model`: a U-Net from the keyword arguments that ADM's scripts and published option files use."""

from typing import Any

from .presets import CHANNELS, DIFFUSION_ARGUMENTS, NUM_GROUPS, parse_attention_resolutions, parse_channel_mult
from .unet import UNetModel


def create_model(
    image_size: int,
    num_channels: int,
    num_res_blocks: int,
    channel_mult: str = "",
    learn_sigma: bool = False,
    class_cond: bool = False,
    use_checkpoint: bool = False,
    attention_resolutions: str = "16",
    num_heads: int = 1,
    num_head_channels: int = -1,
    num_heads_upsample: int = -1,
    use_scale_shift_norm: bool = False,
    dropout: float = 0,
    resblock_updown: bool = False,
    use_fp16: bool = False,
    use_new_attention_order: bool = False,
    in_channels: int = CHANNELS,
    out_channels: int = CHANNELS,
    num_groups: int = NUM_GROUPS,
    **others: Any,
) -> UNetModel:
    """The U-Net these arguments describe; see `UNetModel` for those not listed here.

    Args:
        channel_mult: numbers with commas between them, one per level; "" is ADM's choice for an image_size of
            64, 128, 256 or 512.
        attention_resolutions: image sizes with commas between them ("" for none): attention sits on the
            levels where the image is downsampled by image_size // resolution.
        learn_sigma: twice as many output channels.
        class_cond: one of 1000 classes is given with each image.
        num_groups, out_channels: not arguments of ADM's, whose networks have 32 and 3.
        others: the arguments of ADM's diffusion process, which are ignored.

    Raises:
        ValueError: an unknown argument, or values that describe no network.
    """
    unknown = [name for name in others if name not in DIFFUSION_ARGUMENTS]
    if unknown:
        raise ValueError(f"create_model knows no argument named {', '.join(unknown)}")
    return UNetModel(
        image_size=image_size,
        in_channels=in_channels,
        model_channels=num_channels,
        out_channels=2 * out_channels if learn_sigma else out_channels,
        num_res_blocks=num_res_blocks,
        attention_resolutions=[image_size // size for size in parse_attention_resolutions(attention_resolutions)],
        dropout=dropout,
        channel_mult=parse_channel_mult(channel_mult, image_size),
        num_classes=1000 if class_cond else None,
        use_checkpoint=use_checkpoint,
        use_fp16=use_fp16,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_new_attention_order=use_new_attention_order,
        num_groups=num_groups,
    )
