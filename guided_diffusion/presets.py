"""The named networks, as keyword arguments of `create_model`.  Imports no torch.

All networks are fully convolutional: a preset takes images of any size that its levels divide.  Its own
`image_size` only says which levels `attention_resolutions` means: attention sits where the image is
downsampled by image_size // resolution.  The middle block, at the lowest resolution, always has attention.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DEFAULT = "adm-256"
CHANNELS = 3  # of the images that a network restores, unless it says otherwise
NUM_GROUPS = 32  # of every group normalisation in ADM's networks

# What create_model takes when a preset says nothing else.
DEFAULTS: dict[str, Any] = {
    "channel_mult": "",
    "learn_sigma": False,
    "class_cond": False,
    "use_checkpoint": False,
    "attention_resolutions": "16",
    "num_heads": 1,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "dropout": 0,
    "resblock_updown": False,
    "use_fp16": False,
    "use_new_attention_order": False,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_groups": NUM_GROUPS,
}

# ADM's option files mix the network's arguments with these of its diffusion process, which is not ours.
DIFFUSION_ARGUMENTS = (
    "diffusion_steps",
    "noise_schedule",
    "use_kl",
    "predict_xstart",
    "rescale_timesteps",
    "rescale_learned_sigmas",
    "timestep_respacing",
)

# ADM's multipliers, one per level, for the image sizes it was published for.
CHANNEL_MULT = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}


def _adm(image_size: int, num_channels: int = 256, num_res_blocks: int = 2, **others: Any) -> dict[str, Any]:
    """The shape of ADM's published network for `image_size`, without its class labels and its variances."""
    return {
        **DEFAULTS,
        "image_size": image_size,
        "num_channels": num_channels,
        "num_res_blocks": num_res_blocks,
        "channel_mult": CHANNEL_MULT[image_size],
        "attention_resolutions": "32,16,8",
        "num_heads": 4,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        **others,
    }


def _small(image_size: int, num_res_blocks: int, channel_mult: str, **others: Any) -> dict[str, Any]:
    """ADM's blocks in a narrow network; plain convolutions change the size, which costs a CPU less.

    ADM-256 normalises 8 channels together at its narrowest.  So do these: with one channel to a group a network
    forgets how strong each image's contrasts are, and restores smooth images badly.
    """
    return {
        **DEFAULTS,
        "image_size": image_size,
        "num_channels": 32,
        "num_res_blocks": num_res_blocks,
        "channel_mult": channel_mult,
        "num_head_channels": 32,
        "use_scale_shift_norm": True,
        "num_groups": others.get("num_channels", 32) // 8,
        **others,
    }


# Name -> keyword arguments of `create_model`.
PRESETS: dict[str, dict[str, Any]] = {
    "adm-256": _adm(256, num_head_channels=64),
    "adm-64": _adm(64, 192, 3, num_head_channels=64, dropout=0.1, use_new_attention_order=True),
    "adm-128": _adm(128),
    "adm-512": _adm(512, num_head_channels=64),
    "tiny": _small(64, 1, "1,1,1", attention_resolutions=""),
    "small": _small(64, 2, "1,1,2,2", attention_resolutions="8"),
    "medium": _small(256, 2, "1,1,2,3,4", num_channels=64, attention_resolutions="32,16", resblock_updown=True),
}

# Name -> one line for --help.
ABOUT: dict[str, str] = {
    "adm-256": "553M parameters, ADM for 256 px: the network of the published weights",
    "adm-64": "295M parameters, ADM for 64 px (with its dropout of 0.1)",
    "adm-128": "420M parameters, ADM for 128 px",
    "adm-512": "558M parameters, ADM for 512 px",
    "tiny": "0.4M parameters, for crops of 32-64 px; trains in minutes on two CPU cores",
    "small": "1.9M parameters, for crops of 64-128 px; trains in hours on a CPU, faster on any GPU",
    "medium": "26M parameters, for images of 64-256 px; trains on a GPU with 8 GB",
}


