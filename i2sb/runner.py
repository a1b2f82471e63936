"""A bridge with its network, under the published names.

Alg. 1: draw a pair (x0, x1) and a step n; draw x_n from Eq. 11; move the network towards Eq. 12: `training_loss`
here, in the loop of `training`.  Alg. 2: from x1, step by step: predict x0 by Eq. 12 (`compute_pred_x0`), draw the
next state from Eq. 4: `samplers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2sb.batch import Batch, Given, make_batch
from i2sb.ckpt_util import bridge_of, load_checkpoint, options_to_save, save_options, with_defaults
from i2sb.config import BridgeConfig
from i2sb.diffusion import Diffusion, label_from_x0, x0_from_label
from i2sb.ema import ExponentialMovingAverage, average_decay
from i2sb.errors import UserError
from i2sb.initial_weights import load_fitting, load_initial, load_weights
from i2sb.loss import Balance, Perceptual, earlier_step
from i2sb.network import build_network
from i2sb.noise import ImageNoise, Noise, TrainingDraws
from i2sb.precision import LOW, autocast, set_float32_products, settle, slower_than_fp32
from i2sb.resume import iterations_done
from i2sb.runtime.logger import of_all_ranks
from i2sb.runtime.memory import kept_memory
from i2sb.samplers import OnStep, fill_hole
from i2sb.schedule import make_betas, ramp, sampling_steps
from i2sb.tiles import in_windows


def make_beta_schedule(n_timestep: int = 1000, linear_start: float = 1e-4, linear_end: float = 2e-2) -> np.ndarray:
    """The published name of `schedule.ramp`: float64 [n_timestep]."""
    return ramp(n_timestep, linear_start, linear_end)


class Runner:
    """A bridge with its network: trains, and restores images.

    Args:
        opt: options as those of train.py (missing ones take their defaults); `opt.ckpt_path` is the folder of
            the results, `opt.load` the latest.pt to take the weights from, or None.
        log: anything with info, warning and error.
        save_opt: write options.pkl and options.json into `opt.ckpt_path`.

    Attributes:
        config: what this bridge is.
        diffusion: the bridge's tables and posterior.
        net: the network; state dict keys are `diffusion_model.*`.
        ema: the average of its weights.
        identity: tells the loaded average from others; None for a new network.

    Raises:
        UserError: options or files that do not fit.
    """

    def __init__(self, opt: Any, log: Any, save_opt: bool = True):
        self.opt = opt = with_defaults(opt)
        settle(opt)
        self.log = log
        self.device = torch.device(opt.device)
        set_float32_products(opt.precision)
        if slower_than_fp32(self.device, opt.precision):
            slow = f"[Net] {opt.precision}: slow, this processor has no instructions for it; fp32 is faster"
            of_all_ranks(log, opt.global_rank).warning(slow)
        self.config: BridgeConfig = bridge_of(opt)
        self.diffusion = Diffusion(make_betas(opt.interval, opt.beta_max), opt.device)
        self.net = build_network(opt, log)
        if save_opt:
            save_options(options_to_save(opt, self.net.kwargs), Path(opt.ckpt_path))
        self.loaded, self.identity = None, None
        if getattr(opt, "load", None):
            self.loaded = load_checkpoint(opt.load, log)
            self.identity = self.loaded["identity"]
            load_weights(self.net, self.loaded["net"], opt.load)
            log.info(f"[Net] weights of {opt.load}")
        elif opt.init_from is not None:
            said = load_fitting(self.net, load_checkpoint(opt.init_from, log), opt.init_from)
            log.info(f"[Net] initial weights: {opt.init_from}{said and f'; {said}'}")
        elif opt.no_pretrained:
            log.info("[Net] random weights")
        else:
            load_initial(self.net, named=bool(getattr(opt, "network", None)), log=log)
        self.net.to(self.device)
        if opt.channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.ema = ExponentialMovingAverage(self.net.parameters(), decay=average_decay(opt))
        if self.loaded is not None and self.loaded["ema"] is not None:  # exported weights are the average
            try:
                self.ema.load_state_dict(self.loaded["ema"])
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(f"{opt.load}: its averaged weights do not fit: {error}") from error
            if "ema" in opt.given or opt.ema_halflife_images:
                self.ema.decay = average_decay(opt)
        self.forward = torch.compile(self.net) if opt.compile else self.net

    def loaded_iteration(self) -> int:
        """After which iteration the loaded checkpoint was saved; 0 without one."""
        return 0 if self.loaded is None else iterations_done(self.loaded)

    # Alg. 1

    def compute_label(self, step: Tensor, x0: Tensor, xt: Tensor) -> Tensor:
        """What the network should predict at xt, Eq. 12.  step: LongTensor [B]; x0, xt: [B,C,H,W]."""
        return label_from_x0(self.diffusion.get_std_fwd(step, xdim=x0.shape[1:]), x0, xt).detach()

    def training_loss(
        self,
        given: Given,
        corrupt: Callable,
        draws: TrainingDraws,
        forward: Callable,
        balance: Balance | None = None,
        perceptual: Perceptual | None = None,
        halved: int = 0,
    ) -> Tensor:
        """The loss of one micro-batch, a scalar.

        Args:
            given: on this runner's device; corrupt: see `batch.make_batch`.
            draws: source of all random numbers.
            forward: the network, or what wraps it.
            balance, perceptual: weight of the steps, and a further term; None: as published.
            halved: train towards the network's own answer at `loss.earlier_step`; 0: towards x0.
        """
        opt = self.opt
        batch = make_batch(
            given,
            corrupt,
            cond_x1=opt.cond_x1,
            add_x1_noise=opt.add_x1_noise,
            integers=draws.integers,
            randn=draws.randn_like,
        )
        x0 = batch.x0
        step = draws.integers(opt.interval, len(x0)).to(x0.device, non_blocking=True)
        randn, target = draws.randn_like, x0
        if halved:
            z, earlier = randn(x0), earlier_step(step, halved)
            randn = lambda _: z  # noqa: E731  both steps lie on one path
            target = self._own_answer(earlier, batch, forward, randn)
        xt = self.diffusion.q_sample(step, x0, batch.x1, opt.ot_ode, randn=randn)
        label = self.compute_label(step, target, xt)
        with autocast(self.device, opt.precision):
            pred = forward(self._layout(xt), step, cond=batch.cond)
        x0_hat = self.compute_pred_x0(step, xt, pred) if perceptual else None
        if batch.mask is not None:  # only the hole counts, but the mean is over all pixels
            pred, label = pred * batch.mask, label * batch.mask
            x0_hat = fill_hole(x0, batch.mask, x0_hat) if perceptual else None
        if balance is None:
            loss = F.mse_loss(pred.float(), label)
        else:
            balance.measure(x0, batch.x1, batch.mask)
            weight = balance.weight(self.diffusion.get_std_fwd(step, xdim=x0.shape[1:]))
            loss = (weight * (pred.float() - label).square()).mean()
        if halved:
            loss = loss * 2**halved  # as the compared steps come closer, so do the answers
        return loss + perceptual(x0_hat, x0, step) if perceptual else loss

    def _own_answer(self, step: Tensor, batch: Batch, forward: Callable, randn: Noise) -> Tensor:
        """The network's x0 at `step` of the path that `randn` draws, without gradient; the clean image at step 0."""
        with torch.no_grad():
            xt = self.diffusion.q_sample(step, batch.x0, batch.x1, self.opt.ot_ode, randn=randn)
            with autocast(self.device, self.opt.precision):
                pred = forward(self._layout(xt), step, cond=batch.cond)
            x0_hat = self.compute_pred_x0(step, xt, pred.float())
            return torch.where((step == 0).view(-1, 1, 1, 1), batch.x0, x0_hat)

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
        """Train from where the checkpoint (if any) ends to `opt.num_itr` iterations, and save.

        Args:
            opt: the options; those of the constructor, or others with the same bridge.
            train_dataset: items (image [C,H,W] in [-1,1], class index), or others of `batch.unpack`.
            val_dataset: the same; None where opt.eval_every is 0.
            corrupt_method: see `batch.make_batch`.
            writer: takes scalars and images, see `runtime.writers`; None: the one that opt.log_writer names.
            judges: name -> function (images, clean, labels) -> scores [B], for evaluations.

        Returns True when all iterations are done, False when a signal ended them early.

        Raises:
            UserError: a batch that does not divide, a full disk, too many consecutive steps with NaN or inf.
        """
        from i2sb.runtime.writers import build_writer
        from i2sb.training import Training

        self.opt = opt = with_defaults(opt)
        settle(opt)
        shown = contextlib.nullcontext(writer)
        if writer is None and opt.log_writer:
            shown = build_writer(opt, network=self.net.kwargs, start=self.loaded_iteration())
        with shown as writer:
            return Training(self, opt, train_dataset, val_dataset, corrupt_method, writer, judges).run()

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
        redraw_hole: bool = True,
        on_step: OnStep | None = None,
        sampler: str = "ddpm",
        eta: float | None = None,
        spacing: str = "uniform",
        tile: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Restore degraded images with the averaged weights.  The network is in evaluation mode afterwards.

        Args:
            opt: `ot_ode` and `interval` are read.
            x1: [B,C,H,W] in about [-1,1]; mask: [B,1,H,W], 1 = hole; cond: [B,C,H,W] for --cond-x1.
            nfe: network calls; default: see `schedule.num_evaluations`.
            log_count: how many states are recorded at most.
            randn, on_step, sampler, eta: see `samplers.sample`; spacing: see `schedule.visited_steps`.
            redraw_hole: with a mask, fill the hole of x1 with fresh noise first; False: it holds noise already.
            tile: side of the largest window that the network sees at once [pixels], see `tiles.in_windows`; None: it
                sees the whole image.

        Returns:
            (xs, pred_x0s): states and predictions [B,K,C,H,W] on the CPU; index 0 is the final image.

        Raises:
            ValueError: nfe is not in 1 .. interval - 1; sampler, eta, spacing or tile do not suit, see there.
        """
        steps, log_steps = sampling_steps(opt.interval, nfe, log_count, spacing, self.diffusion.std_fwd_list)
        x1, mask, cond = (None if t is None else t.to(self.device) for t in (x1, mask, cond))
        numbers = torch.arange(opt.interval, device=self.device)

        def pred_x0(xt: Tensor, step: int) -> Tensor:
            def predict(xt: Tensor, cond: Tensor | None = None) -> Tensor:
                out = self.forward(self._layout(xt), numbers[step].expand(len(xt)), cond=cond)
                return self.compute_pred_x0(step, xt, out, clip_denoise)

            multiple = self.net.diffusion_model.downsampling
            return in_windows(predict, [xt] if cond is None else [xt, cond], multiple, tile)

        if self.ema is not None:  # one that only restores is in evaluation mode already
            self.net.eval()
        average = contextlib.nullcontext() if self.ema is None else self.ema.average_parameters()
        with average, torch.no_grad(), kept_memory(self.device):
            if mask is not None and redraw_hole:
                x1 = fill_hole(x1, mask, randn(x1))
            return self.diffusion.ddpm_sampling(
                steps,
                pred_x0,
                x1,
                mask=mask,
                ot_ode=opt.ot_ode,
                log_steps=log_steps,
                verbose=verbose,
                randn=randn,
                on_step=on_step,
                sampler=sampler,
                eta=eta,
            )

    def restore(
        self, given: Given | Tensor, corrupt: Callable, numbers: Sequence[int], seed: int, **sampling: Any
    ) -> tuple[Batch, Tensor, Tensor]:
        """Degrade images and restore them; all the noise of an image comes from (seed, its number).

        Args:
            given, corrupt: see `batch.make_batch`; given on this runner's device.
            numbers: positions of the images in the evaluation order [B].
            sampling: `clip_denoise`, `nfe`, `sampler`, `tile` and others of `ddpm_sampling`.

        Returns:
            the two ends of the bridge, and states and predictions as `ddpm_sampling` returns them.
        """
        noise = ImageNoise(seed, numbers, self.device).randn_like
        batch = make_batch(
            given,
            corrupt,
            cond_x1=self.config.cond_x1,
            add_x1_noise=self.config.add_x1_noise,
            index=torch.tensor(numbers),
            randn=noise,
        )
        ends = {"x1": batch.x1, "mask": batch.mask, "cond": batch.cond}
        return batch, *self.ddpm_sampling(self.opt, **ends, verbose=False, randn=noise, redraw_hole=False, **sampling)

    def keep_average_only(self) -> None:
        """Replace the weights by their average, in the precision of the options, and free all else; not reversible."""
        self.ema.copy_to()
        self.ema = self.loaded = None
        if self.opt.precision in LOW:
            self.net.diffusion_model.convert_torso(LOW[self.opt.precision])
        self.net.eval().requires_grad_(False)

    def _layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.opt.channels_last else x
