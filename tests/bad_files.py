"""Untrusted files: pickles that would run code, and files of other programs.

Every pickle that would run code would leave a file in the folder given to `attacks`; a test looks there.
"""

import builtins
import os
import pickle
import subprocess
from pathlib import Path


class Call:
    """Unpickled by Python itself, it calls `function(*args)`."""

    def __init__(self, function, *args) -> None:
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


def text(value: str) -> bytes:
    """The instruction that pushes a text."""
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def namespace(state: bytes) -> bytes:
    """A pickle of an argparse.Namespace filled with what `state` pushes."""
    return b"\x80\x04cargparse\nNamespace\n)\x81" + state + b"b."


def option(value: bytes) -> bytes:
    """A pickle of a Namespace whose option `seed` is what `value` pushes."""
    return namespace(b"}" + text("seed") + value + b"s")


def attacks(folder: Path) -> dict[str, bytes]:
    """Pickles that run code when Python reads them, by name; the code would put a file into `folder`."""
    victim = str(folder / "executed")
    touch = f"touch {victim}"
    python = f"open({victim!r}, 'w').close()"
    calls = {
        "os.system": Call(os.system, touch),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", victim]),
        "builtins.exec": Call(builtins.exec, python),
        "builtins.eval": Call(builtins.eval, python),
        "builtins.open": Call(builtins.open, victim, "w"),
        "os.mkdir": Call(os.mkdir, victim),
    }
    found = {}
    for name, call in calls.items():
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            found[f"{name}, protocol {protocol}"] = pickle.dumps(call, protocol=protocol)
            inside = pickle.dumps({"seed": [call]}, protocol=protocol)
            found[f"{name} in a dict, protocol {protocol}"] = inside
        pushed = pickle.dumps(call, protocol=2)[2:-1]
        found[f"{name} as an option"] = option(pushed)
        found[f"{name} as the state"] = namespace(pushed)
    return found | _gadgets(touch, victim)


def _gadgets(touch: str, victim: str) -> dict[str, bytes]:
    """Ways to a function through modules that are allowed, and by rarer instructions."""
    call = text(touch) + b"\x85R."
    found = {}
    for module, name in [
        *(("argparse", "_sys.modules"), ("argparse", "_os.system"), ("pathlib", "os.system"), ("argparse", "FileType")),
        *(("pathlib", "Path.touch"), ("argparse", "Namespace.__class__.__subclasses__"), ("collections", "namedtuple")),
    ]:
        found[f"{module}.{name}, STACK_GLOBAL"] = b"\x80\x04" + text(module) + text(name) + b"\x93" + call
        found[f"{module}.{name}, GLOBAL"] = f"c{module}\n{name}\n".encode() + call
    return found | {
        "INST": b"(" + text(touch) + b"iposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\n" + text(touch) + b"o.",
        "EXT1": b"\x80\x02\x82\x01" + call,
        "PERSID": b"P" + touch.encode() + b"\n.",
        "BINPERSID": text(touch) + b"Q.",
        "NEWOBJ_EX": b"\x80\x04cargparse\nFileType\n" + text("w") + b"\x85}\x92" + text(victim) + b"\x85R.",
        "NEWOBJ": b"\x80\x02cposix\nsystem\n" + text(touch) + b"\x85\x81.",
        "copyreg": b"ccopyreg\n_reconstructor\n(cargparse\nFileType\nc__builtin__\nobject\nNtR.",
        "call a path": b"cpathlib\nPosixPath\n" + text(victim) + b"\x85R(tR.",
        "call a Namespace's argument": b"cargparse\nNamespace\ncposix\nsystem\n\x85R.",
    }


def oddities() -> dict[str, bytes]:
    """Files that run nothing and yet hold no options."""
    return {
        "a class attribute": namespace(b"}" + text("__class__") + b"Ns"),
        "a name with a line break": namespace(b"}" + text("seed\nname") + b"K\x01s"),
        "number keys": namespace(b"}K\x01K\x02s"),
        "a class as an option": option(b"cargparse\nNamespace\n"),
        "a path of numbers": option(b"cpathlib\nPosixPath\nK\x01\x85R"),
        "a list in itself": option(b"]q\x00h\x00a"),
        "bytes of 2^62": option(b"\x8e" + (2**62).to_bytes(8, "little")),
        "a list instead of options": b"].",
        "no end": option(b"N")[:-1],
        "an unknown protocol": b"\x80\x63" + option(b"N")[2:],
        "a web page": b"<!DOCTYPE html><html><title>Sign in</title></html>",
        "zeros": bytes(100),
        "nothing": b"",
    }
