"""Read a pickle as data: a stack machine that knows no Python object beyond plain ones and imports nothing.

The pickle format is a small program. Python's own reader runs it with the power to import and call; this one
runs the part of it that describes values. A global such as `argparse.Namespace` is only a name here
(`Global`), and what is made from one is only a note of it (`Made`). So there is nothing to execute, and what
remains to fear are sizes: every opcode allocates no more than its own bytes, keys are text or small integers
(hashing a nested tuple or numbers chosen to collide can take for ever), and `measure` bounds depth and extent
of the result.

Format: PEP 307, PEP 3154 and the comments of Python's `pickletools`.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from i2sb.errors import one_line

MAX_DEPTH = 64
MAX_INT_KEY = 2**24
BYTES_PER_OBJECT = (
    16  # a checkpoint has 40 for each list, dictionary or call; an empty set takes one and makes 216
)


class Refused(ValueError):
    """The pickle holds something that is not accepted; the text is the REASON of `FILE: refused: REASON`."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Made:
    """What a call of `kind` with `args` would have made; `state` and `items` were put into it afterwards."""

    kind: Global
    args: tuple = ()
    state: list = field(default_factory=list)
    items: list = field(default_factory=list)


class Policy:
    """What the reader of one kind of file accepts: here, plain values and nothing else."""

    globals: frozenset[str] = frozenset()  # "module name"

    def make(self, kind: Global, args: tuple) -> Any:
        """The value that stands for `kind(*args)`. Raises Refused."""
        return Made(kind, args)

    def build(self, made: Made, state: Any) -> None:
        """Check what is put into a made object. Raises Refused."""
        if not (isinstance(state, dict) and all(isinstance(name, str) for name in state)):
            raise Refused(f"it fills a {made.kind} with something other than named values")

    def persistent(self, description: Any) -> Any:
        """The value that stands for an object outside of the pickle. Raises Refused."""
        raise Refused("it refers to objects outside of the file")


