"""Reads pickles as data: their instructions are interpreted one by one, and none of them can call a function.

A pickle is a program whose instructions may name any function and call it. Here they only build numbers, text, lists,
tuples and dicts. A name becomes an `Unknown`, and so does the result of calling it, unless the reader of a format
supplies a value for the call (`build`). There is no recursion, so that nesting cannot exhaust the stack, and the number
of instructions is bounded.
"""

import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_INSTRUCTIONS = 10_000_000  # of one pickle: a training checkpoint of ViT-H has about 200,000


class Unknown:
    """Stands for an object that is no plain data; holds the name that the pickle gives it."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Namespace(dict):
    """The attributes of an argparse.Namespace."""


class Pickles:
    """Reads pickles, of which a file may hold several.

    Args:
      build: called with a name and its arguments; returns the value of the call, or None for an `Unknown`.
      persistent: called with the key of an object outside of the pickle; returns its value.
    """

    def __init__(self, build: Callable[[str, tuple], Any], persistent: Callable[[Any], Any]):
        self._build, self._persistent = build, persistent

    def load(self, file: bytes | BinaryIO) -> Any:
        """The object that a pickle describes; a file is read up to the end of the pickle.

        Raises:
          ValueError, LookupError, EOFError, ...: it is no pickle or a damaged one.
          pickle.UnpicklingError: it is too long, or has instructions that torch never writes.
        """
        self.stack, self.marks, self.memo = [], [], {}
        for count, (code, arg, _) in enumerate(pickletools.genops(file)):
            if count >= MAX_INSTRUCTIONS:
                raise pickle.UnpicklingError(f"a pickle of more than {MAX_INSTRUCTIONS} instructions")
            if code.name == "STOP":
                return self.stack.pop()
            self._step(code.name, arg)
        raise EOFError("a pickle without end")

    def _step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in LITERALS:
            stack.append(arg)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in PUT:
            self.memo[len(self.memo) if arg is None else int(arg)] = stack[-1]
        elif name in GET:
            stack.append(self.memo[int(arg)])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in SINCE_MARK:
            start = self.marks.pop()
            items = stack[start:]
            del stack[start:]
            self._combine(name, arg, items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            (self.marks if self.marks and self.marks[-1] == len(stack) else stack).pop()
        elif name not in ("PROTO", "FRAME"):
            self._object(name, arg)

    def _combine(self, name: str, arg: Any, items: list) -> None:
        """Executes an instruction on all items above the last mark."""
        stack = self.stack
        if name == "TUPLE":
            stack.append(tuple(items))
        elif name == "LIST":
            stack.append(items)
        elif name == "DICT":
            stack.append(with_items({}, items))
        elif name == "FROZENSET":
            stack.append(Unknown("frozenset"))
        elif name == "APPENDS" and isinstance(stack[-1], list):
            stack[-1].extend(items)
        elif name == "SETITEMS":
            with_items(stack[-1], items)
        elif name == "OBJ":
            stack.append(self._built(items[0], tuple(items[1:])))
        elif name == "INST":
            stack.append(self._built(Unknown(arg.replace(" ", ".", 1)), tuple(items)))

    def _object(self, name: str, arg: Any) -> None:
        """Executes an instruction that makes or fills an object."""
        stack = self.stack
        if name == "GLOBAL":
            stack.append(Unknown(arg.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            words = stack[-2:]
            stack[-2:] = [Unknown(".".join(word for word in words if isinstance(word, str)))]
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = self._built(stack[-1], arguments)
        elif name == "NEWOBJ_EX":
            del stack[-2:]
            stack[-1] = self._built(stack[-1], ())
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Namespace) and isinstance(state, dict):
                stack[-1].update(state)
        elif name == "APPEND":
            item = stack.pop()
            if isinstance(stack[-1], list):
                stack[-1].append(item)
        elif name == "SETITEM":
            with_items(stack[-3], stack[-2:])
            del stack[-2:]
        elif name == "BINPERSID":
            stack[-1] = self._persistent(stack[-1])
        elif name == "PERSID":
            stack.append(self._persistent(arg))
        else:
            raise pickle.UnpicklingError(f"instruction {name}, which torch never writes")

    def _built(self, what: Any, arguments: Any) -> Any:
        """The value that stands for calling `what`."""
        if not isinstance(what, Unknown) or not isinstance(arguments, tuple):
            return Unknown("an object without a name")
        if what.name in DICTS:
            return _pairs(arguments)
        if what.name in ("argparse.Namespace", "types.SimpleNamespace"):
            return Namespace()
        built = self._build(what.name, arguments)
        return Unknown(what.name) if built is None else built


LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Unknown("set"),
}
PUT, GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
SINCE_MARK = {
    *("TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "SETITEMS", "ADDITEMS", "OBJ", "INST", "POP_MARK"),
}
DICTS = {"collections.OrderedDict", "__builtin__.OrderedDict", "collections.defaultdict", "collections.Counter"}


def with_items(target: Any, items: list) -> Any:
    """Adds the alternating keys and values of `items` to `target`, if it is a dict, and returns it.

    Keys that are no plain values are left out, because hashing a nested one can exhaust the stack.
    """
    if isinstance(target, dict):
        plain = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in plain if isinstance(key, (str, int, float)))
    return target


def _pairs(arguments: tuple) -> dict:
    """A dict from the arguments of an OrderedDict, which are empty or a list of pairs."""
    found = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return with_items({}, [word for pair in found if len(pair) == 2 for word in pair])
