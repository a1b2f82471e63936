"""Lists of pairs: CSV or JSON Lines, a pair on each line."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from i2sb.errors import UserError, one_line

NAMES = (("A", "B"), ("source", "target"), ("lq", "gt"), ("degraded", "clean"))
"""What the degraded and the clean side are called: folders, columns, and keys."""

LISTS = (".csv", ".jsonl")


def read_pair_list(path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """([(degraded, clean)], what is wrong with other lines) of a list; its paths are relative to its folder.

    CSV: two columns, degraded and clean, or in the order of a first line with two of NAMES; JSON Lines: two such keys.
    Raises UserError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: the list of pairs cannot be read: {error.strerror}") from error
    if path.suffix.lower() not in LISTS:
        raise UserError(f"{path}: a list of pairs is a {' or a '.join(LISTS)} file")
    pairs, faults = [], []
    for line, row in _csv(text) if path.suffix.lower() == ".csv" else _json_lines(text):
        if isinstance(row, str):
            faults.append(f"{path}, line {line}: {row}")
            continue
        both = [os.path.join(path.parent, name) for name in row]  # noqa: PTH118  (an absolute path stays)
        if missing := [file for file in both if not os.path.isfile(file)]:  # noqa: PTH113
            faults.append(f"{path}, line {line}: there is no file {missing[0]}")
        else:
            pairs.append((both[0], both[1]))
    return pairs, faults


def _csv(text: str) -> Iterator[tuple[int, tuple[str, str] | str]]:
    rows = csv.reader(io.StringIO(text, newline=""))
    swapped = False
    for number, row in enumerate(rows):
        cells = [cell.strip() for cell in row]
        header = tuple(cell.lower() for cell in cells)
        lowered = [(a.lower(), b.lower()) for a, b in NAMES]
        if number == 0 and (header in lowered or header[::-1] in lowered):
            swapped = header[::-1] in lowered
        elif len(cells) == 2 and all(cells):
            yield rows.line_num, tuple(cells[::-1] if swapped else cells)
        elif any(cells):
            yield rows.line_num, f"expected two paths with a comma between them, got {one_line(row)}"


def _json_lines(text: str) -> Iterator[tuple[int, tuple[str, str] | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
        except ValueError as error:
            yield number, f"is not JSON: {one_line(error)}"
            continue
        both = [
            (found[a], found[b])
            for a, b in NAMES
            if isinstance(found, dict) and isinstance(found.get(a), str) and isinstance(found.get(b), str)
        ]
        keys = ", ".join(f"{a} and {b}" for a, b in NAMES)
        yield number, both[0] if both else f"expected an object with the keys {keys}"
