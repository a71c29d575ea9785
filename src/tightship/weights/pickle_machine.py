"""A pickle read as data: its opcodes are followed, and nothing that it names is imported or called, ever.

What it would import is a `Global`, what it would call a `Call`: plain values that `pickle_tensors` looks at. Every name
is known before anything is made of the file. Source: the comments of `pickletools`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from tightship.errors import InvalidModel

__all__ = ["Call", "Global", "Pairs", "Persistent", "Span", "run"]

_MAX_OPCODES = 1_000_000
"""About 35 for each tensor; a million are followed in about two seconds."""

_MAX_LINE = 2**16
_SMALL_BYTES = 2**12
_MARK, _STOP = object(), b"."


@dataclass(frozen=True)
class Span:
    """Bytes that stay in the file until they are wanted."""

    start: int
    length: int


@dataclass(frozen=True, eq=False)
class Global:
    """Something the pickle would import, as `module.name`."""

    name: str


@dataclass(frozen=True, eq=False)
class Persistent:
    """Something that lies outside the pickle: a storage of torch."""

    key: Any


@dataclass(frozen=True, eq=False)
class Pairs:
    """A dict as its items, so that no key of a stranger is hashed."""

    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Call:
    """What the pickle would call, with what, and what it would set on the result."""

    function: Any
    arguments: Any
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)


def run(file: IO[bytes], size: int) -> tuple[Any, tuple[str, ...]]:
    """Follow a pickle of at most `size` bytes; return what it leaves, and every name it would import, sorted.

    Raises `InvalidModel` where it is cut short, malformed or endless.
    """
    machine = _Machine(_Source(file, size))
    try:
        value = machine.run()
    except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise InvalidModel(f"not a sound pickle: {type(error).__name__} at byte {machine.position}") from error
    return value, tuple(sorted(machine.names))


class _Source:
    """The file as `pickletools` reads it: never past its end, and no line without one."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self.position = 0

    def read(self, count: int) -> bytes:
        self.reserve(count)
        data = self._file.read(count)
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        line = self._file.readline(_MAX_LINE)
        self.position += len(line)
        return line

    def reserve(self, count: int) -> None:
        """Raise `InvalidModel` where fewer bytes are left."""
        if count > self._size - self.position:
            raise InvalidModel(f"the pickle is cut short: {count} bytes expected at byte {self.position}")

    def span(self, count: int) -> Span | bytes:
        """The next bytes, skipped unless they are few."""
        if count <= _SMALL_BYTES:
            return self.read(count)
        self.reserve(count)
        found = Span(self._file.tell(), count)
        self._file.seek(count, 1)
        self.position += count
        return found


