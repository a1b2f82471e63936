"""An argparse parser that answers a wrong value in one line, and knows which flags were given."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from corruption.geometry import Size
from corruption.names import read_operators
from i2sb.config import as_image_size

DEVICES = ("auto", "cuda", "mps", "cpu")
CONTENT = ("latest.pt", "ema.safetensors", "recon.pt")  # what a folder under results/ is about


class HelpFormatter(argparse.HelpFormatter):
    """Every flag with its default, unless it has none or is a switch."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        hidden = any(action.default is value for value in (None, False, argparse.SUPPRESS))
        return text if hidden or "default" in text else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Errors are one line without the usage, with exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        super().__init__(prog, description=description, epilog=epilog, formatter_class=HelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """As `parse_args`; the attribute `given` of the result is the tuple of options that argv names."""
        opt, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
        defaults = [(action, action.default, action.required) for action in self._actions]
        for action, _, _ in defaults:
            action.default, action.required = argparse.SUPPRESS, False
        opt.given = tuple(sorted(vars(self.parse_args(argv))))
        for action, default, required in defaults:
            action.default, action.required = default, required
        return opt

    def lead_with(self, *names: str) -> None:
        """--help shows these options, by their attributes, in a group "basic" before all others."""
        options = {action.dest: action for action in self._actions}
        for group in self._action_groups:
            group._group_actions = [action for action in group._group_actions if action.dest not in names]
        self.add_argument_group("basic")._group_actions.extend(options[name] for name in names)
        self._action_groups.insert(0, self._action_groups.pop())

    def defaults(self) -> dict[str, Any]:
        """The defaults of all options by name; None for those that must be given."""
        return {a.dest: a.default for a in self._actions if a.default is not argparse.SUPPRESS}


def number(kind: type, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Callable[[str], Any]:
    """An argparse type: a finite number in low..high; `above`: low itself is excluded."""

    what = "a whole number" if kind is int else "a number"
    if high < math.inf:
        expected = f"{what} {'above' if above else 'from'} {low:g} {'up to' if above else 'to'} {high:g}"
    elif low > -math.inf:
        expected = f"{what} above {low:g}" if above else f"{what} of at least {low:g}"
    else:
        expected = what

    def parse(text: str) -> Any:
        if kind is int and re.fullmatch(r"\d+(\.\d+)?e\+?\d{1,2}", text, re.IGNORECASE) and float(text).is_integer():
            text = str(int(float(text)))  # 1e6
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high) or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text!r} is invalid: expected {expected}")
        return value

    return parse


positive_int = number(int, 1)
non_negative_int = number(int, 0)
positive_float = number(float, 0, above=True)
non_negative_float = number(float, 0)


def even_int(text: str) -> int:
    """An argparse type: the schedule is symmetric, so its number of steps is even."""
    value = number(int, 2)(text)
    if value % 2:
        raise argparse.ArgumentTypeError(f"{text!r} is invalid: expected an even whole number of at least 2")
    return value


def image_size(text: str) -> Size:
    """An argparse type: S or H,W; see `shared.misfit` on which sizes a network takes."""
    height, _, width = text.partition(",")
    try:
        return as_image_size((height, width or height))
    except ValueError:
        expected = "whole numbers of pixels, a side or height,width, such as 256 or 192,256"
        raise argparse.ArgumentTypeError(f"{text!r} is invalid: expected {expected}") from None


def path(text: str) -> Path:
    """An argparse type: a path.  An empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: expected a path; a dot is the current folder")
    return Path(text)


def experiment(text: str) -> str:
    """An argparse type: a folder's name under results/; its path, or that of its weights, is taken too."""
    path, results = Path(text).absolute(), Path("results").absolute()
    name = str(path.relative_to(results)) if results in path.parents else text
    folder, _, file = name.rpartition("/")
    name = folder if folder and file in CONTENT else name
    too_long = any(len(os.fsencode(part)) > 255 for part in name.split("/"))
    if not name or name in (".", "..") or name.startswith("/") or ".." in name.split("/") or "\0" in name or too_long:
        raise argparse.ArgumentTypeError(f"{text!r} is invalid: expected the name of a folder in results/")
    return name.rstrip("/")


def weights(text: str) -> str:
    """An argparse type: a file of weights, or what `experiment` takes."""
    return text if Path(text).is_file() else experiment(text)


def device(text: str) -> str:
    """An argparse type: a kind of device, or one GPU by its index."""
    if text not in DEVICES and not re.fullmatch(r"cuda:\d{1,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is invalid: expected one of {', '.join(DEVICES)}, cuda:INDEX")
    return text


def operator_file(text: str) -> str:
    """An argparse type: a Python file with operators; its absolute path, as it is saved."""
    try:
        return read_operators(Path(text).absolute()).path
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def partition(text: str) -> str:
    """An argparse type: I_N with 0 <= I < N."""
    index, _, count = text.partition("_")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid: expected I_N, part I of N, with I from 0 to N-1, such as 0_4"
        )
    return f"{int(index)}_{int(count)}"
