"""Histories of three actors: where the values of the built-in types come from in tests.

Independent random values are rarely concurrent in the ways that matter: a removal must have seen
some additions and missed others. So three replicas, each its own actor, mutate (additions, removals
and clears), merge whole states and receive single deltas late, twice or never; what they held along
the way are the values.

Owns    the operations of every built-in type (`operation`), as the core takes them: code, argument
        bytes and stamp; History; the Hypothesis strategies over it.
Invariants
    a replica's operations are minted from its own state, in the name of its own actor
    an operation's delta joined to the state before it is the state after it
    everything is drawn from one Random: a seed replays a history
"""

from __future__ import annotations

from annapy._core import face
from annapy.errors import LatticeTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random
    from typing import Any

    from hypothesis import strategies as st

    from annapy.lattice.base import CellLattice

    Operation = tuple[int, bytes, tuple[int, int, int]]

__all__ = ["ACTORS", "CHAINS", "History", "histories", "operation", "play", "triples"]

OP = face.OPS
TAG = face.TAGS
ACTORS = (1, 0x1234_5678_9ABC, 2**64 - 1)
CHAINS = frozenset(
    TAG[kind]
    for kind in ("maxint", "minint", "maxfloat", "minfloat", "flag", "register", "priority")
)
"""Total orders: two values of these are never concurrent."""

_INTS = (0, 1, -1, 2, 7, -7, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.5, -1.5, 5e-324, 1e308, float("inf"), float("-inf"), 0.1, 0.2)
_NESTED = ("counter", "register", "maxint", "flag", "orset", "gset", "ormap", "mvregister")


