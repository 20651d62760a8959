"""The scalar lattices beside their twins: every operation, join and order, byte for byte."""
from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core import face
from annapy.errors import CorruptCellError
from annapy.testing.histories import ACTORS, operation
from tests.model.encoding import Corrupt
from tests.model.scalars import I64_MAX, I64_MIN, TWINS, Refused

each = pytest.mark.parametrize("kind", TWINS)
CODES = {code: name for name, code in face.OPS.items()}
EDGES = st.sampled_from([I64_MIN, I64_MIN + 1, -1, 0, 1, 2**31, 2**32 + 1, I64_MAX - 1, I64_MAX])
INTS = st.one_of(EDGES, st.integers(I64_MIN, I64_MAX))
FLOATS = st.floats()
VALUES = st.binary(min_size=1, max_size=12)
STAMPS = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1))


def arguments(kind: str) -> st.SearchStrategy[Any]:
    """(code name, argument): mostly fitting ones, of every size."""
    if kind in {"maxint", "minint"}:
        return st.tuples(st.just("observe"), INTS.map(face.i64))
    if kind in {"maxfloat", "minfloat"}:
        return st.tuples(st.just("observe"), FLOATS.map(raw))
    if kind == "flag":
        return st.just(("enable", b""))
    if kind == "register":
        return st.one_of(st.tuples(st.just("set"), VALUES), st.just(("clear", b"")))
    if kind == "priority":
        return st.tuples(st.just("offer"), st.builds(lambda x, v: raw(x) + v, FLOATS, VALUES))
    return st.tuples(st.just("add"), INTS.map(face.i64))


def raw(x: float) -> bytes:
    """A float's own bytes: NaN and -0 too."""
    import struct

    return struct.pack("<d", x)


class Pair:
    """A native state and its twin, which take the same steps."""

    def __init__(self, kind: str) -> None:
        self.tag, self.twin = face.TAGS[kind], TWINS[kind]
        self.state, self.value = b"", self.twin.bottom

    def apply(self, code: str, arg: bytes, actor: int, stamp: Any) -> bytes:
        before = self.state
        try:
            value = self.twin.apply(self.value, code, arg, actor, stamp)
        except Refused:
            with pytest.raises((TypeError, ValueError, OverflowError)):
                face.mutate(self.tag, before, face.OPS[code], arg, actor, stamp)
            return b""
        delta = face.mutate(self.tag, before, face.OPS[code], arg, actor, stamp)
        self.receive(delta, value)
        assert self.state == face.apply(self.tag, before, face.OPS[code], arg, actor, stamp)
        return delta

    def receive(self, state: bytes, value: Any) -> None:
        self.state = face.join(self.tag, self.state, state)
        self.value = self.twin.join(self.value, value)
        assert self.state == self.twin.encode(self.value)
        assert self.twin.decode(self.state) == self.value
        face.verify(self.tag, self.state)


@each
@given(data=st.data())
def test_history_equals_twin(kind: str, data: Any) -> None:
    replicas = [Pair(kind) for _ in range(3)]
    twin, tag = TWINS[kind], face.TAGS[kind]
    for _ in range(data.draw(st.integers(1, 10))):
        at = data.draw(st.integers(0, 2))
        if data.draw(st.booleans()):
            code, arg = data.draw(arguments(kind))
            replicas[at].apply(code, arg, ACTORS[at], data.draw(STAMPS))
        else:
            other = replicas[data.draw(st.integers(0, 2))]
            replicas[at].receive(other.state, other.value)
        for a, b in itertools.combinations(replicas, 2):
            expected = twin.below(a.value, b.value) | twin.below(b.value, a.value) << 1
            assert face.order(tag, a.state, b.state) == expected


@each
@given(data=st.data(), actor=st.sampled_from([0, 1]))
def test_unfitting_operations_are_refused_alike(kind: str, data: Any, actor: int) -> None:
    pair = Pair(kind)
    code, arg = data.draw(arguments(kind))
    pair.apply(code, arg, 1, (1, 1, 0))
    wrong = data.draw(st.sampled_from(["set", "add", "remove", "observe", "enable", "offer"]))
    pair.apply(wrong, data.draw(st.one_of(st.just(arg), st.binary(max_size=20))), actor, (2, 1, 0))


@each
@given(seed=st.randoms())
def test_verdict_on_bytes_equals_twin(kind: str, seed: Any) -> None:
    """Random rows, cut and flipped: native and twin agree on what is canonical."""
    state = b""
    for _ in range(3):
        code, arg, stamp = operation(face.TAGS[kind], seed, state)
        state = face.apply(face.TAGS[kind], state, code, arg, seed.choice(ACTORS), stamp)
    data = bytearray(state * seed.choice((1, 1, 2)))
    for _ in range(seed.randrange(3)):
        if data:
            data[seed.randrange(len(data))] ^= 1 << seed.randrange(8)
    data = data[: seed.randrange(len(data) + 1)] if seed.random() < 0.3 else data
    try:
        TWINS[kind].decode(bytes(data))
    except Corrupt:
        with pytest.raises(CorruptCellError):
            face.verify(face.TAGS[kind], bytes(data))
    else:
        face.verify(face.TAGS[kind], bytes(data))


@pytest.mark.parametrize("kind", ["gcounter", "counter", "clock"])
@given(data=st.data())
def test_large_columns_join_like_dicts(kind: str, data: Any) -> None:
    """Past a few kilobytes a join is split in two: every way in which the halves can lie."""
    width = TWINS[kind].width
    rng = data.draw(st.randoms(use_true_random=True))
    actors = rng.sample(range(1, 3000), 600)
    low, high = sorted((rng.randrange(600), rng.randrange(600)))
    sides = [actors[: max(high, 1)], actors[low:]]
    if rng.random() < 0.3:
        sides = [sorted(actors)[:300], sorted(actors)[300:]]
    values = [
        {actor: (rng.randrange(1, 2**64), *[rng.randrange(9)] * (width - 1)) for actor in side}
        for side in sides
    ]
    a, b = (TWINS[kind].encode(value) for value in values)
    expected = TWINS[kind].encode(TWINS[kind].join(*values))
    assert face.join(face.TAGS[kind], a, b) == expected == face.join(face.TAGS[kind], b, a)


@given(st.lists(INTS, max_size=6))
def test_counter_value_is_the_sum(numbers: list[int]) -> None:
    """Columns of two replicas may add up past 64 bits: the value is then a larger int."""
    state = b""
    for actor, n in enumerate(numbers, 1):
        state = face.join(9, state, face.mutate(9, b"", face.OPS["add"], face.i64(n), actor))
    assert face.total(9, state) == sum(numbers)
    grown = [abs(n) % 2**63 for n in numbers]
    state = b""
    for actor, n in enumerate(grown, 1):
        state = face.join(8, state, face.mutate(8, b"", face.OPS["add"], face.i64(n), actor))
    assert face.total(8, state) == sum(grown)


@given(FLOATS)
def test_floats_are_canonical(x: float) -> None:
    if math.isnan(x):
        with pytest.raises(ValueError, match="NaN"):
            face.f64(x)
    else:
        assert face.to_f64(face.f64(x)) == x
        assert face.f64(-0.0) == face.f64(0.0) == bytes(8)
