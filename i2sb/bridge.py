"""A bridge from Python: load, restore, degrade, train.

bridge = Bridge.from_pretrained("sr4x-bicubic")
restored = bridge.restore(Image.open("small.png"))
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corruption.base import Corruption
from corruption.build import create_corruption
from corruption.geometry import height_width
from corruption.mask_bank import stored_bank
from corruption.registry import lookup
from guided_diffusion import presets
from i2sb import export, hub
from i2sb.batch import Given, degrade
from i2sb.ckpt_util import LATEST, RESULTS, find_weights, sampling_options, with_defaults
from i2sb.config import FIELDS, BridgeConfig
from i2sb.ema import ExponentialMovingAverage
from i2sb.errors import UserError
from i2sb.forms import Picture, fit_channels, mask_like, mask_tensor, opened
from i2sb.network import BridgeNet
from i2sb.noise import ImageNoise, TrainingDraws
from i2sb.operator_file import load_operators
from i2sb.options.parser import DEVICES
from i2sb.options.shared import PRECISIONS
from i2sb.precision import settle
from i2sb.runner import Runner
from i2sb.runtime.launch import pick_single_device
from i2sb.samplers import OnStep, fill_hole

TILE = 512  # side of the largest window, unless training's images are larger
_DEGRADING = 2**31  # added to the number of an image: its operator shares no noise with the sampler


class Bridge:
    """A trained bridge that restores and degrades pictures, or a new one to train in a loop of one's own.

    A 1-channel network restores colour channel by channel, a 3-channel network grey as grey; transparency is kept, and
    restored by a 4-channel network, for which pictures without it are opaque.
    `restore` and `degrade` may be called from several threads, but not while another thread trains.

    >>> import numpy as np, torch
    >>> bridge = Bridge.create({"task": "jpeg-10", "image_size": 32, "network": "tiny", "interval": 20}, device="cpu")
    >>> optimizer = torch.optim.AdamW(bridge.parameters(), lr=1e-3)
    >>> for _ in range(2):
    ...     x0 = torch.rand(2, 3, 32, 32) * 2 - 1
    ...     optimizer.zero_grad()
    ...     bridge.loss(x0, bridge.degrade(x0)).backward()
    ...     optimizer.step()
    ...     bridge.ema.update()
    >>> photograph = np.zeros((17, 30, 3), dtype=np.uint8)
    >>> restored = bridge.restore(bridge.degrade(photograph), nfe=2)
    >>> restored.shape, restored.dtype
    ((17, 30, 3), dtype('uint8'))
    >>> bridge.config.task
    'jpeg-10'
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self._lock = threading.Lock()
        self._swap = threading.RLock()
        self._operator: Corruption | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: str = "auto",
        precision: str = "fp32",
        *,
        trainable: bool = False,
        corruption_file: str | None = None,
    ) -> Bridge:
        """Load a trained bridge, with the average of its weights.

        Args:
            name_or_path: a name in results/ of the current folder, a folder with latest.pt or exported weights, one
                of these files, the name of a demo model, see `i2sb.export.demos`, or ORG/NAME on the Hugging Face hub.
            device: "auto" (a GPU if there is one), "cpu", "mps", "cuda" or "cuda:1".
            precision: fp32, tf32, bf16, fp16 or auto.
            trainable: keep what `loss` needs; training then continues from the average.
            corruption_file: your own operator of the task, where the checkpoint's is not there, see docs/tasks.md.

        Raises:
            UserError: no such checkpoint, or it is damaged; no such GPU here.
            ValueError: device or precision are none of these.
        """
        asked = argparse.Namespace(device=_device(device, precision), precision=precision)
        asked.network = asked.channels_last = asked.nfe = asked.eta = None
        asked.sampler = "ddpm"
        if trainable:
            settle(asked)
        opt, _ = sampling_options(asked, locate(name_or_path))
        load_operators(opt, corruption_file, _quiet())
        runner = Runner(opt, _quiet(), save_opt=False)
        if trainable:
            runner.ema.copy_to()
            runner.ema.follow()
        else:
            runner.keep_average_only()
        return cls(runner)

    @classmethod
    def create(cls, config: BridgeConfig | Mapping[str, Any], device: str = "auto", precision: str = "fp32") -> Bridge:
        """A new bridge with random weights.

        Args:
            config: the bridge; or a mapping with its fields, where "network" may be a preset's name and what is left
                out has the default of train.py.  A task of "paired" has no operator: give pairs to `loss`.
            device, precision: see `from_pretrained`; products in bf16 and fp16 only, the weights are float32.

        Raises:
            ValueError: fields that make no bridge.
        """
        values = config.to_dict() if isinstance(config, BridgeConfig) else dict(config)
        if isinstance(network := values.get("network", presets.DEFAULT), str):
            values["network"] = presets.resolve(network)
        if unknown := sorted({*values} - {*FIELDS}):
            raise ValueError(f"a bridge has no {unknown[0]!r}; its fields are {', '.join(FIELDS)}")
        opt = with_defaults(argparse.Namespace(corrupt=lookup(str(values.pop("task", None))).name, **values))
        opt.device, opt.precision, opt.no_pretrained = _device(device, precision), precision, True
        return cls(Runner(opt, _quiet(), save_opt=False))

    @property
    def config(self) -> BridgeConfig:
        """What this bridge is."""
        return self.runner.config

    @property
    def net(self) -> BridgeNet:
        """The network: (xt [B,C,H,W], step [B], cond) -> label [B,C,H,W], Eq. 12."""
        return self.runner.net

    @property
    def ema(self) -> ExponentialMovingAverage | None:
        """The average of the weights; `update()` after each optimizer step.  None for a bridge that only restores.

        As long as nobody has updated it, the weights themselves restore and are saved.
        """
        return self.runner.ema

    @property
    def tile(self) -> int:
        """Side of the largest window that the network sees at once, the default of `restore` [pixels]."""
        return max(TILE, *height_width(self.config.image_size))

    # Training

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What an optimizer takes."""
        return self.net.parameters()

    def loss(self, x0: Tensor, x1: Tensor | None, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """The loss of a batch as train.py computes it, a scalar; steps and noise from torch's global generators.

        Args:
            x0: clean images [B,C,H,W] in [-1,1].
            x1: the degraded images [B,C,H,W]; None with a mask, whose holes are cut into x0.
            mask: [B,1,H,W], 1 = hole, which is filled with noise and alone counts.
            cond: [B,C,H,W], what the network of a bridge with cond_x1 sees besides; None: x1.
        """
        if self.ema is None:
            raise ValueError("this bridge only restores: load it by from_pretrained(..., trainable=True)")
        self.net.train()
        given = Given(x0, x1, mask=mask, cond=cond).to(self.runner.device)
        draws = TrainingDraws(device=self.runner.device)
        return self.runner.training_loss(given, None, draws, self.runner.forward)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ema.safetensors, which `from_pretrained` and, in results/NAME, sample.py load; see `export`.

        Raises:
            UserError: the folder cannot be written to, or has a latest.pt, which would be loaded in their place.
        """
        if (Path(folder) / LATEST).exists():
            raise UserError(
                f"{folder}: has a {LATEST}, which would be loaded in place of these weights; choose another"
            )
        if self.ema is None:
            raise ValueError("this bridge only restores: load it by from_pretrained(..., trainable=True) to save it")
        self._settle()
        export.export(self.runner, Path(folder))

    def _settle(self) -> None:
        """Where nobody averages, the average is the weights."""
        if self.ema is not None and not self.ema.num_updates:
            self.ema.follow()

    # Pictures

    def restore(
        self,
        images: Picture | Sequence[Picture],
        nfe: int | None = 10,
        seed: int = 0,
        mask: Picture | Sequence[Picture] | None = None,
        tile: int | None = None,
        *,
        cond: Tensor | None = None,
        clip_denoise: bool = False,
        on_step: OnStep | None = None,
        **sampler: Any,
    ) -> Picture | list[Picture]:
        """Restore degraded pictures of any size; equal to what sample.py --input makes of them.

        For super-resolution, small pictures are enlarged first; those that the task itself has shown at full size
        (blocks of equal pixels, as `degrade` gives them) are taken as they are.

        Args:
            images: see `Picture`; one, or a list.
            nfe: network calls, 1 .. interval - 1 (None: interval - 1).
            seed: of all noise.  Each image of a list or batch is restored as if it were alone.
            mask: for inpainting, white = hole: a PIL image, an array [H,W] (bool, or as `images`), or a tensor
                [B,1,H,W] with 1 = hole.  One for all images, or a list of one each.
            tile: side of the largest window that the network sees at once [pixels]; None: `Bridge.tile`.  Less needs
                less memory.
            cond: what a bridge with cond_x1 was trained to see besides, see `loss`; a tensor, for one tensor.
            clip_denoise: clamp predicted clean images to [-1,1] at each step.
            on_step: see `samplers.sample`.
            sampler: `sampler`, `eta` and `spacing`, see `Runner.ddpm_sampling`.

        Returns:
            the same kinds as given: a PIL image for a PIL image, an array of its dtype, a tensor (not clamped).

        Raises:
            ValueError: a picture, mask, number or size that does not fit.
        """
        several = isinstance(images, Sequence)
        images = images if several else [images]
        masks = mask if isinstance(mask, Sequence) else [mask] * len(images)
        if len(masks) != len(images):
            raise ValueError(f"{len(masks)} masks for {len(images)} images: give one for all, or one each")
        sampling = {"nfe": nfe, "tile": tile, "cond": cond, "clip_denoise": clip_denoise, "on_step": on_step, **sampler}
        done = []
        for image, hole in zip(images, masks):
            holes = None if hole is None else mask_tensor(hole)
            x, back = opened(image, self.config.channels, self.config.value_range)
            done.append(back(self.restore_tensor(x, seed, holes, **sampling)))
        return done if several else done[0]

    def restore_tensor(
        self,
        x1: Tensor,
        seed: int,
        mask: Tensor | None = None,
        *,
        cond: Tensor | None = None,
        tile: int | None = None,
        is_shown: bool = False,
        **sampling: Any,
    ) -> Tensor:
        """`restore` for one batch [B,C,H,W] float32 in [-1,1], mask [B,1,H,W]: a batch on the CPU, not clamped.

        is_shown: x1 is what the task's operator has given, so it is not enlarged.
        sampling: as `Runner.ddpm_sampling`.
        """
        task = lookup(self.config.task)
        if task.scale > 1 and not is_shown and not _is_shown(x1, task.scale):
            x1 = task.enlarge(x1)
        if task.has_mask and mask is None:
            raise ValueError(f"{self.config.task}: give a mask of the same size, white where something is missing")
        if mask is not None:
            if not task.has_mask:
                raise ValueError(f"{self.config.task}: takes no mask, it restores the whole picture")
            if mask.shape[2:] != x1.shape[2:]:
                sizes = [f"{t.shape[3]}x{t.shape[2]}" for t in (mask, x1)]
                raise ValueError(f"the mask has {sizes[0]} pixels, the picture {sizes[1]}: they must be the same")
            if len(mask) not in (1, len(x1)):
                raise ValueError(f"{len(mask)} masks for a batch of {len(x1)}: give one, or one each")
            mask = mask.expand(len(x1), -1, -1, -1)
        count = len(x1)
        x1, back = fit_channels(x1, self.config.channels)
        if mask is not None:
            mask = mask.repeat_interleave(len(x1) // count, 0)
        cond = None if cond is None else fit_channels(cond, self.config.channels)[0]
        x1 = x1.to(self.runner.device)
        ends = Given(x1, x1, mask=mask, cond=cond).to(self.runner.device)
        sampling |= {"log_count": 1, "tile": tile or self.tile}
        # where there are weights besides their average, the two change places meanwhile
        with contextlib.nullcontext() if self.ema is None else self._swap:
            self._settle()
            _, states, _ = self.runner.restore(ends, None, [0] * len(x1), seed, **sampling)
        restored = states[:, 0]
        if not restored.isfinite().all():
            raise ValueError("restored to NaN or inf; fp32 or bf16 may help")
        if mask is not None:  # most samplers leave a trace of noise
            restored = fill_hole(x1.cpu(), mask.cpu(), restored)
        return back(restored)

    def degrade(self, images: Picture | Sequence[Picture], seed: int = 0) -> Any:
        """Apply the bridge's task to clean pictures: the degraded ones, or for inpainting (degraded, masks).

        Each picture of a list, and image of a batch, is degraded as the one at its place in an evaluation.

        Args:
            images: as those of `restore`.
            seed: of the noise that some tasks add.

        Returns:
            the same kinds as given.  Masks are white (PIL: 255, arrays: True, tensors [B,1,H,W]: 1) in the hole,
            which is white in the degraded picture.

        Raises:
            ValueError: a size or number of channels that the task is not defined for, or a task without operator.
        """
        several = isinstance(images, Sequence)
        shown, holes, position = [], [], 0
        for image in images if several else [images]:
            x, back = opened(image, self.config.channels, self.config.value_range)
            x1, mask = self.degrade_tensor(x, range(position, position + len(x)), seed)
            position += len(x)
            shown.append(back(x1))
            holes.append(None if mask is None else mask_like(image, mask))
        found = (shown, holes) if several else (shown[0], holes[0])
        return found if lookup(self.config.task).has_mask else found[0]

    def degrade_tensor(self, x0: Tensor, positions: Sequence[int], seed: int) -> tuple[Tensor, Tensor | None]:
        """`degrade` for one batch [B,C,H,W] in [-1,1]: (degraded, mask [B,1,H,W] or None), on the CPU.

        positions: of the images in the evaluation order [B].
        """
        noise = ImageNoise(seed, [_DEGRADING + p for p in positions], self.runner.device)
        with self._lock:  # the operator, and torch's global precision
            operator, x0 = self._operator_of(x0), x0.to(self.runner.device)
            x1, mask = degrade(x0, operator, torch.tensor(list(positions)), randn=noise.randn_like)
        return x1.cpu().contiguous(), None if mask is None else mask.cpu()

    def baseline_tensor(self, x1: Tensor, mask: Tensor | None) -> Tensor:
        """The task's classical answer to degraded pictures [B,C,H,W], see `Corruption.baseline`, on the CPU."""
        with self._lock:
            return self._operator_of(x1).baseline(x1, mask)

    def _operator_of(self, x: Tensor) -> Corruption:
        """The task for pictures of this size."""
        size = tuple(x.shape[2:])
        if self._operator is None or self._operator.image_size != size:
            self._operator = create_corruption(self.config.task, size, self.runner.device, stored_bank)
        return self._operator


def locate(name_or_path: str | Path) -> Path:
    """The folder or file that a bridge is loaded from: weights of results/NAME, else a path, else a demo model.

    Where there is none of these, ORG/NAME is fetched from the Hugging Face hub.  Raises UserError.
    """
    name, is_ours = str(name_or_path), (RESULTS / name_or_path).is_dir()
    if Path(name).exists() and not is_ours:
        return Path(name)
    is_ours = is_ours or RESULTS in Path(name).parents  # a mistyped path is no name of the hub
    return hub.fetch(name) if hub.NAME.fullmatch(name) and not is_ours else find_weights(name)


def _device(device: str, precision: str) -> str:
    for value, known in ((str(device).partition(":")[0], DEVICES), (precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{value!r}: choose one of {', '.join(known)}")
    return pick_single_device(str(device))


def _is_shown(x: Tensor, scale: int) -> bool:
    """Whether the pictures are small ones that were enlarged: blocks of equal pixels, of more than one colour."""
    blocks = x[..., ::scale, ::scale]
    rows, columns = (torch.arange(length, device=x.device) // scale for length in x.shape[2:])
    return bool((blocks != blocks[..., :1, :1]).any() and (x == blocks[..., rows[:, None], columns]).all())


def _quiet() -> logging.Logger:
    log = logging.Logger("i2sb", logging.WARNING)
    log.addHandler(logging.StreamHandler())
    return log
