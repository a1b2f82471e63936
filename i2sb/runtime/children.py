"""Child processes that live and die together: the first failure ends all of them and is told once."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from i2sb.errors import UserError, printable

_PASSED_ON = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
_ECHO = 1.0  # seconds in which other children's failures may come in before the first one is named
_GRACE = 3.0  # seconds between asking a child to end and killing it
_POLL = 0.5
_READY = "ready"


@dataclass
class Failure:
    """What a child tells of its end: the text for the user and the exit code."""

    text: str
    code: int
    when: float
    is_echo: bool = False  # only the consequence of another child's failure


class EndedElsewhere(RuntimeError):
    """Another process of the run has failed; what it failed of is told there."""


class _Told(SystemExit):
    """The parent knows of this failure."""


def run_children(
    work: Callable[..., None], main: Callable[..., None], arguments: list[tuple], first_rank: int = 0
) -> int:
    """Run `work(main, *args)` in one spawned process for each of `arguments`; returns the exit code of all.

    - The first child that fails ends the run: the others are terminated, then killed, its error is printed to
      stderr (a UserError or SystemExit as its one line, anything else as a traceback), and its code returned:
      2 for a UserError, 1 for another exception, 128 + n for one killed by signal n.
    - SIGTERM, SIGINT and SIGUSR1 are passed on once each, and the children's own ends are waited for; the
      second SIGINT kills them (130).
    - Each child leads a process group, so that a terminal's Ctrl-C comes once, through this process, and what a
      child has started goes with it. A child whose parent is gone kills its group.

    `work` and `main` must be functions at the top level of a module, and a failure inside `main` is told to the
    parent before `work` tidies up.
    """
    children = _Children()
    try:
        with children.passing_signals_on():
            children.start(work, main, arguments, first_rank)
            return children.watch()
    finally:
        children.kill()


class _Child:
    def __init__(self, name: str, target: tuple):
        context = multiprocessing.get_context("spawn")
        self.inbox, outbox = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(outbox, *target), name=name)
        self.ready = False
        self.waiting_signals: list[int] = []
        self.failure: Failure | None = None
        self.ended = False
        self.process.start()
        outbox.close()

    def signal(self, number: int) -> None:
        """Pass a signal on, as soon as the child has left our process group."""
        if self.ended:
            return
        if self.ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)
        else:
            self.waiting_signals.append(number)

    def kill_group(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):  # no groups here, or none of its own yet
            if not self.ended:
                self.process.kill()

    def read(self) -> None:
        """Take in what the child has sent."""
        with contextlib.suppress(EOFError, OSError):
            while not self.inbox.closed and self.inbox.poll():
                message = self.inbox.recv()
                if message == _READY:
                    self.ready = True
                    while self.waiting_signals:
                        self.signal(self.waiting_signals.pop(0))
                else:
                    self.failure = message
            return
        self.inbox.close()

    def end(self) -> None:
        """Note that the process is gone; one that ended badly may have left helpers in its group."""
        self.read()
        self.process.join()
        self.ended = True
        code = self.process.exitcode
        if code:
            self.kill_group()
            self.failure = self.failure or self._unexplained(code)

    def _unexplained(self, code: int) -> Failure:
        who = f"{self.process.name} (process {self.process.pid})"
        if code > 0:
            return Failure(f"{who} ended with code {code} and without a message", code, time.time())
        name = signal.Signals(-code).name
        hint = ": out of memory?" if name == "SIGKILL" else ""
        return Failure(f"{who} was ended by {name}{hint}", 128 - code, time.time())


class _Children:
    def __init__(self) -> None:
        self.all: list[_Child] = []
        self._num_interrupts = 0

    def start(self, work: Callable, main: Callable, arguments: list[tuple], first_rank: int) -> None:
        _start_tracker()  # first, as it would unblock what we block next
        with _signals_blocked():  # children start with them blocked, until they have left our process group
            for rank, args in enumerate(arguments, first_rank):
                self.all.append(_Child(f"rank {rank}", (work, main, args)))

    @property
    def alive(self) -> list[_Child]:
        return [child for child in self.all if not child.ended]

    def watch(self) -> int:
        while self.alive and not self._failures():
            self._wait(_POLL)
        if self._failures():
            deadline = time.monotonic() + _ECHO
            while self.alive and time.monotonic() < deadline:
                self._wait(deadline - time.monotonic())
            culprit = min(self._failures(), key=_by_blame)
            if self._num_interrupts > 1:
                culprit = Failure("interrupted twice: all processes were killed", 128 + signal.SIGINT, 0)
            print(culprit.text, file=sys.stderr, flush=True)
            self._terminate()
            return culprit.code
        return 0

    def _failures(self) -> list[Failure]:
        return [child.failure for child in self.all if child.failure]

    def _wait(self, seconds: float) -> None:
        """Until a child sends something or ends, or some time has passed."""
        sources: dict[Any, _Child] = {child.process.sentinel: child for child in self.alive}
        sources.update({child.inbox: child for child in self.alive if not child.inbox.closed})
        for source in connection.wait(list(sources), min(seconds, _POLL)):
            sources[source].read()
        for child in self.alive:
            # What a dead child has forked (a loader's worker) keeps its sentinel open: ask the system as well.
            if child.process.exitcode is not None:
                child.end()

    def _terminate(self) -> None:
        for child in self.alive:
            child.process.terminate()
        deadline = time.monotonic() + _GRACE
        while self.alive and time.monotonic() < deadline:
            self._wait(deadline - time.monotonic())
        self.kill()

    def kill(self) -> None:
        for child in self.alive:
            child.kill_group()
        for child in self.alive:
            child.end()

    @contextlib.contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # handlers belong to the main thread
            yield
            return
        before = {number: signal.signal(number, self._pass_on) for number in _PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: object) -> None:
        self._num_interrupts += number == signal.SIGINT
        for child in self.all:
            if self._num_interrupts > 1:
                child.kill_group()
            else:
                child.signal(number)


def _by_blame(failure: Failure) -> tuple:
    """Sorts the failure that the others came from first: their errors may reach us before its death does."""
    was_killed = failure.code > 128 and failure.code != 128 + signal.SIGABRT
    return failure.is_echo, not was_killed, failure.when


def _start_tracker() -> None:
    """Start multiprocessing's resource tracker deaf to SIGUSR1, which SLURM sends to every process of a step.

    To SIGINT and SIGTERM it is deaf by itself.
    """
    number = getattr(signal, "SIGUSR1", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        resource_tracker.ensure_running()
        return
    before = signal.signal(number, signal.SIG_IGN)  # what is ignored stays so in a new program
    warnings = os.environ.get("PYTHONWARNINGS")
    # What a killed child's loaders have left is removed by the tracker; that it was there is no news to the user.
    os.environ["PYTHONWARNINGS"] = f"{warnings or ''},ignore:resource_tracker:UserWarning".lstrip(",")
    try:
        resource_tracker.ensure_running()
    finally:
        signal.signal(number, before)
        os.environ.pop("PYTHONWARNINGS")
        if warnings is not None:
            os.environ["PYTHONWARNINGS"] = warnings


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child(outbox: connection.Connection, work: Callable, main: Callable, args: tuple) -> None:
    """What runs in the spawned process."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if hasattr(os, "setpgrp"):
        os.setpgrp()
        # What the terminal sent to the group we were in comes through the parent as well: drop it here.
        while pending := signal.sigpending() & set(_PASSED_ON):
            signal.sigwait(pending)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    with _telling(outbox):
        outbox.send(_READY)
        work(_Telling(main, outbox), *args)
    _leave_at_once()