def resolve(name: str, **overrides: Any) -> dict[str, Any]:
    """All keyword arguments of `create_model` for the preset `name`, in plain values that can be saved.

    `overrides` replace arguments (num_channels, channel_mult, dropout, ...) but image_size, which only gives
    attention_resolutions its meaning; None keeps the preset's.  num_heads counts only where num_head_channels is -1.

    Raises:
        ValueError: an unknown name or argument, or numbers that describe no network.
    """
    if name not in PRESETS:
        raise ValueError(f"no network named {name!r}; known: {', '.join(PRESETS)}")
    kwargs = dict(PRESETS[name])
    known = [key for key in kwargs if key != "image_size"]
    for key, value in overrides.items():
        if key not in known:
            raise ValueError(f"{key!r} cannot be changed in a named network; what can: {', '.join(known)}")
        if value is not None:
            kwargs[key] = value
    mult = parse_channel_mult(kwargs["channel_mult"], kwargs["image_size"])
    resolutions = parse_attention_resolutions(kwargs["attention_resolutions"])
    widths = level_widths(kwargs["num_channels"], mult, kwargs["num_groups"])
    levels = {kwargs["image_size"] // 2**i: width for i, width in enumerate(widths)}
    if not levels.keys() >= set(resolutions):
        wrong, there = (", ".join(map(str, sizes)) for sizes in (resolutions, levels))
        raise ValueError(f'attention_resolutions {wrong}: the levels of {name} are {there}; name some, or "" for none')
    for width in (*(levels[resolution] for resolution in resolutions), widths[-1]):
        heads_of(width, kwargs["num_heads"], kwargs["num_head_channels"])
    kwargs["channel_mult"] = ",".join(f"{m:g}" for m in mult)
    kwargs["attention_resolutions"] = ",".join(map(str, resolutions))
    return kwargs


def parse_channel_mult(value: str | Iterable[float], image_size: int) -> tuple[float, ...]:
    """ "1,2,2" (or the numbers themselves) -> (1, 2, 2); "" -> ADM's choice for `image_size`.

    Raises:
        ValueError: not positive numbers, or "" at a size for which ADM has no choice.
    """
    if isinstance(value, str) and not value.strip():
        if image_size not in CHANNEL_MULT:
            raise ValueError(f'channel_mult has no default for {image_size} px; name it, such as "1,2,2"')
        value = CHANNEL_MULT[image_size]
    return tuple(int(m) if m.is_integer() else m for m in _numbers("channel_mult", value, float))


def parse_attention_resolutions(value: str | Iterable[int]) -> tuple[int, ...]:
    """ "32,16,8" (or the numbers themselves) -> (32, 16, 8); "" -> ().  Raises ValueError for other values."""
    return tuple(_numbers("attention_resolutions", value, int))


def canonical(network: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `create_model` in one form, so that equal networks have equal ones.

    Left out is what changes neither the weights nor their meaning: dropout, use_checkpoint, use_fp16, and the
    arguments of ADM's diffusion process.  `resolve` and ADM's own option files both come out of this the same.

    Raises:
        ValueError: numbers that describe no levels.
    """
    left_out = (*DIFFUSION_ARGUMENTS, "dropout", "use_checkpoint", "use_fp16")
    full = {"image_size": 256, **DEFAULTS, **network}
    full = {key: value for key, value in full.items() if key not in left_out}
    mult = parse_channel_mult(full["channel_mult"], full["image_size"])
    factors = {full["image_size"] // size for size in parse_attention_resolutions(full["attention_resolutions"])}
    reachable = sorted(factors & {2**level for level in range(len(mult))})
    size = 2 ** max(8, len(mult))  # only gives attention_resolutions its meaning
    full |= {"image_size": size, "channel_mult": ",".join(f"{m:g}" for m in mult)}
    full["attention_resolutions"] = ",".join(str(size // factor) for factor in reachable)
    if full["num_head_channels"] != -1:
        full["num_heads"] = DEFAULTS["num_heads"]
    if full["num_heads_upsample"] == full["num_heads"] or full["num_head_channels"] != -1:
        full["num_heads_upsample"] = -1
    return full


def name_of(network: Mapping[str, Any]) -> str:
    """The preset that a network is, or is closest to, and what differs: "tiny (channel_mult 1,1)"."""
    ends = {"in_channels": CHANNELS, "out_channels": CHANNELS}
    mine, changed = canonical({**network, **ends}), {}
    for name, preset in PRESETS.items():
        theirs = canonical(preset)
        changed[name] = [f"{key} {network[key]}" for key in mine if key in network and mine[key] != theirs.get(key)]
    name = min(changed, key=lambda name: len(changed[name]))
    return f"{name} ({', '.join(changed[name])})" if changed[name] else name


def _numbers(name: str, value: str | Iterable[Any], kind: type) -> list[Any]:
    items = value.split(",") if isinstance(value, str) and value.strip() else value or ()
    try:
        numbers = [kind(item) for item in items]
    except ValueError:
        numbers = [0]
    if not all(0 < n < float("inf") for n in numbers):
        what = "integers" if kind is int else "numbers"
        raise ValueError(f"{name} is positive {what} with commas between them; got {value!r}")
    return numbers


def level_widths(model_channels: int, channel_mult: Sequence[float], num_groups: int) -> list[int]:
    """Channels of each level, checked."""
    for mult in channel_mult:
        width = mult * model_channels
        if width <= 0 or width % num_groups:
            raise ValueError(
                f"num_channels x channel_mult must be a multiple of {num_groups} on every level; "
                f"got {model_channels} x {mult:g} = {width:g}"
            )
    return [int(mult * model_channels) for mult in channel_mult]


def heads_of(channels: int, num_heads: int, num_head_channels: int) -> int:
    """Heads of an attention block of `channels` channels, checked."""
    name, divisor = ("num_heads", num_heads) if num_head_channels == -1 else ("num_head_channels", num_head_channels)
    if divisor <= 0 or channels % divisor:
        raise ValueError(f"{name} must divide the {channels} channels of every level with attention; got {divisor}")
    return divisor if num_head_channels == -1 else channels // divisor