def _varint(n: int) -> bytes:
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _counted(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _value(rng: Random) -> bytes:
    from annapy import values

    return values.encode(rng.choice((None, 1, 2, "a", "b", 2.5, b"x" * rng.randrange(40))))


def _members(rng: Random, many: bool = False) -> bytes:
    """Few distinct ones, so that replicas meet in them.

    Many for sets that only grow, or all replicas would soon have the same.
    """
    from annapy import values

    few = ("a", "b", "ab", 1, 2, 3, None, "longer than eight")
    found = [
        values.member(rng.randrange(40) if many else rng.choice(few))
        for _ in range(rng.randrange(1, 4))
    ]
    return _varint(len(found)) + b"".join(map(_counted, found))


def _array(rng: Random) -> bytes:
    """Eight 64-bit integers, in the arrays' encoding: dtype, shape, data."""
    head = bytes((0, 64, 1, 0, 1, 0, 0, 0)) + (8).to_bytes(8, "little")
    return head + b"".join(face.i64(rng.randrange(-99, 100)) for _ in range(8))


def _seen(rng: Random, tag: int, state: bytes) -> bytes:
    """A context that a writer may have observed: all that is there, a part of it, or nothing."""
    if not state or rng.random() < 0.3:
        return b"\0\0"
    at = 0
    if tag == TAG["lattice"]:
        at = 1 + state[0]  # a name shorter than 128 bytes
    size, shift = 0, 0
    while True:
        byte = state[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    context = state[at : at + size]
    if rng.random() < 0.7:
        return context
    vector, dots = face.context_split(context)
    every = [(actor, rng.randint(1, upto)) for actor, upto in vector.items()] + dots
    return face.context_make(rng.sample(every, rng.randrange(len(every) + 1)))


def _update(rng: Random, depth: int) -> bytes:
    nested = TAG[rng.choice(_NESTED if depth < 2 else _NESTED[:5])]
    code, arg, _ = operation(nested, rng, b"", depth + 1)
    # One field keeps one type, so that local operations rarely meet another's.
    field = face.i64(nested)[:1] + bytes((rng.randrange(2),))
    from annapy import values

    return _counted(values.member(field)) + bytes((nested, code)) + arg


def _choose(tag: int, rng: Random, state: bytes, depth: int) -> tuple[str, bytes]:
    kind = face.KINDS[tag]
    if kind in {"maxint", "minint"}:
        return "observe", face.i64(rng.choice(_INTS))
    if kind in {"maxfloat", "minfloat"}:
        return "observe", face.f64(rng.choice(_FLOATS))
    if kind == "flag":
        return "enable", b""
    if kind == "register":
        return ("clear", b"") if rng.random() < 0.2 else ("set", _value(rng))
    if kind == "priority":
        return "offer", face.f64(rng.choice(_FLOATS)) + _value(rng)
    if kind in {"gcounter", "clock"}:
        return "add", face.i64(rng.choice((0, 1, 1, 2, 3, 2**40)))
    if kind == "counter":
        return "add", face.i64(rng.randrange(-5, 6))
    if kind in {"gset", "ordered_set", "hll"}:
        return "add", _members(rng, many=True)
    if kind == "maxarray":
        return "observe", _array(rng)
    if kind == "sumarray":
        return "add", _array(rng)
    removal = rng.random()
    if removal < 0.05:
        return ("update", _update(rng, depth)) if kind == "map" else ("clear", b"")
    if kind == "orset":
        return "add" if removal < 0.6 else "remove", _members(rng)
    if kind in {"mvregister", "causal"}:
        return "set", _counted(_seen(rng, tag, state)) + _value(rng)
    if kind == "multicausal":
        depends = _varint(1) + _counted(b"other") + _counted(face.context_make([(3, 1)]))
        return "set", _counted(_seen(rng, tag, state)) + _counted(_value(rng)) + depends
    if kind == "lattice":
        return "set", _counted(b"test") + _counted(_seen(rng, tag, state)) + b"\0" + _value(rng)
    if kind == "ormap" and removal > 0.75:
        from annapy import values

        field = bytes((TAG[rng.choice(_NESTED)], rng.randrange(2)))
        return "remove", _varint(1) + _counted(values.member(field))
    if kind in {"map", "ormap"}:
        return "update", _update(rng, depth)
    raise LatticeTypeError(f"no operations are known for the lattice {kind!r}", found=kind)


def operation(tag: int, rng: Random, state: bytes, depth: int = 0) -> Operation:
    """One operation that suits a replica in this state: (code, argument, stamp).

    Stamps are drawn from few, so that some tie: no law may depend on their being unique.
    """
    code, arg = _choose(tag, rng, state, depth)
    return OP[code], arg, (rng.randrange(1, 9), rng.choice(ACTORS), 0)


class History:
    """What three replicas went through.

    states: the three last states; snapshots: per replica, every state that it was in; deltas: those
    of all operations, in order; refused: how many operations were refused (a type race, a limit).
    """

    __slots__ = ("deltas", "refused", "snapshots", "states", "tag")

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.states = [b""] * len(ACTORS)
        self.snapshots = [[b""] for _ in ACTORS]
        self.deltas: list[bytes] = []
        self.refused = 0

    def mutate(self, at: int, rng: Random) -> None:
        """An operation by the replica `at`, in the name of its actor."""
        code, arg, stamp = operation(self.tag, rng, self.states[at])
        try:
            delta = face.mutate(self.tag, self.states[at], code, arg, ACTORS[at], stamp)
        except (TypeError, ValueError, OverflowError):
            self.refused += 1
            return
        self.deltas.append(delta)
        self.receive(at, delta)

    def receive(self, at: int, state: bytes) -> None:
        """A delta or a whole state arrives at the replica `at`."""
        self.states[at] = face.join(self.tag, self.states[at], state)
        self.snapshots[at].append(self.states[at])

    def triple(self, rng: Random) -> tuple[bytes, bytes, bytes]:
        """Three states of different replicas, of now or of earlier."""
        last = rng.random() < 0.5
        a, b, c = rng.sample(range(len(ACTORS)), 3)
        if last:
            return self.states[a], self.states[b], rng.choice(self.snapshots[c])
        x, y, z = (rng.choice(self.snapshots[at]) for at in (a, b, c))
        return x, y, z


def play(tag: int, rng: Random, steps: int) -> History:
    """A random interleaving of mutations (70 %), late deltas (20 %) and merges (10 %)."""
    history = History(tag)
    for _ in range(steps):
        at, what = rng.randrange(len(ACTORS)), rng.random()
        if what < 0.7 or not history.deltas:
            history.mutate(at, rng)
        elif what < 0.9:
            history.receive(at, rng.choice(history.deltas))
        else:
            history.receive(at, history.states[rng.randrange(len(ACTORS))])
    return history


def histories(cls: type[CellLattice], steps_max: int = 24) -> st.SearchStrategy[History]:
    """Hypothesis: histories of a built-in type.

    Hypothesis draws a seed and a length. Were it to draw each choice, it would prefer the simplest
    ones, and replicas that all do the same are never concurrent.
    """
    import random

    from hypothesis import strategies

    return strategies.builds(
        lambda seed, steps: play(cls.tag, random.Random(seed), steps),  # noqa: S311
        strategies.integers(0, 2**32 - 1),
        strategies.integers(8, steps_max),
    )


def triples(cls: type[CellLattice], steps_max: int = 24) -> st.SearchStrategy[tuple[Any, ...]]:
    """Hypothesis: three values of a built-in type that met in one history."""
    import random

    from hypothesis import strategies

    def three(history: History, seed: int) -> tuple[CellLattice, ...]:
        return tuple(map(cls._of, history.triple(random.Random(seed))))  # noqa: S311

    return strategies.builds(three, histories(cls, steps_max), strategies.integers(0, 2**32 - 1))
