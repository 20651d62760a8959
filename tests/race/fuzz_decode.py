"""Mutated bytes through every decoder of the core: verify, join, order, mutate, cells, contexts.

Run by test_asan.py inside an interpreter with AddressSanitizer and UBSAN; also by hand:

    python tests/race/fuzz_decode.py SECONDS [SEED]

Oracles beside "no report, no crash": what is accepted is canonical under its own join
(join(a, a) == a, order(a, a) is equal), a join of two accepted states is accepted and above both.
Prints its seed and the counts; exit status 1 with the bytes in hex where an oracle fails.
"""
from __future__ import annotations

import random
import struct
import sys
import time

from annapy._core import face
from annapy.errors import AnnapyError

REFUSED = (AnnapyError, ValueError, TypeError, OverflowError, KeyError, MemoryError)
OPS = range(1, 10)
KEPT_MAX = 60
SIZE_MAX = 4096


def counted(data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([len(data)]) + data


def member(rng: random.Random) -> bytes:
    return rng.choice([b"a", b"b", b"key", rng.randbytes(rng.randrange(20))])


def argument(rng: random.Random, depth: int = 0) -> bytes:
    """Something that some operation of some type takes."""
    kind = rng.randrange(8 if depth < 3 else 7)
    if kind == 0:
        return struct.pack("<q", rng.choice([0, 1, -1, 5, rng.getrandbits(62), -(1 << 63)]))
    if kind == 1:
        return struct.pack("<d", rng.choice([0.0, -0.0, 1.5, float("inf"), rng.random()]))
    if kind == 2:
        members = [member(rng) for _ in range(rng.randrange(6))]
        return bytes([len(members)]) + b"".join(map(counted, members))
    if kind == 3:
        code, bits, fmt = rng.choice([(2, 32, "f"), (2, 64, "d"), (0, 64, "q"), (0, 8, "b")])
        n = rng.randrange(4)
        shape = rng.choice([(n,), (1, n), ()])
        size = n if shape else 1
        return struct.pack(f"<BBHB3x{len(shape)}q{size}{fmt}", code, bits, 1, len(shape), *shape,
                           *(rng.randrange(100) for _ in range(size)))
    if kind == 4:
        return struct.pack("<d", rng.random()) + member(rng)
    if kind == 5:
        dot = (rng.randrange(1, 4), rng.randrange(1, 5))
        return counted(face.context_make([dot])) + member(rng)
    if kind == 6:
        return rng.randbytes(rng.randrange(40))
    return (counted(member(rng)) + bytes([rng.randrange(1, 23), rng.choice(OPS)])
            + argument(rng, depth + 1))


def mutated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One of the usual ways to damage bytes, a few times over."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        how = rng.randrange(7)
        at = rng.randrange(len(out) + 1)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1 and out:
            out[at % len(out)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif how == 2:
            del out[at:at + rng.randrange(1, 12)]
        elif how == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 12))
        elif how == 4:
            out[at:] = other[rng.randrange(len(other) + 1):]
        elif how == 5:
            out[at:at + 8] = struct.pack("<Q", rng.choice([0, 1, (1 << 64) - 1, 1 << 63,
                                                           rng.getrandbits(40)]))
        else:
            out = out[:at]
    return bytes(out[:SIZE_MAX])


class Failed(AssertionError):
    pass


def check(tag: int, name: str, fact: bool, *states: bytes) -> None:
    if not fact:
        shown = " ".join(state.hex() for state in states)
        raise Failed(f"{face.KINDS.get(tag, tag)}: {name} does not hold for {shown}")


def accepted(tag: int, state: bytes) -> bool:
    try:
        face.verify(tag, state)
    except REFUSED:
        return False
    return True


class Fuzzer:
    """A corpus for each tag, grown by operations and by what mutation turns up."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.corpus: dict[int, list[bytes]] = {tag: [b""] for tag in face.TAGS.values()}
        self.counts = {"runs": 0, "accepted": 0, "joined": 0, "operations": 0}

    def keep(self, tag: int, state: bytes) -> None:
        kept = self.corpus[tag]
        if len(kept) < KEPT_MAX:
            kept.append(state)
        else:
            kept[self.rng.randrange(1, KEPT_MAX)] = state

    def operate(self, tag: int) -> None:
        rng = self.rng
        old = rng.choice(self.corpus[tag])
        stamp = (rng.getrandbits(50), rng.randrange(1, 4), 0)
        try:
            new = face.apply(tag, old, rng.choice(OPS), argument(rng), rng.randrange(1, 4), stamp)
        except REFUSED:
            return
        self.counts["operations"] += 1
        check(tag, "an operation's result is a state", accepted(tag, new), old, new)
        check(tag, "an operation goes up", bool(face.order(tag, old, new) & 1), old, new)
        if len(new) < SIZE_MAX:
            self.keep(tag, new)

    def damage(self, tag: int) -> None:
        rng = self.rng
        state = mutated(rng, rng.choice(self.corpus[tag]), rng.choice(self.corpus[tag]))
        if not accepted(tag, state):
            return
        self.counts["accepted"] += 1
        check(tag, "join(a, a) == a", face.join(tag, state, state) == state, state)
        check(tag, "a <= a", face.order(tag, state, state) == 3, state)
        face.is_empty(tag, state)
        other = rng.choice(self.corpus[tag])
        try:
            joined = face.join(tag, state, other)
        except REFUSED:
            return                       # arrays of other shapes have no join
        self.counts["joined"] += 1
        check(tag, "a join is a state", accepted(tag, joined), state, other)
        check(tag, "a | b == b | a", face.join(tag, other, state) == joined, state, other)
        check(tag, "a <= a | b", bool(face.order(tag, state, joined) & 1), state, other)
        self.keep(tag, state)

    def cells(self, tag: int) -> None:
        rng = self.rng
        stamp = rng.choice([None, (rng.getrandbits(50), 1, 0)])
        cell = face.make_cell(tag, rng.choice(self.corpus[tag]), stamp,
                              rng.choice([0, 5]) if stamp else 0, stamp)
        broken = mutated(rng, cell, cell)
        try:
            face.cell_verify(broken)
        except REFUSED:
            return
        try:
            joined = face.cell_join(broken, cell)
        except REFUSED:
            return
        above = face.cell_order(broken, joined) & 1
        check(tag, "a cell's join is above", bool(above), broken, cell)

    def contexts(self) -> None:
        rng = self.rng
        dots = [(rng.randrange(1, 4), rng.randrange(1, 9)) for _ in range(rng.randrange(8))]
        whole = face.context_make(dots)
        broken = mutated(rng, whole, whole)
        try:
            face.context_join(broken, whole)
            face.context_order(broken, whole)
            face.context_contains(broken, 1, 1)
            face.context_split(broken)
        except REFUSED:
            return

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        tags = list(self.corpus)
        while time.monotonic() < end:
            for tag in tags:
                self.operate(tag)
                for _ in range(4):
                    self.damage(tag)
                self.cells(tag)
                self.counts["runs"] += 6
            self.contexts()


def main(arguments: list[str]) -> int:
    seed = int(arguments[1]) if len(arguments) > 1 else random.SystemRandom().getrandbits(32)
    print(f"seed {seed}", flush=True)
    fuzzer = Fuzzer(random.Random(seed))
    try:
        fuzzer.run(float(arguments[0]))
    except Failed as failure:
        print(failure, flush=True)
        return 1
    print(*(f"{name} {count}" for name, count in fuzzer.counts.items()), flush=True)
    sizes = {face.KINDS[tag]: len(kept) for tag, kept in fuzzer.corpus.items()}
    print("corpus", sizes, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
