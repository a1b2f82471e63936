"""The training loop: gradient steps, and what happens beside them now and then."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from i2sb.ckpt_util import keep_checkpoint, save_checkpoint
from i2sb.errors import UserError
from i2sb.loader import training_loader
from i2sb.noise import TrainingDraws
from i2sb.optimizer import Optimizer
from i2sb.precision import use_deterministic_kernels
from i2sb.resume import capture_random_state, restore_random_state, starting_point
from i2sb.runtime.distributed import StopSignal, gather_objects, mean_over_ranks
from i2sb.runtime.logger import of_all_ranks
from i2sb.runtime.memory import peak_memory
from i2sb.runtime.progress import TrainProgress
from i2sb.runtime.writers import Writer
from i2sb.validation import evaluate

FIRST_EVALUATIONS = (0, 500)


class Training:
    """One training of a `Runner`; see `Runner.train` for the arguments."""

    def __init__(
        self,
        runner: Any,
        opt: Any,
        train_dataset: Any,
        val_dataset: Any,
        corrupt: Callable,
        writer: Writer | None,
        judges: dict[str, Callable] | None,
    ):
        self.runner, self.opt, self.log = runner, opt, runner.log
        self.train_dataset, self.val_dataset, self.corrupt = train_dataset, val_dataset, corrupt
        self.writer, self.judges = writer or Writer(), judges or {}
        self.rank, self.world_size = opt.global_rank, opt.global_size
        self.latest = Path(opt.ckpt_path) / "latest.pt"
        opt.network = {**runner.net.kwargs}
        self._unsaved_options: Any = opt
        self.num_micro = self._num_micro()
        if opt.deterministic:
            use_deterministic_kernels()
        runner.net.diffusion_model.set_checkpointing(opt.grad_checkpoint)
        self.optimizer = Optimizer(
            runner.net.parameters(),
            lr=opt.lr,
            gamma=opt.lr_gamma,
            step_size=opt.lr_step,
            weight_decay=opt.l2_norm,
            fp16=opt.precision == "fp16",
        )
        self.draws = TrainingDraws(self.rank, self.world_size, runner.device, opt.seed)
        self.iteration, self.num_images = 0, 0
        self._start_random_numbers()
        self._saved = self.iteration
        self._whole = True  # whether weights, average and optimizer are those of one iteration
        self._random: tuple[dict, dict] | None = None  # as the present iteration found the random numbers
        self.forward = self._distributed(runner)
        self.stop = StopSignal()

    def _num_micro(self) -> int:
        """Micro-batches of each rank per step."""
        opt, together = self.opt, self.world_size * self.opt.microbatch
        if opt.batch_size % together:
            raise UserError(
                f"--batch-size {opt.batch_size}: must be a multiple of processes x --microbatch = "
                f"{self.world_size} x {opt.microbatch} = {together}"
            )
        return opt.batch_size // together

    def _start_random_numbers(self) -> None:
        # With several ranks the bridge's noise has generators of its own, and dropout differs by rank.
        torch.manual_seed(self.opt.seed + (self.rank if self.world_size > 1 else 0))
        if self.runner.loaded is not None and "optimizer" not in self.runner.loaded:
            self.log.info("[Resume] weights alone: a new training starts from them, at iteration 0")
        elif self.runner.loaded is not None:
            log = of_all_ranks(self.log, self.rank)
            self.iteration, self.num_images = starting_point(
                self.runner.loaded, self.opt, log, len(self.train_dataset)
            )
            self.optimizer.load_state_dict(self.runner.loaded, keep=self.opt.given)
            restore_random_state(self.runner.loaded, self.draws, self.rank, self.world_size, log)
        self.runner.loaded = None  # as large as the network four times over

    def _distributed(self, runner: Any) -> Callable:
        if self.world_size == 1:
            return runner.forward
        ids = [runner.device.index] if runner.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newest torch has another name for broadcast_buffers
            forward = DistributedDataParallel(
                runner.forward, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        if runner.ema.num_updates == 0:  # the ranks have just taken over rank 0's first weights
            runner.ema.follow()
        return forward

    def __enter__(self) -> Training:
        self.stop.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop.__exit__(*error)

    def run(self) -> bool:
        """All iterations, or as many as there are before a signal.  True when none is left."""
        opt = self.opt
        if self.iteration >= opt.num_itr:
            self.log.info(f"[Train] {self.iteration} iterations are done, --num-itr is {opt.num_itr}: nothing to do")
            return True
        batches = training_loader(
            self.train_dataset,
            microbatch=opt.microbatch,
            seed=opt.seed,
            start=self.num_images,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=opt.num_workers,
            device=self.runner.device,
        )
        self.runner.net.train()
        try:
            with TrainProgress(opt.num_itr, start=self.iteration, shown=self.rank == 0) as self.progress:
                stopped_by = self._iterate(batches)
        except Exception:
            self._rescue()
            raise
        if stopped_by and self.iteration < opt.num_itr:
            self.log.info(
                f"[Train] {stopped_by}: stopped after iteration {self.iteration} and saved; to go on: "
                f"python train.py --ckpt {opt.name} --corrupt {opt.corrupt}, with the other flags as before"
            )
            return False
        self.log.info(f"[Train] {self.iteration} iterations are done: {self.latest}")
        return True

    def _iterate(self, batches: Iterator[Any]) -> str | None:
        """All iterations, and a last checkpoint.  Returns the name of the signal that ended them early."""
        opt, stopped_by = self.opt, None
        meter = Meter(self.runner.device, opt.batch_size)
        while self.iteration < opt.num_itr and not stopped_by:
            if self._due_for_evaluation():
                with meter.paused():
                    stopped_by = self._evaluate()
            meter.add(*self._step(batches))
            self.iteration += 1
            self.num_images += opt.batch_size
            if self.iteration % opt.log_every == 0 or self.iteration == opt.num_itr:
                self._report(meter)
            if self.iteration % opt.save_every == 0 or self._to_be_kept():
                self._save()
            stopped_by = stopped_by or self.stop.poll()
        if self._saved != self.iteration:
            self._save()
        return stopped_by

    def _rescue(self) -> None:
        """Save what is done before an error ends the run: a bad image or a dead loader need not cost anything.

        Of several ranks the others would have to take part, and they wait for this one elsewhere: nothing is
        saved then.
        """
        if self.world_size > 1 or not self._whole or self._saved == self.iteration:
            return
        with contextlib.suppress(Exception):  # the error that is being told counts
            self._save()
            self.log.info(f"[Train] an error ends the run after iteration {self.iteration}, which is saved")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """An error inside leaves nothing that may be saved."""
        self._whole = False
        yield
        self._whole = True

    def _step(self, batches: Iterator[Any]) -> tuple[Tensor, Tensor]:
        """One step of the optimizer over all micro-batches.  Returns mean loss and gradient norm, on the device."""
        losses = []
        self._random = self._random_state()
        for micro in range(self.num_micro):
            x0 = next(batches)[0].to(self.runner.device, non_blocking=True)
            # The gradients travel between the ranks once, with the last micro-batch.
            last = micro == self.num_micro - 1
            with contextlib.nullcontext() if last or self.world_size == 1 else self.forward.no_sync():
                loss = self.runner.training_loss(x0, self.corrupt, self.draws, self.forward)
                self.optimizer.backward(loss)
            losses.append(loss.detach())
        with self._changing():
            norm = self.optimizer.step()
            self.runner.ema.update()
        self._random = None
        return torch.stack(losses).mean(), norm

    def _due_for_evaluation(self) -> bool:
        every = self.opt.eval_every
        return every > 0 and (self.iteration in FIRST_EVALUATIONS or self.iteration % every == 0)

    def _evaluate(self) -> str | None:
        self.log.info(f"[Eval] iteration {self.iteration}")
        return evaluate(
            self.runner,
            self.opt,
            self.val_dataset,
            self.corrupt,
            self.judges,
            self.writer,
            self.iteration,
            poll=self.stop.poll,
        )

    def _report(self, meter: Meter) -> None:
        """Log the averages since the last time: the only place where the loop waits for the device."""
        values = meter.read()
        skipped, in_a_row = self.optimizer.skipped()
        values |= {
            "lr": self.optimizer.lr,
            "skipped_steps": skipped,
            "peak_memory_gib": peak_memory(self.runner.device),
        }
        self.writer.add_scalars(self.iteration, values)
        speed = f"{values['images_per_second']:.3g} images/s"
        text = f"loss {values['loss']:.5f} | lr {values['lr']:.3g} | {speed}"
        if skipped:
            text += f" | {skipped} steps skipped: gradients that are no numbers"
        self.log.info(f"[Train] {self.iteration}/{self.opt.num_itr} | {text}")
        self.progress.update(self.iteration, values["loss"], values["images_per_second"])
        if in_a_row >= self.opt.max_nonfinite:
            self._whole = False
            what_now = f"{self.latest} is as it was last saved: resume" if self.latest.exists() else "start again"
            raise UserError(
                f"--max-nonfinite {self.opt.max_nonfinite}: so many steps in a row had gradients that are no "
                f"numbers, stopped at iteration {self.iteration}; {what_now} with a lower --lr or another --precision"
            )

    def _to_be_kept(self) -> bool:
        return bool(self.opt.keep_every) and self.iteration % self.opt.keep_every == 0

    def _random_state(self) -> tuple[dict, dict]:
        """The states of this rank's global generators, and of the bridge's noise."""
        return capture_random_state(self.runner.device), self.draws.state_dict()

    def _save(self) -> None:
        """Write latest.pt (rank 0; all ranks take part for their random states)."""
        own, draws = self._random or self._random_state()
        states = gather_objects(own)
        with self._changing():
            self._write(states, draws)
        self._saved = self.iteration

    def _write(self, states: list[dict], draws: dict) -> None:
        if self.rank == 0:
            resume = {
                "iteration": self.iteration,
                "num_images": self.num_images,
                "dataset_size": len(self.train_dataset),
                "world_size": self.world_size,
                "draws": draws,
                "random_states": states,
            }
            state = {
                "net": self.runner.net.state_dict(),
                "ema": self.runner.ema.state_dict(),
                **self.optimizer.state_dict(),
                "resume": resume,
            }
            save_checkpoint(self.latest, state, self._unsaved_options)
            self._unsaved_options = None
            self.log.info(f"[Save] {self.latest}, iteration {self.iteration}")
            if self._to_be_kept():
                keep_checkpoint(self.latest, self.iteration)


class Meter:
    """Averages of loss and gradient norm on the device, and the speed."""

    def __init__(self, device: torch.device, batch_size: int):
        self.batch_size = batch_size
        self._sums = torch.zeros(2, device=device)
        self._count, self._since = 0, time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self._sums += torch.stack([loss, norm])
        self._count += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count."""
        begin = time.perf_counter()
        yield
        self._since += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """Means since the last call, over all ranks."""
        loss, norm = (mean_over_ranks(self._sums) / max(1, self._count)).tolist()
        now = time.perf_counter()
        speed = self._count * self.batch_size / max(1e-9, now - self._since)
        self._sums.zero_()
        self._count, self._since = 0, now
        return {"loss": loss, "grad_norm": norm, "images_per_second": speed}
