"""Other processes for tests: a fresh Python, a forked child, and a child that is not root."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534


def python(code: str, *args: object) -> subprocess.Popen:
    """Another Python process that runs `code` with `args` in sys.argv."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_child(function: Callable[[], object], *, no_root: bool = False) -> str:
    """What `function()` returns in a forked child, or the kind and text of the error that it raises there.

    `no_root`: permissions bind the child, also where the tests run as root.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if no_root and os.getuid() == 0:
                os.setuid(NOBODY)
            answer = str(function())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@contextmanager
def readonly_folder() -> Iterator[Path]:
    """A folder that everyone may read and nobody but root may write to; it holds one file, "file"."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file").write_bytes(b"old")
        (folder / "file").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())
