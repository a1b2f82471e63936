"""Progress on the screen: bars on standard error, below the log lines."""

from __future__ import annotations

import contextlib
import sys

from i2sb.runtime.logger import console


class Progress:
    """One progress bar on standard error, as a context manager; silent unless `shown` and on a terminal.

        with Progress("restoring", total=64, text="0/64 images") as bar:
            bar.update(8, "8/64 images")

    Args:
        description: what is being done.
        total: how much there is to do, in any unit, if that is known; `done`: how much of it an earlier run did.
        text: what stands behind the bar.
        shown: False on ranks other than 0.
    """

    def __init__(
        self, description: str, total: float | None, done: float = 0, text: str = "", shown: bool = True
    ) -> None:
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.fields[title]}", markup=False),
            progress.BarColumn(bar_width=24),
            progress.TextColumn("{task.description}", markup=False),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console(),
            refresh_per_second=4,
            speed_estimate_period=900,  # seconds; one iteration of a large network may take minutes
            redirect_stdout=sys.stdout.isatty(),  # what goes to a file must get there
            disable=not (shown and console().is_terminal),
        )
        self._task = self._bar.add_task(text, total=total, completed=done, title=description)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def update(self, done: float, text: str | None = None, total: float | None = None) -> None:
        """`done` of the total is done by now; a text or total that is not None takes the place of the one before."""
        self._bar.update(self._task, completed=done, description=text, total=total)

    def advance(self, count: float = 1) -> None:
        """`count` more is done."""
        self._bar.advance(self._task, count)

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone
            self._bar.stop()
