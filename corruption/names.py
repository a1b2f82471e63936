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


_files = Path(__file__).parent.glob("*.py")
_found = {name for file in _files for name in _DECORATOR.findall(file.read_text(encoding="utf-8"))}
TASKS: tuple[str, ...] = PUBLISHED + tuple(sorted(_found.difference(PUBLISHED)))
