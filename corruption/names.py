"""The names of the degradations, readable without torch (`--help` lists them).

The ten published names come first, in the published order. A further degradation needs no entry here: the files of
this package are searched, as text, for their `@corruption("name")` decorators.
"""

import re
from pathlib import Path

PUBLISHED: tuple[str, ...] = (
    "jpeg-5",
    "jpeg-10",
    "blur-uni",
    "blur-gauss",
    "sr4x-pool",
    "sr4x-bicubic",
    "inpaint-center",
    "inpaint-freeform1020",
    "inpaint-freeform2030",
    "mixture",
)

# A decorator at the start of a line with a literal name: what the registry demands of an operator's file.
_DECORATOR = re.compile(r"""^@(?:\w+\.)*corruption\(\s*["']([^"'\n]+)["']\s*\)""", re.MULTILINE)


def find_names(folder: Path) -> tuple[str, ...]:
    """Names registered by the files of `folder`: the published ones first, then the others in alphabetical order."""
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in folder.glob("*.py")]
    found = {name for text in texts for name in _DECORATOR.findall(text)}
    return PUBLISHED + tuple(sorted(found.difference(PUBLISHED)))


TASKS: tuple[str, ...] = find_names(Path(__file__).parent)
