"""The collectives of a compiled program, read from its text after partitioning.

XLA has no other way to tell. What is read: the operations, their result types, their groups of devices, the trip counts
of loops, and which operation uses which. Bytes are those of the whole buffer: what each device gives to an all-reduce
or a reduce-scatter, what each has after an all-gather.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cracks_jax.errors import CracksError

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "token": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "c64": 64, "c128": 128}
# Operations that move nothing, and those that only make an array lie otherwise.
_NO_TRAFFIC = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_LAYOUT = {"copy", "transpose", "reverse", "pad", "slice", "reshape", "concatenate"}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|\w+_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
      kind: one of KINDS.
      bytes: of the whole buffer, all arrays together.
      arrays: how many arrays were combined in it.
      group: devices that take part together.
      times: how often a run of the program meets it (trips of the loops around it).
    """

    kind: str
    bytes: int
    arrays: int
    group: int
    times: int = 1


@dataclass(frozen=True)
class _Operation:
    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def kind(self) -> str | None:
        """Of a collective that is begun here; its `-done` is no second one."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in KINDS else None

    @property
    def called(self) -> list[str]:
        return [name for group in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.\-]+", group)]

    @property
    def trips(self) -> int:
        """Of a loop; 1 where the compiler does not know, which `collectives` refuses if it matters."""
        known = _TRIPS.search(self.attributes)
        return int(known[1]) if self.opcode == "while" and known else 1


class Program:
    """A compiled program's text, taken apart."""

    def __init__(self, text: str):
        self.devices = math.prod(int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", text[:_HEADER]))
        self._computations: dict[str, dict[str, _Operation]] = {}
        self._entry = ""
        current: dict[str, _Operation] = {}
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self._computations.setdefault(head[2], {})
                self._entry = head[2] if head[1] else self._entry
            elif operation := _operation(line):
                current[operation.name] = operation
        if not self._entry:
            raise CracksError("the compiled program's text has no ENTRY; expected HLO as `as_text()` prints it")
        self._rounds: dict[str, int] = {}

    def collectives(self) -> list[Collective]:
        """Every collective of one run, those of called computations and loops included."""
        return list(self._met(self._entry, 1))

    def rounds(self) -> int:
        """How many collectives must follow one another, each waiting for the one before: the longest such chain."""
        return self._longest(self._entry)

    def traffic(self) -> tuple[int, int]:
        """Bytes that one run reads and writes: operands and results of everything that is not fused into another.

        Returns:
          What computes or sends, and apart from it what only makes arrays lie otherwise (copies, transpositions,
          padding, slices): a processor's convolutions want that, an accelerator's take their operands as they are.
        """
        found = self._traffic(self._entry, 1)
        return found[False], found[True]

    def _traffic(self, computation: str, times: int) -> Counter[bool]:
        found: Counter[bool] = Counter()
        operations = self._computations.get(computation, {})
        sizes = {name: sum(array_bytes(one.result)) for name, one in operations.items()}
        for name, one in operations.items():
            if one.opcode in ("call", "while", "conditional"):
                for called in one.called:
                    found += self._traffic(called, times * one.trips)
            elif one.opcode not in _NO_TRAFFIC and not one.opcode.endswith("-done"):
                moved = sizes[name] + sum(sizes.get(operand, 0) for operand in one.operands)
                found[self._rearranges(one)] += times * moved
        return found

    def _rearranges(self, operation: _Operation) -> bool:
        inside = [one for name in operation.called for one in self._computations.get(name, {}).values()]
        steps = [one.opcode for one in inside] if operation.opcode == "fusion" else [operation.opcode]
        return all(step in _LAYOUT or step in _NO_TRAFFIC for step in steps)

    def _met(self, computation: str, times: int) -> Iterator[Collective]:
        for operation in self._computations.get(computation, {}).values():
            if operation.kind:
                size, arrays = _moved(operation, group := self._group(operation))
                yield Collective(operation.kind, size, arrays, group, times)
                continue
            for name in operation.called:
                inner = list(self._met(name, times * operation.trips))
                if inner and operation.opcode == "while" and not _TRIPS.search(operation.attributes):
                    raise CracksError(f"loop {operation.name} has collectives, and its trips are not known")
                yield from inner

    def _longest(self, computation: str) -> int:
        """Operations are printed before those that use them, so one pass is enough."""
        if computation not in self._rounds:
            reached: dict[str, int] = {}
            for operation in self._computations.get(computation, {}).values():
                before = max((reached.get(name, 0) for name in operation.operands), default=0)
                inner = 1 if operation.kind else sum(map(self._longest, operation.called)) * operation.trips
                reached[operation.name] = before + inner
            self._rounds[computation] = max(reached.values(), default=0)
        return self._rounds[computation]

    def _group(self, operation: _Operation) -> int:
        if operation.kind == "collective-permute":
            pairs = re.search(r"source_target_pairs=\{(.*?\})\}", operation.attributes)
            return len(set(re.findall(r"\d+", pairs[1]))) if pairs else self.devices
        return group_size(operation.attributes, self.devices)


_HEADER = 1_000_000  # the first line, which lists every argument, ends well before this


def group_size(attributes: str, devices: int) -> int:
    """Devices in one group, from the three ways in which `replica_groups` is printed.

    `{{0,1},{2,3}}` lists them; `[2,4]<=[8]` says groups by members; `mesh['x'=4,'y'=2] {'x'}` names the axes that are
    summed over (`'x':(1)2`: a part of one). None or `{}`: all devices.
    """
    if mesh := re.search(r"replica_groups=\w*mesh\S*\[(.*?)\]\s*\{(.*?)\}", attributes):
        sides = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sides[name] for name, part in parts)
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    return devices