def load(source: bytes | BinaryIO, policy: Policy | None = None) -> Any:
    """The value of the pickle at the start of `source`: plain values, `Global` and what `policy` makes.

    Raises:
        Refused: for any pickle that is broken, too deep, too wide when unfolded, or not accepted by `policy`.
    """
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        start = stream.tell()
        with warnings.catch_warnings():  # the parser complains about escapes in old kinds of text
            warnings.simplefilter("ignore")
            machine = _Machine(policy or Policy(), max_objects=1000 + _remaining(stream) // BYTES_PER_OBJECT)
            value = machine.run(pickletools.genops(stream))
        measure(value, limit=1000 + 2 * (stream.tell() - start))
        if isinstance(source, bytes) and stream.read(1):
            raise Refused("something follows after its end")
    except Refused:
        raise
    except Exception as error:  # the format's parser raises whatever a broken file makes it stumble over
        raise Refused(f"it is not a whole pickle ({one_line(error) or type(error).__name__})") from error
    return value


def _remaining(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, io.SEEK_END)
    stream.seek(here)
    return end - here


def measure(value: Any, limit: int) -> None:
    """Refuse values that refer to themselves, nest deeply, or unfold to more than `limit` values."""
    todo = [(value, 0)]
    count = 1
    while todo:
        value, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise Refused(f"it nests more than {MAX_DEPTH} levels deep")
        inner = children(value)
        count += len(inner)
        if count > limit:
            raise Refused(f"it unfolds to more than {limit} values")
        todo += [(item, depth + 1) for item in inner if isinstance(item, (tuple, list, dict, Made))]


def children(value: Any) -> Collection:
    """What a value is made of, apart from keys, which are text or integers."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, Made):
        return (*value.args, *value.state, *value.items)
    return ()


_MARK = object()


class _Machine:
    """One method per opcode, named as in `pickletools`; an opcode without a method is refused."""

    def __init__(self, policy: Policy, max_objects: int) -> None:
        self.policy = policy
        self.objects_left = max_objects
        self.stack: list = []
        self.memo: dict[int, Any] = {}

    def run(self, opcodes: Iterable) -> Any:
        for opcode, arg, _ in opcodes:
            name = opcode.name
            if name in _PUSH_ARG:
                self.stack.append(arg)
            elif name in _PUSH:
                self.stack.append(_PUSH[name])
            elif name in _PUSH_NEW:
                self.count_object()
                self.stack.append(_PUSH_NEW[name]())
            elif name == "STOP":
                break
            elif (method := getattr(self, name, None)) is not None and name.isupper():
                method(arg)
            else:
                raise Refused(f"it uses the pickle instruction {name}, which no such file needs")
        value = self.pop()
        if self.stack:
            raise Refused("it is not a whole pickle (values are left over)")
        return value

    def count_object(self) -> None:
        self.objects_left -= 1
        if self.objects_left < 0:
            raise Refused("it makes more objects than a file of its size should")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise Refused("it is not a whole pickle (a value is missing)")
        return value

    def top(self, *kinds: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kinds):
            raise Refused("it puts items into something that holds none")
        return value

    def pop_to_mark(self) -> list:
        items = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    # --- structure

    def PROTO(self, version: int) -> None:
        if version > 5:
            raise Refused(f"its pickle protocol {version} is not known")

    def FRAME(self, _: int) -> None:
        """A hint about buffering."""

    def MARK(self, _: None) -> None:
        self.stack.append(_MARK)

    def PUT(self, index: int) -> None:
        value = self.stack[-1]
        if value is _MARK:
            raise Refused("it is not a whole pickle (a value is missing)")
        self.memo[index] = value

    BINPUT = LONG_BINPUT = PUT

    def MEMOIZE(self, _: None) -> None:
        self.PUT(len(self.memo))

    def GET(self, index: int) -> None:
        self.stack.append(self.memo[index])

    BINGET = LONG_BINGET = GET

    # --- containers

    def TUPLE(self, _: None) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def TUPLE1(self, _: None) -> None:
        self.stack.append((self.pop(),))

    def TUPLE2(self, _: None) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def TUPLE3(self, _: None) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def LIST(self, _: None) -> None:
        self.stack.append(self.pop_to_mark())

    def DICT(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self._set_items(items)

    def APPEND(self, _: None) -> None:
        value = self.pop()
        self.top(list).append(value)

    def APPENDS(self, _: None) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)

    def SETITEM(self, _: None) -> None:
        value, name = self.pop(), self.pop()
        self._set_items([name, value])

    def SETITEMS(self, _: None) -> None:
        self._set_items(self.pop_to_mark())

    def ADDITEMS(self, _: None) -> None:
        items = [key(item) for item in self.pop_to_mark()]
        self.top(set).update(items)

    def FROZENSET(self, _: None) -> None:
        self.stack.append(frozenset(key(item) for item in self.pop_to_mark()))

    def _set_items(self, items: list) -> None:
        if len(items) % 2:
            raise Refused("it is not a whole pickle (a key without a value)")
        target = self.top(dict, Made)
        for name, value in zip(items[::2], items[1::2]):
            if isinstance(target, dict):
                target[key(name)] = value
            else:
                target.items += [key(name), value]

    # --- names and what is made from them

    def GLOBAL(self, name: str) -> None:
        self._global(*name.split(" ", 1))

    def STACK_GLOBAL(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self._global(module, name)

    def _global(self, module: str, name: str) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("it names a global by something that is not text")
        if f"{module} {name}" not in self.policy.globals:
            wanted = f"{one_line(module)}.{one_line(name)}"
            raise Refused(f"it asks for {wanted}, which is not on the list of what such a file may use")
        self.stack.append(Global(module, name))

    def REDUCE(self, _: None) -> None:
        self.count_object()
        args, kind = self.pop(), self.pop()
        if not (isinstance(kind, Global) and isinstance(args, tuple)):
            raise Refused("it calls something that is no known name")
        self.stack.append(self.policy.make(kind, args))

    NEWOBJ = REDUCE

    def BUILD(self, _: None) -> None:
        state = self.pop()
        made = self.top(Made)
        self.policy.build(made, state)
        made.state.append(state)

    def BINPERSID(self, _: None) -> None:
        self.stack.append(self.policy.persistent(self.pop()))


def key(value: Any) -> str | int:
    """`value`, if it may be a dictionary's key or a set's member."""
    if isinstance(value, str) or (isinstance(value, int) and abs(value) <= MAX_INT_KEY):
        return value
    raise Refused("it uses something other than text or a small integer as a key or member of a set")


_PUSH_ARG = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_PUSH = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PUSH_NEW = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
