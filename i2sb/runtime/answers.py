"""Answers of a server that may fall silent or send a byte now and then for ever."""

from __future__ import annotations

import contextlib
import math
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from i2sb.runtime.partial import Job, TryAgain

if TYPE_CHECKING:
    import requests


def ask(job: Job, headers: dict[str, str]) -> requests.Response:
    """What the server answers, its body still unread.

    The timeout of `requests` bounds silence only, so a thread asks and we wait. It cannot be stopped: where a server
    sends its headers for ever, it is left behind and ends with the process.

    Raises:
        TryAgain: the headers are not complete after job.patience seconds.
    """
    import requests

    answers = queue.SimpleQueue()

    def get() -> None:
        try:
            answers.put(requests.get(job.url, stream=True, timeout=(job.timeout, job.timeout), headers=headers))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=get, daemon=True).start()
    try:
        answer = answers.get(timeout=job.patience)
    except queue.Empty:
        raise TryAgain(f"no answer within {job.patience:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def chunks(job: Job, response: requests.Response, size: int) -> Iterator[bytes]:
    """The answer's body in pieces of `size` bytes.

    Raises:
        TryAgain: one of them took longer than job.patience seconds.
    """
    pieces = response.iter_content(size)
    watch = _Watch(response, job.patience)
    try:
        while chunk := watch.read(pieces, f"fewer than {size} bytes came within {job.patience:g} s"):
            yield chunk
    finally:
        watch.over.set()


class _Watch:
    """A thread beside the one that reads an answer; it cuts the connection when a read takes too long."""

    def __init__(self, response: requests.Response, seconds: float) -> None:
        self.response, self.seconds = response, seconds
        self.due = math.inf  # when the read under way must have ended
        self.is_late = False
        self.over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def read(self, pieces: Iterator[bytes], reason: str) -> bytes:
        """The next chunk, empty after the last; TryAgain with `reason` when it comes too late."""
        self.due = time.monotonic() + self.seconds
        try:
            chunk = next(pieces, b"")
        except Exception:
            if not self.is_late:
                raise
        self.due = math.inf  # the time that writing takes is not the server's
        if self.is_late:
            raise TryAgain(reason)
        return chunk

    def _run(self) -> None:
        while (left := self.due - time.monotonic()) > 0:
            if self.over.wait(min(left, self.seconds)):
                return
        self.is_late = True
        with (
            contextlib.suppress(OSError, ValueError, AttributeError),  # no socket any more: the answer has just ended
            socket.fromfd(self.response.raw.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the reader