def array_bytes(result: str) -> list[int]:
    """Bytes of every array in a type such as `(f32[8,4]{1,0}, bf16[3])`."""
    found = []
    for dtype, shape in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", result)):
        elements = math.prod(int(side.removeprefix("<=")) for side in shape.split(",") if side)
        found.append(-(-elements * _bits(dtype) // 8))
    return found


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.match(r"(?:s|u|f|bf)(\d+)", dtype)  # f8e4m3fn too
    if digits is None:
        raise CracksError(f"the compiled program has arrays of type {dtype!r}, whose size is not known")
    return int(digits[1])


def _moved(operation: _Operation, group: int) -> tuple[int, int]:
    """(bytes of the whole buffer, arrays) of a collective."""
    parts = _top_level(operation.result)
    if operation.opcode.endswith("-start") and operation.kind != "all-reduce" and len(parts) > 1:
        # An operation under way holds its operands, its results and what it keeps for itself, in this order.
        parts = parts[:1] if operation.kind == "collective-permute" else parts[1:2]
    arrays = [size for part in parts for size in array_bytes(part)]
    scattered = group if operation.kind == "reduce-scatter" else 1
    return sum(arrays) * scattered, len(arrays)


def _operation(line: str) -> _Operation | None:
    head = _LINE.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.find(" ")
    opened = rest.find("(", end)
    if end < 0 or opened < 0:
        return None
    closed = opened + _closing(rest[opened:])
    operands = tuple(_OPERAND.findall(rest[opened:closed]))
    return _Operation(head[1], rest[:end], rest[end:opened].strip(), operands, rest[closed:])


def _closing(text: str) -> int:
    """The place behind the parenthesis that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter == ")":
            return place + 1
    return len(text)


def _top_level(result: str) -> list[str]:
    """The members of a tuple's type; the type itself where it is none."""
    if not result.startswith("("):
        return [result]
    parts, depth, start = [], 0, 1
    for place, letter in enumerate(result):
        depth += (letter in "({[") - (letter in ")}]")
        if (letter == "," and depth == 1) or (depth == 0 and letter == ")"):
            parts.append(result[start:place].strip())
            start = place + 1
    return [part for part in parts if part]
