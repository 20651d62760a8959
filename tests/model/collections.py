"""Twins of GSet, OrderedSet, ORSet, Map, ORMap, MVRegister, Causal and MultiCausal.

Written from the definitions (Shapiro et al. 2011; Bieniusa et al. 2012; Almeida, Shoker, Baquero
2018) over Python sets and dicts, with nothing shared with annapy: the joins here are the formulas
of the papers, spelled out. `encode` gives the canonical bytes of the cell format.

A twin is an object without state of its own: bottom, join(a, b), mutate(x, op, actor, stamp) which
returns the delta, encode(x), decode(bytes). An operation is a pair (code, argument); op_bytes
gives the bytes in which annapy takes its argument. States of dotted types are (store, Context);
every store is a dict.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from tests.model.encoding import Corrupt, Reader, counted, u64, varint

__all__ = [
    "ADD",
    "CAUSAL",
    "CLEAR",
    "GCOUNTER",
    "GSET",
    "LWW",
    "MAP",
    "MAXINT",
    "MULTICAUSAL",
    "MVREGISTER",
    "OBSERVE",
    "ORDERED_SET",
    "ORMAP",
    "ORSET",
    "REMOVE",
    "SET",
    "UPDATE",
    "Context",
    "Superseded",
    "WrongType",
    "judge",
    "op_bytes",
    "twin",
]

MAXINT, MININT, MAXFLOAT, MINFLOAT, FLAG, LWW, PRIORITY, GCOUNTER, PNCOUNTER = range(1, 10)
GSET, ORSET, ORDERED_SET, MAP, ORMAP, CLOCK, MVREGISTER, CAUSAL, MULTICAUSAL = range(10, 19)
SET, ADD, REMOVE, OBSERVE, UPDATE, CLEAR = 1, 2, 3, 4, 7, 8
DEPTH = 8

Dot = tuple[int, int]
Stamp = tuple[int, int, int]


class WrongType(Exception):
    """The field holds another lattice."""


class Superseded(Exception):
    """A later write is already there: nothing changes."""


class Unknown(Exception):
    """A type that these twins do not cover."""


class Context:
    """A set of dots: for each actor all up to a number, and single ones beyond."""

    def __init__(self, dots: Any = (), upto: dict[int, int] | None = None) -> None:
        self.upto = dict(upto or {})
        self.extra = {d for d in dots if d[1] > self.upto.get(d[0], 0)}
        for actor, seq in sorted(self.extra):
            if seq == self.upto.get(actor, 0) + 1:
                self.upto[actor] = seq
                self.extra.discard((actor, seq))

    def __contains__(self, dot: Dot) -> bool:
        return dot[1] <= self.upto.get(dot[0], 0) or dot in self.extra

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Context)
        return (self.upto, self.extra) == (other.upto, other.extra)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Context) -> Context:
        actors = self.upto.keys() | other.upto.keys()
        most = {a: max(self.upto.get(a, 0), other.upto.get(a, 0)) for a in actors}
        return Context(self.extra | other.extra, most)

    def last(self, actor: int) -> int:
        return max([self.upto.get(actor, 0), *(s for a, s in self.extra if a == actor)])

    def encode(self) -> bytes:
        upto, extra = sorted(self.upto.items()), sorted(self.extra)
        return (
            varint(len(upto))
            + b"".join(u64(*pair) for pair in upto)
            + varint(len(extra))
            + b"".join(u64(*dot) for dot in extra)
        )

    @staticmethod
    def decode(b: bytes) -> Context:
        r = Reader(b)
        upto = {r.u64(): r.u64() for _ in range(bounded(r, 16))}
        context = Context([(r.u64(), r.u64()) for _ in range(bounded(r, 16))], upto)
        if context.encode() != b or 0 in upto or 0 in upto.values():
            raise Corrupt("context")
        if any(actor == 0 for actor, _ in context.extra):
            raise Corrupt("context")
        return context


def bounded(r: Reader, size: int) -> int:
    """A count of things of at least `size` bytes."""
    n = r.varint()
    if n * size > len(r.b) - r.at:
        raise Corrupt("count")
    return n


class Mint:
    """What one operation uses and touches."""

    def __init__(self, context: Context, actor: int, stamp: Stamp) -> None:
        self.actor, self.stamp = actor, stamp
        self.next = context.last(actor) + 1
        self.touched: set[Dot] = set()

    def dot(self) -> Dot:
        dot = (self.actor, self.next)
        self.next += 1
        self.touched.add(dot)
        return dot


def surviving(mine: Any, others: Context) -> set[Dot]:
    return {dot for dot in mine if dot not in others}


def framed(prefix: bytes, entries: dict[bytes, bytes]) -> bytes:
    return counted(prefix) + entries_bytes(entries)


def entries_bytes(entries: dict[bytes, bytes]) -> bytes:
    return varint(len(entries)) + b"".join(
        varint(len(key)) + varint(len(payload)) + key + payload
        for key, payload in sorted(entries.items())
    )


def entries_read(r: Reader) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for _ in range(bounded(r, 2)):
        key_len, payload_len = r.varint(), r.varint()
        key = r.take(key_len)
        found[key] = r.take(payload_len)
    return found


# --- types without dots -----------------------------------------------------------------------


class MaxInt:
    tag = MAXINT
    bottom: Any = None

    def join(self, a: Any, b: Any) -> Any:
        return max((x for x in (a, b) if x is not None), default=None)

    def mutate(self, x: Any, op: Any, actor: int, stamp: Stamp) -> Any:
        assert op[0] == OBSERVE
        return op[1]

    def encode(self, x: Any) -> bytes:
        return b"" if x is None else struct.pack("<q", x)

    def decode(self, b: bytes, depth: int = 0) -> Any:
        if len(b) not in {0, 8}:
            raise Corrupt("maxint")
        return struct.unpack("<q", b)[0] if b else None


class Lww:
    tag = LWW
    bottom: Any = None

    def join(self, a: Any, b: Any) -> Any:
        return max((x for x in (a, b) if x is not None), default=None)

    def mutate(self, x: Any, op: Any, actor: int, stamp: Stamp) -> Any:
        assert op[0] == SET
        if x is not None and x >= (stamp, op[1]):
            raise Superseded
        return (stamp, op[1])

    def encode(self, x: Any) -> bytes:
        return b"" if x is None else stamp_bytes(x[0]) + x[1]

    def decode(self, b: bytes, depth: int = 0) -> Any:
        if not b:
            return None
        r = Reader(b)
        stamp = stamp_read(r)
        if stamp == (0, 0, 0):
            raise Corrupt("lww")
        return (stamp, r.rest())


class GCounter:
    tag = GCOUNTER
    bottom: ClassVar[Any] = {}

    def join(self, a: Any, b: Any) -> Any:
        return {k: max(a.get(k, 0), b.get(k, 0)) for k in a | b}

    def mutate(self, x: Any, op: Any, actor: int, stamp: Stamp) -> Any:
        assert op[0] == ADD
        return {actor: x.get(actor, 0) + op[1]} if op[1] else {}

    def encode(self, x: Any) -> bytes:
        return b"".join(u64(*pair) for pair in sorted(x.items()))

    def decode(self, b: bytes, depth: int = 0) -> Any:
        r = Reader(b)
        columns = {}
        while r:
            actor, n = r.u64(), r.u64()
            if not actor or not n or any(a >= actor for a in columns):
                raise Corrupt("gcounter")
            columns[actor] = n
        return columns


class Opaque:
    """Decodes the states of scalars that no history here joins, so that bit flips can be judged."""

    bottom = b""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def join(self, a: Any, b: Any) -> Any:
        raise Unknown

    mutate = join

    def encode(self, x: bytes) -> bytes:
        return x

    def decode(self, b: bytes, depth: int = 0) -> bytes:
        if b and not self.is_state(b):
            raise Corrupt("scalar")
        return b

    def is_state(self, b: bytes) -> bool:
        if self.tag == MININT:
            return len(b) == 8
        if self.tag == FLAG:
            return b == b"\1"
        if self.tag in {MAXFLOAT, MINFLOAT}:
            return len(b) == 8 and float_is_canonical(b)
        if self.tag == PRIORITY:
            return len(b) > 8 and float_is_canonical(b[:8])
        if self.tag == CLOCK:
            GCounter().decode(b)
            return True
        assert self.tag == PNCOUNTER
        rows = [struct.unpack_from("<3Q", b, at) for at in range(0, len(b) - 23, 24)]
        actors = [row[0] for row in rows]
        return (
            len(b) % 24 == 0
            and 0 not in actors
            and actors == sorted(set(actors))
            and all(plus or minus for _, plus, minus in rows)
        )


def float_is_canonical(b: bytes) -> bool:
    x = struct.unpack("<d", b)[0]
    return x == x and b != struct.pack("<d", -0.0)


def stamp_bytes(stamp: Stamp) -> bytes:
    return struct.pack("<QQI", *stamp)


def stamp_read(r: Reader) -> Stamp:
    return struct.unpack("<QQI", r.take(20))


class GrowSet:
    bottom: Any = frozenset()

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def join(self, a: Any, b: Any) -> Any:
        return a | b

    def mutate(self, x: Any, op: Any, actor: int, stamp: Stamp) -> Any:
        assert op[0] == ADD
        return frozenset(op[1]) - x

    def encode(self, x: Any) -> bytes:
        return framed(b"", dict.fromkeys(x, b"")) if x else b""

    def decode(self, b: bytes, depth: int = 0) -> Any:
        return frozenset(decode_framed(b)[1]) if b else frozenset()


def decode_framed(b: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    r = Reader(b)
    return r.counted(), entries_read(r)


class GrowMap:
    tag = MAP
    bottom: ClassVar[Any] = {}

    def join(self, a: Any, b: Any) -> Any:
        joined = dict(a)
        for key, (tag, state) in b.items():
            mine = joined.get(key, (0, None))
            if mine[0] == tag:
                joined[key] = (tag, twin(tag).join(mine[1], state))
            else:
                joined[key] = max(mine, (tag, state), key=lambda facet: facet[0])
        return joined

    def mutate(self, x: Any, op: Any, actor: int, stamp: Stamp) -> Any:
        assert op[0] == UPDATE
        key, tag, nested = op[1]
        mine = x.get(key, (tag, twin(tag).bottom))
        if mine[0] != tag:
            raise WrongType
        delta = twin(tag).mutate(mine[1], nested, actor, stamp)
        return {key: (tag, delta)} if twin(tag).encode(delta) else {}

    def encode(self, x: Any) -> bytes:
        if not x:
            return b""
        return framed(b"", {k: bytes([t]) + twin(t).encode(s) for k, (t, s) in x.items()})

    def decode(self, b: bytes, depth: int = 0) -> Any:
        if depth >= DEPTH:
            raise Corrupt("depth")
        fields = {}
        for key, payload in (decode_framed(b)[1] if b else {}).items():
            if len(payload) < 2:
                raise Corrupt("field")
            state = twin(payload[0]).decode(payload[1:], depth + 1)
            fields[key] = (payload[0], state)
        return fields


# --- dot stores: dicts whose leaves are dots ----------------------------------------------------


class Members:
    """ORSet: member to dots."""

    tag = ORSET

    def join(self, a: Any, ca: Context, b: Any, cb: Context) -> Any:
        joined = {}
        for key in a.keys() | b.keys():
            mine, yours = a.get(key, set()), b.get(key, set())
            dots = (mine & yours) | surviving(mine, cb) | surviving(yours, ca)
            if dots:
                joined[key] = dots
        return joined

    def mutate(self, s: Any, op: Any, mint: Mint) -> Any:
        delta = {}
        for key in sorted(set(op[1])):
            mint.touched |= s.get(key, set())
            if op[0] == ADD:
                delta[key] = {mint.dot()}
        return delta

    def dots(self, s: Any) -> set[Dot]:
        return set().union(*s.values())

    def encode(self, s: Any) -> bytes:
        return entries_bytes({k: b"".join(u64(*d) for d in sorted(v)) for k, v in s.items()})

    def decode(self, r: Reader, depth: int) -> Any:
        found = {}
        for key, payload in entries_read(r).items():
            inner = Reader(payload)
            found[key] = {(inner.u64(), inner.u64()) for _ in range(len(payload) // 16)}
            if not payload or inner:
                raise Corrupt("dots")
        return found


class Siblings:
    """MVRegister, Causal, MultiCausal: dot to (stamp, value, dependencies)."""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def join(self, a: Any, ca: Context, b: Any, cb: Context) -> Any:
        joined = {d: max(a[d], b[d], key=self.thing) for d in a.keys() & b.keys()}
        joined |= {d: a[d] for d in surviving(a, cb) if d not in joined}
        return joined | {d: b[d] for d in surviving(b, ca) if d not in joined}

    def mutate(self, s: Any, op: Any, mint: Mint) -> Any:
        assert op[0] == SET
        seen, value, dependencies = op[1]
        mint.touched |= {dot for dot in s if seen is None or dot in seen}
        return {mint.dot(): (mint.stamp, value, dependencies)}

    def dots(self, s: Any) -> set[Dot]:
        return set(s)

    def thing(self, sibling: Any) -> bytes:
        stamp, value, dependencies = sibling
        out = stamp_bytes(stamp) + counted(value)
        if self.tag == MULTICAUSAL:
            out += dependencies_bytes(dependencies)
        return out

    def encode(self, s: Any) -> bytes:
        return varint(len(s)) + b"".join(u64(*d) + self.thing(s[d]) for d in sorted(s))

    def decode(self, r: Reader, depth: int) -> Any:
        found = {}
        for _ in range(bounded(r, 37)):
            dot, stamp, value = (r.u64(), r.u64()), stamp_read(r), r.counted()
            dependencies = {}
            if self.tag == MULTICAUSAL:
                for _ in range(bounded(r, 2)):
                    key = r.counted()
                    dependencies[key] = Context.decode(r.counted())
            if not value:
                raise Corrupt("value")
            found[dot] = (stamp, value, dependencies)
        return found


def dependencies_bytes(dependencies: dict[bytes, Context]) -> bytes:
    return varint(len(dependencies)) + b"".join(
        counted(key) + counted(context.encode()) for key, context in sorted(dependencies.items())
    )


class Fragments:
    """A type without dots inside an ORMap: dot to state."""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def join(self, a: Any, ca: Context, b: Any, cb: Context) -> Any:
        joined = {d: twin(self.tag).join(a[d], b[d]) for d in a.keys() & b.keys()}
        joined |= {d: a[d] for d in surviving(a, cb) if d not in joined}
        return joined | {d: b[d] for d in surviving(b, ca) if d not in joined}

    def fold(self, states: Any) -> Any:
        folded = twin(self.tag).bottom
        for state in states:
            folded = twin(self.tag).join(folded, state)
        return folded

    def mutate(self, s: Any, op: Any, mint: Mint) -> Any:
        t = twin(self.tag)
        own = self.fold(state for dot, state in s.items() if dot[0] == mint.actor)
        fresh = t.join(own, t.mutate(own, op, mint.actor, mint.stamp))
        if not t.encode(fresh):
            return {}
        below = {d for d, x in s.items() if t.encode(t.join(x, fresh)) == t.encode(fresh)}
        mint.touched |= below | {dot for dot in s if dot[0] == mint.actor}
        return {mint.dot(): fresh}

    def dots(self, s: Any) -> set[Dot]:
        return set(s)

    def encode(self, s: Any) -> bytes:
        t = twin(self.tag)
        return varint(len(s)) + b"".join(u64(*d) + counted(t.encode(s[d])) for d in sorted(s))

    def decode(self, r: Reader, depth: int) -> Any:
        found = {}
        for _ in range(bounded(r, 17)):
            dot, state = (r.u64(), r.u64()), r.counted()
            found[dot] = twin(self.tag).decode(state, depth)
            if not state:
                raise Corrupt("fragment")
        return found


class Fields:
    """ORMap, and Map inside one: field to (tag to store)."""

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def join(self, a: Any, ca: Context, b: Any, cb: Context) -> Any:
        joined: dict[bytes, dict[int, Any]] = {}
        for key in a.keys() | b.keys():
            mine, yours = a.get(key, {}), b.get(key, {})
            for tag in mine.keys() | yours.keys():
                store = stores(tag).join(mine.get(tag, {}), ca, yours.get(tag, {}), cb)
                if store:
                    joined.setdefault(key, {})[tag] = store
        return joined

    def mutate(self, s: Any, op: Any, mint: Mint) -> Any:
        if op[0] == REMOVE:
            assert self.tag == ORMAP
            for key in op[1]:
                mint.touched |= self.dots({key: s.get(key, {})})
            return {}
        assert op[0] == UPDATE
        key, tag, nested = op[1]
        facets = s.get(key, {})
        if facets and max(facets) != tag:
            raise WrongType
        store = mutated(stores(tag), facets.get(tag, {}), nested, mint)
        return {key: {tag: store}} if store else {}

    def dots(self, s: Any) -> set[Dot]:
        return {
            dot
            for facets in s.values()
            for tag, store in facets.items()
            for dot in stores(tag).dots(store)
        }

    def encode(self, s: Any) -> bytes:
        return entries_bytes(
            {
                key: b"".join(
                    bytes([tag]) + counted(stores(tag).encode(store))
                    for tag, store in sorted(facets.items())
                )
                for key, facets in s.items()
            }
        )

    def decode(self, r: Reader, depth: int) -> Any:
        if depth >= DEPTH:
            raise Corrupt("depth")
        found: dict[bytes, dict[int, Any]] = {}
        for key, payload in entries_read(r).items():
            inner = Reader(payload)
            facets = found[key] = {}
            while inner:
                tag = inner.u8()
                store = Reader(inner.counted())
                facets[tag] = stores(tag).decode(store, depth + 1)
                if not facets[tag] or store:
                    raise Corrupt("facet")
            if not facets:
                raise Corrupt("facets")
        return found


def mutated(store: Any, s: Any, op: Any, mint: Mint) -> Any:
    if op[0] == CLEAR:
        mint.touched |= store.dots(s)
        return {}
    return store.mutate(s, op, mint)


def stores(tag: int) -> Any:
    """How a type stands under a context that is not its own."""
    if tag == ORSET:
        return Members()
    if tag in {MVREGISTER, CAUSAL, MULTICAUSAL}:
        return Siblings(tag)
    if tag in {ORMAP, MAP}:
        return Fields(tag)
    twin(tag)
    return Fragments(tag)


class Dotted:
    """(store, context): the causal CRDT of a store."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.store = stores(tag)
        self.bottom = ({}, Context())

    def join(self, a: Any, b: Any) -> Any:
        return self.store.join(*a, *b), a[1] | b[1]

    def mutate(self, x: Any, op: Any, actor: int, stamp: Stamp) -> Any:
        mint = Mint(x[1], actor, stamp)
        delta = mutated(self.store, x[0], op, mint)
        return delta, Context(mint.touched)

    def encode(self, x: Any) -> bytes:
        if x[1] == Context():
            return b""
        return counted(x[1].encode()) + self.store.encode(x[0])

    def decode(self, b: bytes, depth: int = 0) -> Any:
        if not b:
            return self.bottom
        r = Reader(b)
        context = Context.decode(r.counted())
        store = self.store.decode(r, depth)
        if context == Context() or any(0 in d or d not in context for d in self.store.dots(store)):
            raise Corrupt("context")
        return store, context


