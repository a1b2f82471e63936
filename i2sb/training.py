"""Algorithm 1: the training loop, top to bottom, and what happens beside it now and then.

The loss of a micro-batch is `Runner.training_loss`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from guided_diffusion import presets
from i2sb.batch import unpack
from i2sb.ckpt_util import BEST, LATEST, keep_checkpoint, save_checkpoint, snapshot
from i2sb.errors import UserError
from i2sb.forecast import TimeLeft, before_training, how_computed, too_many_threads
from i2sb.loader import check_same_images, training_loader
from i2sb.loss import Balance, Perceptual, halvings
from i2sb.meter import Meter
from i2sb.noise import TrainingDraws
from i2sb.optimizer import Optimizer
from i2sb.options import batch_fault
from i2sb.precision import use_deterministic_kernels
from i2sb.resume import best_before, capture_random_state, restore_random_state, starting_point
from i2sb.runtime.distributed import StopSignal, check_agreement, gather_objects
from i2sb.runtime.logger import of_all_ranks
from i2sb.runtime.memory import give_back, kept_memory, peak_memory
from i2sb.runtime.progress import Progress
from i2sb.runtime.reading import check_tensors
from i2sb.runtime.writers import Writer
from i2sb.validation import evaluate

FIRST_EVALUATIONS = (0, 500)


@dataclass
class State:
    """How far a training is.

    Attributes:
        iteration, num_images: iterations done, and images seen over all ranks.
        best: --keep-best's metric, value and iteration of the best evaluation.
        saved: the iteration of latest.pt, or of what is being written; -1: this run has none yet.
        worth_saving: weights, average and optimizer belong to one iteration, and training has not diverged.
        random: the random states (of this rank's global generators, of the bridge's noise) at that iteration.
    """

    iteration: int = 0
    num_images: int = 0
    best: dict | None = None
    saved: int = -1
    worth_saving: bool = True
    random: tuple[dict, dict] = ({}, {})


class Training:
    """One training of a `Runner`; see `Runner.train` for the arguments."""

    def __init__(
        self,
        runner: Any,
        opt: Any,
        train_dataset: Any,
        val_dataset: Any,
        corrupt: Callable,
        writer: Writer | None = None,
        judges: dict[str, Callable] | None = None,
    ):
        self.runner, self.opt, self.log = runner, opt, runner.log
        self.train_dataset, self.val_dataset, self.corrupt = train_dataset, val_dataset, corrupt
        self.writer, self.judges = writer or Writer(), judges or {}
        self.rank, self.world_size = opt.global_rank, opt.global_size
        self.latest = Path(opt.ckpt_path) / LATEST
        fingerprint = getattr(train_dataset, "fingerprint", None)
        self.data = fingerprint() if fingerprint and self.rank == 0 else None
        if val_dataset is None and opt.eval_every:
            raise UserError(f"evaluations every {opt.eval_every} iterations need a validation set (eval_every 0: none)")
        if opt.eval_every and opt.keep_best not in (None, "loss", *self.judges):
            raise UserError(f"--keep-best {opt.keep_best}: cannot be measured here; choose another")
        if reason := batch_fault(opt.batch_size, opt.microbatch, self.world_size):
            raise UserError(reason)
        self.num_micro = opt.batch_size // (self.world_size * opt.microbatch)
        if opt.deterministic:
            use_deterministic_kernels()
        runner.net.diffusion_model.set_checkpointing(opt.grad_checkpoint)
        self.optimizer = Optimizer(runner.net.parameters(), opt)
        balanced = opt.loss_weight == "balanced"
        self.balance = Balance(opt.loss_s2, self.num_micro, runner.device) if balanced else None
        more = (opt.perceptual, opt.interval, runner.config.channels, runner.device)
        self.perceptual = Perceptual(*more) if opt.perceptual else None
        self.draws = TrainingDraws(self.rank, self.world_size, runner.device, opt.seed)
        self.state = self._start()
        self.saver, self.saving = ThreadPoolExecutor(1, "checkpoint"), None
        self.forward = self._distributed()
        self.meter = Meter(runner.device, opt.batch_size)
        runner.net.train()

    def _start(self) -> State:
        """Iteration 0, or where the loaded checkpoint ends."""
        # With several ranks dropout differs by rank; the bridge's noise has its own generators.
        torch.manual_seed(self.opt.seed + (self.rank if self.world_size > 1 else 0))
        state, loaded = State(), self.runner.loaded
        check_same_images(self.train_dataset)
        other = f"{self.opt.load} is not rank 0's (replaced meanwhile, or each node has its own); start again with one"
        check_agreement(self.runner.identity, other)
        if loaded is not None and "optimizer" not in loaded:
            self.log.info("[Resume] weights alone: a new training starts from them, at iteration 0")
        elif loaded is not None:
            log = of_all_ranks(self.log, self.rank)
            check_tensors(self.opt.load, [loaded["net"], loaded.get("optimizer")])  # the average was checked at loading
            try:
                iteration, num_images = starting_point(loaded, self.opt, log, len(self.train_dataset), self.data)
                state = State(iteration, num_images, best_before(loaded, self.opt))
                state.saved = iteration if self.opt.load == self.latest else -1
                self.optimizer.load_state_dict(loaded, keep=self.opt.given, iteration=iteration)
                restore_random_state(loaded, self.draws, log)
                if self.balance and (balance := loaded.get("resume", {}).get("balance")):
                    self.balance.load_state_dict(balance)
            except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
                raise UserError(f"{self.opt.load}: cannot be resumed: its state does not fit: {error}") from error
        self.runner.loaded = None  # as large as the network four times over
        return state

    def _distributed(self) -> Callable:
        """The network; with several ranks inside DistributedDataParallel."""
        runner = self.runner
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

    def run(self) -> bool:
        """All iterations, or as many as there are before a signal.  True when none is left."""
        opt, state = self.opt, self.state
        if state.iteration >= opt.num_itr:
            self.log.info(f"[Train] {state.iteration} iterations are done, --num-itr is {opt.num_itr}: nothing to do")
            return True
        if self.rank == 0:
            network = self.runner.net.kwargs
            self.log.info(
                f"[Train] {presets.name_of(network)}, {before_training(opt, network, len(self.train_dataset))}"
            )
            self.log.info(f"[Train] {how_computed(opt)}")
            if line := too_many_threads(opt.device):
                self.log.warning(f"[Train] {line}")
        with StopSignal() as stop, Progress("training", opt.num_itr, state.iteration, shown=self.rank == 0) as bar:
            try:
                with kept_memory(self.runner.device):
                    stopped_by = self._iterate(stop, bar)
            except Exception:
                self._rescue()
                raise
        if stopped_by and state.iteration < opt.num_itr:
            self.log.info(
                f"[Train] {stopped_by}: stopped after iteration {state.iteration} and saved; to resume: "
                f"python train.py --ckpt {opt.name} --corrupt {opt.corrupt}, with the flags of this machine"
            )
            return False
        self.log.info(f"[Train] {state.iteration} iterations are done: {self.latest}")
        return True

    def _iterate(self, stop: StopSignal, bar: Progress) -> str | None:
        """Alg. 1.  Returns the name of the signal that ended it early."""
        opt, state, stopped_by, time_left = self.opt, self.state, None, TimeLeft()
        batches = training_loader(self.train_dataset, opt, state.num_images, self.runner.device)
        state.random = self._random_state()
        if state.saved == state.iteration:
            self._keep(state.iteration, state.best)  # a kill may have come between the two
        while state.iteration < opt.num_itr:
            if self._due_for_evaluation():
                self.finish_saving()
                with self.meter.paused():
                    stopped_by = evaluate(self, stop)
                time_left.restart()
            done = None if stopped_by else self.step(batches, stop)
            if done is None:
                stopped_by = stop.poll()
                break
            loss, norm = done
            self.meter.add(loss, norm)
            state.iteration += 1
            state.num_images += opt.batch_size
            state.random = self._random_state()
            if state.iteration % opt.log_every == 0 or state.iteration == opt.num_itr:
                self.report(bar)
            if line := time_left.after_iteration(loss, opt.num_itr - state.iteration):
                self.log.info(f"[Train] {line}, evaluations aside")
            if self.saving and self.saving.done():
                self.finish_saving()  # an error of the disk ends the run now
            if state.iteration % opt.save_every == 0 or self._to_be_kept(state.iteration):
                self.save()
        if state.saved != state.iteration:
            self.save()
        self.finish_saving()
        if not stopped_by and self._due_for_evaluation():  # of the finished network
            stopped_by = evaluate(self, stop)
        return stopped_by

    def step(self, batches: Iterator[Any], stop: StopSignal) -> tuple[Tensor, Tensor] | None:
        """Data, pair, loss, step, average.  Returns mean loss and the mean gradient's norm, on the device.

        None after a signal, also where data do not come: nothing of the iteration counts.
        """
        losses = []
        halved = halvings(self.state.iteration, self.opt.num_itr) if self.opt.distill else 0
        for micro in range(self.num_micro):
            loaded, last = stop.next(batches), micro == self.num_micro - 1
            # Before the gradients travel, once, with the last micro-batch: until then a rank may wait for data.
            if (loaded is None or last) and stop.poll():
                return None
            given = unpack(loaded).to(self.runner.device)
            with contextlib.nullcontext() if last or self.world_size == 1 else self.forward.no_sync():
                more = (self.forward, self.balance, self.perceptual, halved)
                loss = self.runner.training_loss(given, self.corrupt, self.draws, *more)
                self.optimizer.backward(loss)
            losses.append(loss.detach())
        self.state.worth_saving = False
        norm = self.optimizer.step(self.num_micro)
        self.runner.ema.update()
        self.state.worth_saving = True
        return torch.stack(losses).mean(), norm

    # Now and then

    def _due_for_evaluation(self) -> bool:
        every, iteration = self.opt.eval_every, self.state.iteration
        return every > 0 and (iteration in FIRST_EVALUATIONS or iteration % every == 0)

    def report(self, bar: Progress) -> None:
        """Log the averages since the last time: the only place where the loop waits for the device."""
        opt, iteration = self.opt, self.state.iteration
        values = self.meter.read()
        skipped, in_a_row = self.optimizer.skipped()
        values |= {
            "lr": self.optimizer.lr,
            "skipped_steps": skipped,
            "peak_memory_gib": peak_memory(self.runner.device),
        }
        if self.balance:
            values["loss_s2"] = float(self.balance.s2)
        give_back()
        self.writer.add_scalars(iteration, values)
        speed = f"{values['images_per_second']:.3g} images/s"
        text = f"loss {values['loss']:.5f} | lr {values['lr']:.3g} | {speed}"
        if skipped:
            text += f" | {skipped} steps skipped: NaN or inf"
        self.log.info(f"[Train] {iteration}/{opt.num_itr} | {text}")
        bar.update(iteration, f"{iteration}/{opt.num_itr}  loss {values['loss']:.4g}  {speed}")
        if in_a_row >= opt.max_nonfinite:
            self.state.worth_saving = False
            what_now = f"{self.latest} is as it was last saved: resume" if self.latest.exists() else "start again"
            raise UserError(
                f"--max-nonfinite {opt.max_nonfinite}: as many consecutive steps had NaN or inf in loss or gradients, "
                f"stopped at iteration {iteration}; {what_now} with a lower --lr or another --precision"
            )

    def _to_be_kept(self, iteration: int) -> bool:
        return bool(self.opt.keep_every) and iteration % self.opt.keep_every == 0

    def _keep(self, iteration: int, best: dict | None) -> None:
        """Rank 0 keeps the latest.pt of this iteration under the other names that it is to have."""
        names = [f"iteration_{iteration:07d}.pt"] if self._to_be_kept(iteration) else []
        names += [BEST] if best and best["iteration"] == iteration else []
        for name in names if self.rank == 0 else ():
            keep_checkpoint(self.latest, name)

    def _random_state(self) -> tuple[dict, dict]:
        return capture_random_state(self.runner.device), self.draws.state_dict()

    def save(self) -> None:
        """Copy the state (rank 0; all ranks take part for their random states); a thread then writes latest.pt."""
        random_states = gather_objects(self.state.random[0])
        if self.rank == 0:
            self.finish_saving()
            self.saving = self.saver.submit(self._write, snapshot(self._content(random_states)))
        self.state.saved = self.state.iteration

    def finish_saving(self) -> None:
        """Wait until latest.pt is on the disk.  Raises what went wrong there."""
        saving, self.saving = self.saving, None
        try:
            if saving:
                saving.result()
        except BaseException:
            self.state.saved = -1
            raise

    def _content(self, random_states: list) -> dict[str, Any]:
        state = self.state
        return {
            "net": self.runner.net.state_dict(),
            "ema": self.runner.ema.state_dict(),
            **self.optimizer.state_dict(),
            "resume": {
                "iteration": state.iteration,
                "best": state.best,
                "num_images": state.num_images,
                "dataset_size": len(self.train_dataset),
                "data": self.data,
                "world_size": self.world_size,
                "draws": state.random[1],
                "balance": self.balance and self.balance.state_dict(),
                "random_states": random_states,
            },
        }

    def _write(self, content: dict[str, Any]) -> None:
        save_checkpoint(self.latest, content, self.opt, self.runner.config, self.runner.net.kwargs)
        iteration = content["resume"]["iteration"]
        self.log.info(f"[Save] {self.latest}, iteration {iteration}")
        self._keep(iteration, content["resume"]["best"])

    def _rescue(self) -> None:
        """Save what is done before an error, such as a bad image, ends the run.

        Not with several ranks: all would have to take part, and the others wait for this one elsewhere.
        """
        with contextlib.suppress(Exception):
            self.finish_saving()
        if self.world_size > 1 or not self.state.worth_saving or max(self.state.saved, 0) == self.state.iteration:
            return
        with contextlib.suppress(Exception):  # the error that ends the run is the one to report
            self.save()
            self.finish_saving()
            self.log.info(f"[Train] an error ends the run after iteration {self.state.iteration}, which is saved")