class _Machine:
    """The stack and the memo; one method or row of a table for each kind of opcode."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.names: set[str] = set()

    @property
    def position(self) -> int:
        """Bytes read by now."""
        return self._source.position

    def run(self) -> Any:
        """Follow opcodes to STOP and return the top of the stack."""
        source = self._source
        for _ in range(_MAX_OPCODES):
            code = source.read(1)
            if code == _STOP:
                return self._pop()
            row = _ROWS.get(code)
            if row is None:
                raise InvalidModel(f"not a pickle: byte {self.position - 1} is no opcode that weights are saved with")
            argument, follow = row
            follow(self, argument(source))
        raise InvalidModel(f"a pickle of more than {_MAX_OPCODES} steps; no weights are saved so")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def _to_mark(self) -> list[Any]:
        found = []
        while (value := self._stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def _top(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def drop(self, _: Any) -> None:
        self._stack.pop()

    def drop_to_mark(self, _: Any) -> None:
        self._to_mark()

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def tuple_of(self, count: int) -> None:
        self._stack.append(tuple(self._top(count)))

    def tuple_to_mark(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def list_to_mark(self, _: Any) -> None:
        self._stack.append(self._to_mark())

    def dict_to_mark(self, _: Any) -> None:
        self._stack.append(Pairs(_pairs(self._to_mark())))

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Call):
            target.items.extend(enumerate(values, start=len(target.items)))
        else:
            raise TypeError

    def set_items(self, values: list[Any]) -> None:
        self._stack[-1].items.extend(_pairs(values)) if isinstance(self._stack[-1], Pairs | Call) else _wrong()

    def name(self, written: str) -> None:
        self._import(written.replace(" ", ".", 1))

    def stack_name(self, _: Any) -> None:
        module, name = self._top(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self._import(f"{module}.{name}")

    def _import(self, name: str) -> None:
        self.names.add(name)
        self._stack.append(Global(name))

    def call(self, _: Any) -> None:
        function, arguments = self._top(2)
        self._stack.append(_called(function, arguments))

    def call_with_words(self, _: Any) -> None:
        function, arguments, _words = self._top(3)
        self._stack.append(_called(function, arguments))

    def instance(self, written: str) -> None:
        arguments = self._to_mark()
        self.name(written)
        self._stack.append(_called(self._pop(), tuple(arguments)))

    def object_to_mark(self, _: Any) -> None:
        function, *arguments = self._to_mark()
        self._stack.append(_called(function, tuple(arguments)))

    def build(self, _: Any) -> None:
        state = self._pop()
        target = self._stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, Pairs):  # an OrderedDict may have attributes, which are not its items
            raise TypeError

    def persistent(self, key: Any) -> None:
        self._stack.append(Persistent(key))


def _wrong() -> None:
    raise TypeError


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise ValueError
    return list(zip(values[::2], values[1::2], strict=True))


def _called(function: Any, arguments: Any) -> Any:
    """A call as data; those of plain containers are their content."""
    name = function.name if isinstance(function, Global) else ""
    if name in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
        listed = arguments[0] if isinstance(arguments, tuple) and arguments else []
        return Pairs([(key, value) for key, value in (listed.items if isinstance(listed, Pairs) else listed)])
    if name == "_codecs.encode" and isinstance(arguments[0], str):
        return arguments[0].encode("latin-1")  # how protocols 0 to 2 write bytes
    if name in ("builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"):
        return list(arguments[0]) if arguments else []
    if name in _BYTES and isinstance(arguments, tuple):
        return _bytes(*arguments)
    return Call(function, arguments)


def _bytes(value: Any = b"", *_: Any) -> Any:
    if isinstance(value, bytes | Span):
        return value
    if isinstance(value, str):
        return value.encode("latin-1")
    raise TypeError  # a number, which would be that many zeros


_BYTES = frozenset(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in ("bytes", "bytearray"))
_COUNTED_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
_PUSHED = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *_COUNTED_BYTES,
    }
)
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": Pairs,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.duplicate,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": _Machine.tuple_to_mark,
    "LIST": _Machine.list_to_mark,
    "FROZENSET": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "APPEND": lambda machine, _: machine.append(machine._top(1)),
    "APPENDS": lambda machine, _: machine.append(machine._to_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine._to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine._top(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine._to_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_words,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_to_mark,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine._pop()),
}


def _counted(n_bytes: int) -> Callable[[_Source], Span | bytes]:
    return lambda source: source.span(int.from_bytes(source.read(n_bytes), "little"))


def _argument(opcode: pickletools.OpcodeInfo) -> Callable[[Any], Any]:
    if opcode.name in _COUNTED_BYTES:
        return _counted(_COUNTED_BYTES[opcode.name])
    return opcode.arg.reader if opcode.arg is not None else lambda source: None


def _step(name: str) -> Callable[[_Machine, Any], None] | None:
    if name in _PUSHED:
        return _Machine.push
    if make := _MADE.get(name):
        return lambda machine, _: machine.push(make())
    return _STEPS.get(name)


_ROWS = {
    opcode.code.encode("latin-1"): (_argument(opcode), step)
    for opcode in pickletools.opcodes
    if (step := _step(opcode.name)) is not None
}
"""How the argument of each opcode is read, and what it does. Those that reach outside of the file have no row."""
