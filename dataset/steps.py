"""A progress bar for work that goes in steps."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Steps:
    """A rich progress bar on stderr, one line per stage; silent when not `shown`."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Steps:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
        return self

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` steps, `done` of which are behind us."""
        if self._bar is not None:
            self._task = self._bar.add_task(stage, total=total, completed=done)

    def advance(self, count: int = 1) -> None:
        """Some steps of the present stage are done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
