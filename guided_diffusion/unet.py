"""The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (Dhariwal and Nichol, 2021), known as ADM.

Module names, and the order in which modules are created, are ADM's: published weights load by name, and
published averages of weights (EMA) are lists in the order of `parameters()`.
"""

import functools
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .nn import Downsample, GroupNorm32, Upsample, conv3x3, multi_head_attention, pointwise, timestep_embedding, zero
from .presets import NUM_GROUPS, heads_of, level_widths


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the time embedding in between, beside a skip connection.

    [B,C,H,W], [B,E] -> [B,out_channels,H',W']; H' is H, H/2 (resample "down") or 2H ("up").  With
    `use_scale_shift_norm` the embedding scales and shifts normalised activations; else it is added before.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        resample: str | None = None,
        *,
        emb_channels: int,
        dropout: float,
        use_scale_shift_norm: bool,
        num_groups: int,
    ):
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.resample = resample
        self.in_layers = nn.Sequential(GroupNorm32(channels, num_groups), nn.SiLU(), conv3x3(channels, out_channels))
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels if use_scale_shift_norm else out_channels)
        )
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels, num_groups),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero(conv3x3(out_channels, out_channels)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, silu, conv = self.in_layers
        h = conv(self._resample(silu(norm(x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        norm, silu, dropout, conv = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, norm(h), 1 + scale)
        else:
            h = norm(h + emb)
        h = conv(dropout(silu(h)))
        return self.skip_connection(self._resample(x)) + h

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x


class AttentionBlock(nn.Module):
    """Self-attention of all pixels, added to the input.  [B,C,H,W] -> [B,C,H,W]."""

    def __init__(self, channels: int, num_heads: int, *, use_new_attention_order: bool, num_groups: int):
        super().__init__()
        self.num_heads = num_heads
        self.use_new_attention_order = use_new_attention_order
        self.norm = GroupNorm32(channels, num_groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B,HW,C]
        qkv = pointwise(self.qkv, tokens)
        h = multi_head_attention(qkv, self.num_heads, qkv_first=self.use_new_attention_order)
        return x + pointwise(self.proj_out, h).transpose(1, 2).unflatten(2, x.shape[2:])


class Blocks(nn.Sequential):
    """Blocks run one after the other; residual blocks are also given the time embedding.

    Blocks whose type is in `checkpointed` keep no activations for the backward pass: they compute them again.
    """

    checkpointed: tuple[type[nn.Module], ...] = ()

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        for block in self:
            args = (h, emb) if isinstance(block, ResBlock) else (h,)
            if isinstance(block, self.checkpointed) and torch.is_grad_enabled():
                h = checkpoint(block, *args, use_reentrant=False)
            else:
                h = block(*args)
        return h


class UNetModel(nn.Module):
    """ADM's U-Net: a noisy image and its time in, an image out.

    Args (names are ADM's):
        image_size: information only, the network is fully convolutional.
        in_channels, out_channels: channels of the images going in and coming out.
        model_channels: base width; level i has channel_mult[i] * model_channels channels, a multiple of num_groups.
        num_res_blocks: residual blocks per level on the way down (one more on the way up).
        attention_resolutions: downsampling factors (1, 2, 4, ...) of levels with attention; the middle always has it.
        dropout: probability of a zeroed activation in each residual block while training.
        channel_mult: one number per level, from full size down; each level is half as high and wide.
        num_classes: None, or the number of class labels that `forward` is given as `y`.
        use_checkpoint: `set_checkpointing("all")`.
        use_fp16: run the torso in float16 (see `convert_torso`).
        num_heads, num_heads_upsample: attention heads on the way down and up (-1: as on the way down), unless
        num_head_channels: channels per head (-1: by the number of heads) is given.
        use_scale_shift_norm: the time embedding scales and shifts the activations, instead of being added.
        resblock_updown: residual blocks change the size, instead of plain convolutions.
        use_new_attention_order: order of the channels of q, k, v and heads (see `nn.multi_head_attention`).
        num_groups: of each group normalisation; all of ADM's networks have 32.

    Raises:
        ValueError: no residual blocks, widths that are no multiple of num_groups or not divisible into the heads.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Iterable[int],
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        num_groups: int = NUM_GROUPS,
    ):
        super().__init__()
        if num_res_blocks < 1:
            raise ValueError(f"num_res_blocks must be at least 1; got {num_res_blocks}")
        widths = level_widths(model_channels, channel_mult, num_groups)
        attention_resolutions = frozenset(attention_resolutions)
        self.image_size = image_size
        self.in_channels = in_channels
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.num_classes = num_classes
        self.downsampling = 2 ** (len(widths) - 1)
        emb_channels = 4 * model_channels

        res = functools.partial(
            ResBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            use_scale_shift_norm=use_scale_shift_norm,
            num_groups=num_groups,
        )

        def attention(channels: int, heads: int = num_heads) -> AttentionBlock:
            heads = heads_of(channels, heads, num_head_channels)
            return AttentionBlock(
                channels, heads, use_new_attention_order=use_new_attention_order, num_groups=num_groups
            )

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)

        ch = widths[0]
        self.input_blocks = nn.ModuleList([Blocks(conv3x3(in_channels, ch))])
        skips = [ch]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                blocks = [res(ch, width)]
                ch = width
                if 2**level in attention_resolutions:
                    blocks.append(attention(ch))
                self.input_blocks.append(Blocks(*blocks))
                skips.append(ch)
            if level < len(widths) - 1:
                self.input_blocks.append(Blocks(res(ch, ch, "down") if resblock_updown else Downsample(ch)))
                skips.append(ch)

        self.middle_block = Blocks(res(ch, ch), attention(ch), res(ch, ch))

        self.output_blocks = nn.ModuleList()
        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                blocks = [res(ch + skips.pop(), width)]
                ch = width
                if 2**level in attention_resolutions:
                    blocks.append(attention(ch, heads_up))
                if level > 0 and i == num_res_blocks:
                    blocks.append(res(ch, ch, "up") if resblock_updown else Upsample(ch))
                self.output_blocks.append(Blocks(*blocks))

        self.out = nn.Sequential(GroupNorm32(ch, num_groups), nn.SiLU(), zero(conv3x3(ch, out_channels)))

        self.set_checkpointing("all" if use_checkpoint else "none")
        if use_fp16:
            self.convert_to_fp16()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The network's output [B,out_channels,H,W], float32 unless time_embed and out were converted as well.

        Args:
            x: images [B,in_channels,H,W]; H and W are multiples of `downsampling`.
            t: times [B], integers or not.
            y: class indices [B] if the network has classes, else None.

        Raises:
            ValueError: a shape that doesn't fit, classes missing or not asked for.
        """
        self._check(x, t, y)
        emb = self.time_embed(timestep_embedding(t, self.model_channels).to(self.time_embed[0].weight.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)

        h, emb = x.to(self.dtype), emb.to(self.dtype)
        skips = []
        for blocks in self.input_blocks:
            h = blocks(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for blocks in self.output_blocks:
            h = blocks(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h.to(self.out[-1].weight.dtype))

    @property
    def dtype(self) -> torch.dtype:
        """The precision the torso runs in."""
        return self.input_blocks[0][0].weight.dtype

    def convert_torso(self, dtype: torch.dtype) -> None:
        """Run input, middle and output blocks in `dtype`: float32, float16 or bfloat16, on any device.

        Convolutions and linear layers are converted (going back to float32 does not bring back lost digits);
        group norms stay float32, and so do time_embed and out: the network still gives float32.
        """
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
                    module.to(dtype)

    def convert_to_fp16(self) -> None:
        """Run the torso in float16."""
        self.convert_torso(torch.float16)

    def set_checkpointing(self, mode: str) -> None:
        """Which blocks compute their activations again in the backward pass: "none", "attention", or "all"."""
        modes = {"none": (), "attention": (AttentionBlock,), "all": (ResBlock, AttentionBlock)}
        for module in self.modules():
            if isinstance(module, Blocks):
                module.checkpointed = modes[mode]

    def _check(self, x: Tensor, t: Tensor, y: Tensor | None) -> None:
        c, n = self.in_channels, self.downsampling
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] % n or x.shape[3] % n:
            raise ValueError(f"x is [B,{c},H,W] for this network, H and W multiples of {n}; got {list(x.shape)}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t needs one time per image, shape [{len(x)}]; got {list(t.shape)}")
        classes = None if self.num_classes is None else x.shape[:1]
        if (None if y is None else y.shape) != classes:
            wanted = "no y" if classes is None else f"y [{len(x)}], one of {self.num_classes} classes per image"
            raise ValueError(f"this network takes {wanted}")
