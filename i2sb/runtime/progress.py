"""Progress on the screen: bars on standard error that live together with the log lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from i2sb.runtime.console import console

_WINDOW = 900.0  # seconds over which the speed is averaged; one iteration of a large network may take minutes


def track(items: Sequence, description: str) -> Iterable:
    """Iterate over `items` beside a bar with count and time left, on standard error."""
    from rich.progress import track as rich_track

    return rich_track(items, description=description, console=console(), transient=True)


class _Bar:
    """One line on the terminal inside a `with` block; nothing if not `shown`, or where there is no terminal."""

    _form = ""

    def __init__(self, description: str, total: int, done: int, shown: bool) -> None:
        self.shown = shown and console().is_terminal
        self._start = (description, total, done)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Any:
        if self.shown:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            description, total, done = self._start
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console(),
                refresh_per_second=4,
                speed_estimate_period=_WINDOW,
                redirect_stdout=sys.stdout.isatty(),  # what goes to a file must get there
            )
            self._task = self._bar.add_task(description, total=total, completed=done, text=self._text())
            self._bar.start()
        return self

    def _text(self) -> str:
        raise NotImplementedError

    def _show(self, completed: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=completed, text=self._text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TrainProgress(_Bar):
    """The bar of a training: iteration of `total`, loss, images per second, time left.

    Args:
        total: all iterations; `start`: how many of them are behind us when the run resumes.
        shown: False on ranks other than 0.
    """

    def __init__(self, total: int, start: int = 0, description: str = "training", shown: bool = True) -> None:
        self.total = total
        self.iteration = start
        self.loss: float | None = None
        self.images_per_second: float | None = None
        super().__init__(description, total, start, shown)

    def update(self, iteration: int, loss: float | None = None, images_per_second: float | None = None) -> None:
        """`iteration` iterations are done; a loss or speed that is not given stays as it was."""
        self.iteration = iteration
        self.loss = self.loss if loss is None else loss
        self.images_per_second = self.images_per_second if images_per_second is None else images_per_second
        self._show(iteration)

    def _text(self) -> str:
        text = f"{self.iteration}/{self.total}"
        if self.loss is not None:
            text += f"  loss {self.loss:.4g}"
        if self.images_per_second is not None:
            text += f"  {self.images_per_second:.3g} images/s"
        return text


class SampleProgress(_Bar):
    """The bar of a restoration: images done of all, network evaluation (NFE) inside the batch, time left.

    Args:
        num_images: all images of this process; `done`: how many of them an earlier run restored.
        nfe: network evaluations per image.
        batch_size: images per batch, so that the time left moves on inside the first batch too.
    """

    def __init__(
        self,
        num_images: int,
        nfe: int,
        batch_size: int = 1,
        done: int = 0,
        description: str = "restoring",
        shown: bool = True,
    ) -> None:
        self.num_images = num_images
        self.nfe = nfe
        self.batch_size = batch_size
        self.done = done
        self.steps = 0
        super().__init__(description, num_images, done, shown)

    def step(self) -> None:
        """One more network evaluation of the present batch is done."""
        self.steps = min(self.steps + 1, self.nfe)
        batch = min(self.batch_size, self.num_images - self.done)
        self._show(self.done + batch * self.steps / self.nfe)

    def images(self, count: int) -> None:
        """The batch is done: `count` images more, and the next one begins at step 0."""
        self.done += count
        self.steps = 0
        self._show(self.done)

    def _text(self) -> str:
        return f"{self.done}/{self.num_images} images  NFE {self.steps}/{self.nfe}"


class Progress:
    """One progress bar on standard error, as a context manager; silent unless `shown` and on a terminal.

        with Progress("restoring", total=64, text="0/64 images") as bar:
            bar.update(8, "8/64 images")

    Args:
        description: what is being done.
        total: how much there is to do, in any unit, if that is known; `done`: how much of it an earlier run did.
        text: what stands behind the bar at the start.
        shown: False on ranks other than 0.
    """

    def __init__(
        self, description: str, total: float | None, done: float = 0, text: str = "", shown: bool = True
    ) -> None:
        self._shown = shown and console().is_terminal
        self._start = (description, total, done, text)
        self._done = done
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._shown:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            description, total, done, text = self._start
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=console(),
                refresh_per_second=4,
                speed_estimate_period=_WINDOW,
                redirect_stdout=sys.stdout.isatty(),  # what goes to a file must get there
            )
            self._task = self._bar.add_task(description, total=total, completed=done, text=text)
            self._bar.start()
        return self

    def update(self, done: float, text: str | None = None, total: float | None = None) -> None:
        """`done` of the total is done by now; a text or total that is not None takes the place of the one before."""
        self._done = done
        if self._bar is not None:
            changes = {"text": text, "total": total}
            self._bar.update(self._task, completed=done, **{k: v for k, v in changes.items() if v is not None})

    def advance(self, count: float = 1, text: str | None = None) -> None:
        """`count` more is done."""
        self.update(self._done + count, text)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
