"""Progress on the screen: bars on standard error, below the log lines."""

from __future__ import annotations

import sys
from typing import Any

from i2sb.runtime.console import console

_WINDOW = 900.0  # seconds over which the speed is averaged; one iteration of a large network may take minutes


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
