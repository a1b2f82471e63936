"""A file that is being fetched: where it grows, what is known of it, and how its failures are told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2sb.errors import UserError
from i2sb.runtime.files import read_json


class WebPage(UserError):
    """A page for people came where the file should have come; `page` is its beginning."""

    page = ""


class TryAgain(Exception):
    """A failure that may pass; its text is the reason."""


def can_be_sent(validator: object) -> bool:
    """Whether this may stand in a header: printable ASCII of a sane length."""
    return isinstance(validator, str) and re.fullmatch("[!-~][ -~]{0,199}", validator) is not None


@dataclass
class Job:
    """One file to fetch, and the partial file it grows in."""

    url: str
    path: Path
    sha256: str | None
    size: int | None
    what: str
    by_hand: str
    timeout: float
    patience: float
    log: Any

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def notes(self) -> Path:
        """What the server said of the file that the partial one is a part of."""
        return self.path.with_name(self.path.name + ".part.json")

    def failure(self, reason: object, kind: type[UserError] = UserError) -> UserError:
        text = " ".join(str(reason).split())
        hand = f"fetch it by hand from {self.by_hand or self.url} and put it at {self.path}"
        return kind(f"{self.what}: could not fetch {self.url} ({text}); {hand}")

    def say(self, text: str) -> None:
        if self.log is not None:
            self.log.info(text)

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def is_complete(self) -> bool:
        total = self.read_notes().get("total")
        return total is not None and self.part.exists() and self.part.stat().st_size == total

    def resume_headers(self) -> tuple[int, dict[str, str]]:
        """How many bytes are here already, and the headers that ask for the rest of the same file."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "i2sb"}
        if not self.part.exists():
            return 0, headers
        start = self.part.stat().st_size
        validator = self.read_notes().get("validator")
        if start == 0 or not (validator or self.sha256):  # without either, parts of two files could be joined
            return 0, headers
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
        return start, headers

    def read_notes(self) -> dict[str, Any]:
        """The notes; empty unless they are of this address and every one is what it should be."""
        try:
            notes = read_json(self.notes)
        except (OSError, ValueError):
            return {}
        if not isinstance(notes, dict) or notes.get("source") != self.source():
            return {}
        total, validator = notes.get("total"), notes.get("validator")
        sound = (total is None or (type(total) is int and total >= 0)) and (
            validator is None or can_be_sent(validator)
        )
        return notes if sound else {}

    def source(self) -> str:
        return self.url.partition("?")[0]  # the query may hold a token for one time