def twin(tag: int) -> Any:
    if tag in {GSET, ORDERED_SET}:
        return GrowSet(tag)
    if tag in {ORSET, ORMAP, MVREGISTER, CAUSAL, MULTICAUSAL}:
        return Dotted(tag)
    if tag in {MININT, MAXFLOAT, MINFLOAT, FLAG, PRIORITY, PNCOUNTER, CLOCK}:
        return Opaque(tag)
    if tag in {MAXINT, LWW, GCOUNTER, MAP}:
        return {MAXINT: MaxInt, LWW: Lww, GCOUNTER: GCounter, MAP: GrowMap}[tag]()
    if tag in range(MULTICAUSAL + 1, 23):
        raise Unknown
    raise Corrupt("tag")


def judge(tag: int, b: bytes) -> bool | None:
    """Is this the canonical encoding of a state? None: it names a type that has no twin here."""
    try:
        return bool(twin(tag).encode(twin(tag).decode(b)) == b)
    except Corrupt:
        return False
    except Unknown:
        return None


def op_bytes(tag: int, op: Any) -> bytes:
    """The argument of an operation as annapy takes it."""
    code, arg = op
    if code == CLEAR:
        return b""
    if code == UPDATE:
        key, nested, inner = arg
        return counted(key) + bytes([nested, inner[0]]) + op_bytes(nested, inner)
    if code == OBSERVE or (code == ADD and tag == GCOUNTER):
        return struct.pack("<q", arg)
    if code in {ADD, REMOVE}:
        return varint(len(arg)) + b"".join(counted(key) for key in arg)
    assert code == SET
    if tag == LWW:
        return bytes(arg)
    seen, value, dependencies = arg
    out = counted(b"" if seen is None else seen.encode())
    if tag == MULTICAUSAL:
        return out + counted(value) + dependencies_bytes(dependencies)
    return out + bytes(value)
