"""Options that another run saved, held to what train.py itself would take.  Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from .training import build_parser

# The command line may ask for more, at its own risk; a file that does is no trained bridge's.
_LARGEST = {"interval": 10**6, "image_size": 2**14, "batch_size": 2**24, "microbatch": 2**24}
_WHOLE = 2**50


def fault_of(options: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """What is wrong with the first of the options `names` that train.py would not take; None: nothing.

    Options that are missing are not looked at.
    """
    actions = {action.dest: action for action in build_parser()._actions}
    for name in names:
        if name in options and not _is_legal(actions[name], options[name]):
            return f"its option {name} is {shown(options[name])}, which is not legal"
    if {"t0", "T"} <= set(options) and options["t0"] >= options["T"]:
        return f"its option t0 is {options['t0']:g}, which is not below T, {options['T']:g}"
    return None


def shown(value: Any) -> str:
    """A value as text of one line, cut where it is long."""
    text = " ".join(ascii(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_legal(action: argparse.Action, value: Any) -> bool:
    if action.nargs == 0:
        return type(value) is bool
    if value is None:
        return action.default is None and not action.required
    if action.choices is not None:
        return type(value) is str and value in action.choices
    if type(value) not in (int, float) or value > _LARGEST.get(action.dest, _WHOLE):
        return False
    try:
        action.type(repr(value))
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True