def _leave_at_once() -> None:
    """End a process whose work is done, without tearing Python down.

    Threads of torch.distributed that still want Python then would be unwound by force, and abort the process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


class _Telling:
    """`main`, with its failures told to the parent at once."""

    def __init__(self, main: Callable, outbox: connection.Connection):
        self.main, self.outbox = main, outbox

    def __call__(self, *args: object) -> None:
        with _telling(self.outbox):
            self.main(*args)


@contextlib.contextmanager
def _telling(outbox: connection.Connection) -> Iterator[None]:
    try:
        yield
    except _Told:
        raise
    except BaseException as error:
        failure = _failure(error)
        if failure is None:
            raise
        with contextlib.suppress(OSError):
            outbox.send(failure)
        raise _Told(failure.code) from None


def _failure(error: BaseException) -> Failure | None:
    """How the parent should tell of `error`; None where it is no failure: SystemExit(0)."""
    now = time.time()
    if isinstance(error, SystemExit):
        code = error.code
        if code in (None, 0):
            return None
        if isinstance(code, int):
            return Failure(f"{multiprocessing.current_process().name} ended with code {code}", code, now)
        return Failure(str(code), 2, now)
    if isinstance(error, UserError):
        return Failure(f"{Path(sys.argv[0]).name}: error: {printable(error)}", 2, now)  # as `run_script` has it
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", 128 + signal.SIGINT, now)
    name = multiprocessing.current_process().name
    if isinstance(error, EndedElsewhere):
        return Failure(f"{name}: {error}", 1, now, is_echo=True)
    return Failure(f"{name} failed:\n{traceback.format_exc()}".rstrip(), 1, now)


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
