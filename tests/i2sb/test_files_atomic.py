"""Files that are whole or not there, whatever happens while they are written; locks between processes."""

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import names, python

from i2sb.errors import UserError
from i2sb.runtime.files import atomic_write, lock, only_one

# --- atomic_write


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as file:
        file.write(b"12")
        file.write(memoryview(np.arange(2, dtype=np.int16)))
        assert not path.exists()
    assert path.read_bytes() == b"12\0\0\1\0"
    assert names(path.parent) == ["file"]


def test_the_data_are_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """Else a power cut soon after could leave an empty file under the name of the old one."""
    events, replace = [], Path.replace

    def fsync(handle):
        found = os.fstat(handle)
        events.append(("fsync folder",) if stat.S_ISDIR(found.st_mode) else ("fsync", found.st_ino, found.st_size))

    def renamed(draft, target):
        events.append(("replace", draft.stat().st_ino, target))
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    with atomic_write(tmp_path / "file") as file:
        file.write(b"123")
        assert events == []
    number = (tmp_path / "file").stat().st_ino
    assert events == [("fsync", number, 3), ("replace", number, tmp_path / "file"), ("fsync folder",)]


def test_the_umask_decides_on_the_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write(b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


class Raising(dict):
    """Raises `self["error"]` while torch saves it."""

    def __reduce__(self):
        raise self["error"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError("of something else")])
def test_a_failing_block_leaves_all_as_it_was(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")  # torch makes another error of an interrupt
    with pytest.raises(type(error)) as caught, atomic_write(path) as file:
        torch.save({"a": torch.zeros(1000), "b": Raising(error=error)}, file)
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 250, "\u4e2d" * 83, "a\udcff\udcfe.pt"], ids=["250 bytes", "249", "not UTF-8"])
def test_names_that_are_long_or_no_text(tmp_path, name):
    for text in (b"old", b"new"):
        with atomic_write(tmp_path / name) as file:
            file.write(text)
    assert (tmp_path / name).read_bytes() == b"new"
    assert names(tmp_path) == [name]
    with only_one(tmp_path / name, "busy"):
        pass
    (tmp_path / name).mkdir()
    with pytest.raises(UserError) as caught, atomic_write(tmp_path / name):
        pass
    assert str(caught.value).isprintable()


def not_implemented(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_a_file_system_without_locks_or_syncing(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", not_implemented)
    monkeypatch.setattr(os, "fsync", not_implemented)
    for text in (b"old", b"new"):
        with atomic_write(tmp_path / "file") as file:
            file.write(text)
    assert (tmp_path / "file").read_bytes() == b"new"
    with only_one(tmp_path / "lock", "busy"), lock(tmp_path / "other"):
        pass
    assert names(tmp_path) == ["file"]


def test_a_read_only_file_system_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    message = r"cannot be written: Read-only file system; choose a folder that can be, .*data/ and results/"
    for write in (lambda: atomic_write(tmp_path / "a/file"), lambda: only_one(tmp_path / "a/.lock", "busy")):
        with pytest.raises(UserError, match=message), write():
            pass


WRITE_AND_WAIT = """
import sys
from i2sb.runtime.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_writer_left_is_swept_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "a[b]*.pt"
    dead, alive = python(WRITE_AND_WAIT, path), python(WRITE_AND_WAIT, path)
    for process in (dead, alive):
        assert process.stdout.readline() == "writing\n"
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    assert len(names(tmp_path)) == 2
    with atomic_write(path) as file:
        file.write(b"whole")
    assert len(names(tmp_path)) == 2  # the file, and the draft of the one that lives
    assert path.read_bytes() == b"whole"
    alive.communicate("\n")
    assert alive.returncode == 0
    assert path.read_bytes() == b"half"
    assert names(tmp_path) == [path.name]


# --- lock

HOLD = """
import sys
from i2sb.runtime.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("death", [False, True])
def test_a_wait_is_said_once_and_ends(tmp_path, death):
    holder = python(HOLD, tmp_path / "lock")
    assert holder.stdout.readline() == "held\n"
    said = []

    def on_wait():
        said.append(1)
        if death:
            holder.kill()
        else:
            holder.stdin.write("\n")
            holder.stdin.flush()

    with lock(tmp_path / "lock", on_wait):
        assert said == [1]
    holder.communicate()
    with lock(tmp_path / "lock", on_wait):
        assert said == [1]
