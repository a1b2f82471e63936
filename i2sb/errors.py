"""The one exception for what a user can put right, and text that is fit for its one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong value, file or setting: its text is one line that says what, which value, and what to do.

    The entry scripts print it without a traceback and exit with code 2.
    """


def printable(text: object) -> str:
    """Text that may hold names from untrusted files, without what steers a terminal or cannot be encoded."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def one_line(text: object, length: int = 100) -> str:
    """Text from an untrusted file, for one line of limited length."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= length else line[: length - 3] + "..."


def those_there(name: str, known: Iterable[str]) -> str:
    """For a message about a name that is not among `known`: which of them was meant, and which there are."""
    known = sorted(known)
    meant = difflib.get_close_matches(name, known, n=1)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"{f'did you mean {meant[0]}? There' if meant else 'there'} are {', '.join(known[:20])}{more}"


class EndedElsewhere(RuntimeError):
    """Another process of the run has failed, which says why."""


class SomeFailed(RuntimeError):
    """Some of many things failed, each of which was named, and the others are done; exit code 1."""
