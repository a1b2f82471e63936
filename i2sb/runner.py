"""The two algorithms of I2SB: training (Alg. 1) and sampling (Alg. 2) of a bridge between images.

Alg. 1: draw a pair (x0, x1) and a step n; draw x_n from Eq. 11; move the network towards Eq. 12.
Alg. 2: from x1, step by step: predict x0 by Eq. 12, draw the next state from Eq. 4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from i2sb.batch import make_batch
from i2sb.checkpoint_check import check_checkpoint
from i2sb.ckpt_util import load_checkpoint, save_options, with_defaults
from i2sb.diffusion import Diffusion, Noise, label_from_x0, x0_from_label
from i2sb.ema import ExponentialMovingAverage
from i2sb.errors import UserError
from i2sb.initial_weights import load_initial
from i2sb.network import BridgeNet, build_network
from i2sb.noise import TrainingDraws
from i2sb.precision import LOW, autocast, set_float32_products
from i2sb.resume import iterations_done
from i2sb.runtime.safe_torch import check_state
from i2sb.schedule import make_betas, sampling_steps


class Runner:
    """A bridge with its network: trains, and restores images.

    Args:
        opt: options as those of train.py (missing ones take their defaults); `opt.ckpt_path` is the folder of
            the results, `opt.load` the latest.pt to take the weights from, or None.
        log: anything with info, warning and error.
        save_opt: write options.pkl and options.json into `opt.ckpt_path`.

    Attributes:
        diffusion: the bridge's tables and posterior.
        net: the network; state dict keys are `diffusion_model.*`.
        ema: the average of its weights.

    Raises:
        UserError: options or files that do not fit.
    """

    def __init__(self, opt: Any, log: Any, save_opt: bool = True):
        self.opt = opt = with_defaults(opt)
        self.log = log
        self.device = torch.device(opt.device)
        set_float32_products(opt.precision)
        try:
            self.diffusion = Diffusion(make_betas(opt.interval, opt.beta_max), opt.device)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.loaded = load_checkpoint(opt.load) if getattr(opt, "load", None) else None
        self.net = build_network(opt, log, self._check_loaded)
        if save_opt:
            opt.network = {**self.net.kwargs}
            save_options(opt, Path(opt.ckpt_path))
        if self.loaded is None:
            load_initial(self.net, opt, log)
        else:
            # without its attribute _metadata: torch would use what a file says there, and our layers have one version
            self.net.load_state_dict(dict(self.loaded["net"]))
            log.info(f"[Net] weights of {opt.load}")
        self.net.to(self.device)
        if opt.channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.ema = ExponentialMovingAverage(self.net.parameters(), decay=opt.ema)
        if self.loaded is not None:
            self._load_average(opt.load)
        self.forward = torch.compile(self.net) if opt.compile else self.net

    def _check_loaded(self, unallocated: BridgeNet) -> None:
        """Before a file's idea of a network takes any memory: it must be the one whose weights are there."""
        if self.loaded is not None:
            check_state(self.opt.load, self.loaded["net"], unallocated.state_dict())
            check_checkpoint(self.opt.load, self.loaded, list(unallocated.parameters()))

    def _load_average(self, path: str | Path) -> None:
        if self.loaded["ema"] is None:  # exported weights are the average
            return
        decay = self.ema.decay
        try:
            self.ema.load_state_dict(self.loaded["ema"])
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: its average of weights does not fit: {error}") from error
        if "ema" in self.opt.given:
            self.ema.decay = decay

    def loaded_iteration(self) -> int:
        """After which iteration the loaded checkpoint was saved; 0 without one."""
        return 0 if self.loaded is None else iterations_done(self.loaded)

    # Alg. 1

    def compute_label(self, step: Tensor, x0: Tensor, xt: Tensor) -> Tensor:
        """What the network should say at xt, Eq. 12.  step: LongTensor [B]; x0, xt: [B,C,H,W]."""
        return label_from_x0(self.diffusion.get_std_fwd(step, xdim=x0.shape[1:]), x0, xt).detach()

    def training_loss(self, x0: Tensor, corrupt: Callable, draws: TrainingDraws, forward: Callable) -> Tensor:
        """The loss of one micro-batch of clean images [B,3,S,S], a number to be minimised."""
        opt = self.opt
        batch = make_batch(
            x0,
            corrupt,
            cond_x1=opt.cond_x1,
            add_x1_noise=opt.add_x1_noise,
            integers=draws.integers,
            randn=draws.randn_like,
        )
        step = draws.integers(opt.interval, len(x0)).to(x0.device, non_blocking=True)
        xt = self.diffusion.q_sample(step, x0, batch.x1, opt.ot_ode, randn=draws.randn_like)
        label = self.compute_label(step, x0, xt)
        with autocast(self.device, opt.precision):
            pred = forward(self._layout(xt), step, cond=batch.cond)
        if batch.mask is not None:  # only the hole counts, but the mean is over all pixels
            pred, label = pred * batch.mask, label * batch.mask
        return F.mse_loss(pred.float(), label)

    def train(
        self,
        opt: Any,
        train_dataset: Any,
        val_dataset: Any,
        corrupt_method: Callable,
        *,
        writer: Any = None,
        judges: dict[str, Callable] | None = None,
    ) -> bool:
        """Train from where the checkpoint (if any) ends to `opt.num_itr` iterations.

        Args:
            opt: the options; those of the constructor, or others with the same bridge.
            train_dataset, val_dataset: items (image [3,S,S] in [-1,1], class index).
            corrupt_method: see `batch.make_batch`.
            writer: takes scalars and images, see `runtime.writers`; None: nothing is written but the log.
            judges: name -> function (images, clean, labels) -> scores [B], for evaluations.

        Returns True when all iterations are done, False when a signal ended them early; either way
        latest.pt is saved.

        Raises:
            UserError: a batch that does not divide, a full disk, too many steps without finite gradients.
        """
        from i2sb.training import Training

        self.opt = opt = with_defaults(opt)
        with Training(self, opt, train_dataset, val_dataset, corrupt_method, writer, judges) as training:
            return training.run()

    # Alg. 2

    def compute_pred_x0(self, step: Any, xt: Tensor, net_out: Tensor, clip_denoise: bool = False) -> Tensor:
        """The clean image that the network's output means, Eq. 12 solved for x0; `clip_denoise`: in [-1,1]."""
        x0 = x0_from_label(self.diffusion.get_std_fwd(step, xdim=xt.shape[1:]), net_out.to(xt.dtype), xt)
        return x0.clamp(-1.0, 1.0) if clip_denoise else x0

    def ddpm_sampling(
        self,
        opt: Any,
        x1: Tensor,
        mask: Tensor | None = None,
        cond: Tensor | None = None,
        clip_denoise: bool = False,
        nfe: int | None = None,
        log_count: int = 10,
        verbose: bool = True,
        *,
        randn: Noise = torch.randn_like,
        redraw_hole: bool | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Restore degraded images with the averaged weights.

        Args:
            opt: `ot_ode` and `interval` are read.
            x1: [B,3,S,S] in about [-1,1]; mask: [B,1,S,S], 1 = hole; cond: [B,3,S,S] for --cond-x1.
            nfe: network calls; default: one less than the number of steps.
            log_count: how many states are recorded at most.
            randn, on_step: see `Diffusion.ddpm_sampling`.
            redraw_hole: fill the hole with fresh noise first; default: unless cond already holds its noise.

        Returns:
            (xs, pred_x0s): states and predictions [B,K,3,S,S] on the CPU; index 0 is the final image.

        Raises:
            ValueError: nfe is not in 1 .. interval - 1.
        """
        steps, log_steps = sampling_steps(opt.interval, nfe or opt.interval - 1, log_count)
        x1 = x1.to(self.device)
        mask = None if mask is None else mask.to(self.device)
        cond = None if cond is None else cond.to(self.device)
        numbers = torch.arange(opt.interval, device=self.device)

        def pred_x0(xt: Tensor, step: int) -> Tensor:
            out = self.forward(self._layout(xt), numbers[step].expand(len(xt)), cond=cond)
            return self.compute_pred_x0(step, xt, out, clip_denoise)

        with self.average_weights(), torch.inference_mode():
            return self.diffusion.ddpm_sampling(
                steps,
                pred_x0,
                x1,
                mask=mask,
                ot_ode=opt.ot_ode,
                log_steps=log_steps,
                verbose=verbose,
                randn=randn,
                redraw_hole=cond is None if redraw_hole is None else redraw_hole,
                on_step=on_step,
            )

    @contextlib.contextmanager
    def average_weights(self) -> Iterator[None]:
        """Averaged weights and no dropout inside the block."""
        training = self.net.training
        self.net.eval()
        with contextlib.nullcontext() if self.ema is None else self.ema.average_parameters():
            yield
        self.net.train(training)

    def keep_average_only(self) -> None:
        """For good: averaged weights in the network, in the precision of the options, all other memory freed."""
        self.ema.copy_to()
        self.ema = self.loaded = None
        if self.opt.precision in LOW:
            self.net.diffusion_model.convert_torso(LOW[self.opt.precision])
        self.net.eval().requires_grad_(False)

    def _layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.opt.channels_last else x
