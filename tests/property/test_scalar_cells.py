"""Whole cells beside their twin: header, generations, expiry, fields, types not known here."""
from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core import face
from annapy.errors import CorruptCellError
from annapy.testing.histories import operation
from tests.model.encoding import Corrupt, counted
from tests.model.scalars import TWINS, Cell

UNKNOWN = 200
KNOWN = {*face.KINDS} - {0}
STAMPS = st.one_of(
    st.none(), st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 2))
)
TAGS = st.sampled_from([0, UNKNOWN, *(face.TAGS[kind] for kind in TWINS)])


def packed(stamp: tuple[int, int, int] | None) -> bytes:
    return struct.pack("<QQI", *(stamp or (0, 0, 1)))


@st.composite
def fields(draw: Any) -> bytes:
    known = {
        1: st.binary(min_size=8, max_size=8),
        2: st.builds(lambda stamp, label: packed(stamp) + label, STAMPS, st.binary(max_size=3)),
        3: st.binary(min_size=16, max_size=16),
        9: st.binary(max_size=4),
    }
    run = b""
    for kind in sorted(draw(st.sets(st.sampled_from([1, 2, 3, 9]), max_size=2))):
        body = draw(known[kind])
        run += struct.pack("<BH", kind, len(body)) + body
    return run


@st.composite
def states(draw: Any, tag: int) -> bytes:
    if tag == 0:
        return b""
    if tag == UNKNOWN:
        return draw(st.binary(max_size=2))
    rng, state = draw(st.randoms()), b""
    for _ in range(draw(st.integers(0, 3))):
        code, arg, stamp = operation(tag, rng, state)
        state = face.apply(tag, state, code, arg, rng.choice((1, 2, 3)), stamp)
    return state


@st.composite
def cells(draw: Any, tag: Any = TAGS) -> bytes:
    chosen = draw(tag)
    expiry = draw(STAMPS)
    return face.make_cell(
        chosen,
        draw(states(chosen)),
        draw(STAMPS) if draw(st.booleans()) else None,
        draw(st.integers(0, 3)) if expiry else 0,
        expiry,
        draw(fields()),
    )


def same_place(tag: Any = TAGS) -> Any:
    """Three cells of one tag and, mostly, one generation: where the states meet."""
    return tag.flatmap(lambda t: st.tuples(*[cells(st.just(t))] * 3))


@given(cells(), cells())
def test_join_equals_twin(a: bytes, b: bytes) -> None:
    assert face.cell_join(a, b) == Cell.join(a, b)


@given(same_place())
def test_join_of_one_type_equals_twin(three: tuple[bytes, bytes, bytes]) -> None:
    a, b, c = three
    assert face.cell_join(a, b) == Cell.join(a, b)
    assert face.cell_join(face.cell_join(a, b), c) == Cell.join(Cell.join(a, b), c)


@given(st.one_of(same_place(), st.tuples(cells(), cells(), cells())))
def test_laws(three: tuple[bytes, bytes, bytes]) -> None:
    a, b, c = three
    ab = face.cell_join(a, b)
    assert ab == face.cell_join(b, a)
    assert face.cell_join(ab, c) == face.cell_join(a, face.cell_join(b, c))
    assert face.cell_join(a, a) == a
    assert face.cell_join(ab, b) == ab
    assert face.cell_order(a, b) == (ab == b) | (ab == a) << 1
    assert face.cell_order(a, ab) & 1
    face.cell_verify(ab)


@given(cells())
def test_split_and_make_are_inverse(cell: bytes) -> None:
    assert face.make_cell(*face.cell_split(cell)) == cell
    face.cell_verify(cell)
    assert face.cell_resolve(cell) == cell


@given(cells(), st.data())
def test_every_truncation_and_every_bit(cell: bytes, data: Any) -> None:
    """Refused, or the twin too reads a canonical cell: nothing is accepted by accident."""
    broken = [cell[:at] for at in range(len(cell))] + [cell + b"\0"]
    broken += [
        cell[:at] + bytes([cell[at] ^ 1 << bit]) + cell[at + 1 :]
        for at in range(len(cell))
        for bit in range(8)
    ]
    for garbage in broken:
        judge(garbage)


@given(st.binary(max_size=60))
def test_garbage(garbage: bytes) -> None:
    judge(garbage)
    judge(b"\x01\x09\x00\x00" + struct.pack("<I", len(garbage)) + garbage)
    judge(bytes((1, UNKNOWN, 8, 0)) + struct.pack("<I", len(garbage)) + garbage)


def canonical(garbage: bytes) -> bool:
    """The twin's verdict; it has only the scalar types, and says no to others."""
    try:
        twin = Cell(garbage)
    except Corrupt:
        return False
    if twin.tag in KNOWN and twin.siblings:
        return False  # readable, but to be resolved first
    return twin.tag not in KNOWN or twin.kind() is not None


def judge(garbage: bytes) -> None:
    try:
        face.cell_verify(garbage)
    except CorruptCellError:
        assert not canonical(garbage)
        return
    twin = Cell(garbage)
    if twin.siblings is None:
        assert face.make_cell(*face.cell_split(garbage)) == garbage


def test_unknown_types_are_kept_as_siblings_and_joined_by_who_knows_them() -> None:
    """A node without the type keeps both states; the type's own node joins what it gets."""
    a, b = (face.make_cell(UNKNOWN, face.i64(n)) for n in (3, 9))
    both = face.cell_join(a, b)
    assert face.cell_join(both, a) == both == face.cell_join(b, both)
    assert face.cell_order(a, both) == 1
    assert face.cell_order(a, b) == 0
    face.cell_verify(both)
    known = both[:1] + bytes([face.TAGS["maxint"]]) + both[2:]
    with pytest.raises(CorruptCellError):
        face.cell_verify(known)
    with pytest.raises(CorruptCellError):
        face.cell_join(known, known)
    assert face.cell_split(face.cell_resolve(known))[:2] == (1, face.i64(9))
    short = counted(b"12") + counted(b"12345678")
    bad = bytes((1, 1, 8, 0)) + struct.pack("<I", len(short)) + short
    with pytest.raises(CorruptCellError):
        face.cell_resolve(bad)


def test_a_deletion_is_a_generation_without_a_type() -> None:
    """Whatever is written into the generation that a deletion opened wins over the deletion."""
    old = face.make_cell(face.TAGS["counter"], b"")
    gone = face.make_cell(0, b"", (5, 1, 0))
    new = face.make_cell(face.TAGS["flag"], b"\1", (5, 1, 0))
    assert face.cell_join(old, gone) == gone
    assert face.cell_join(gone, new) == new


def test_a_cell_over_a_gibibyte_is_refused() -> None:
    head = bytes((1, 200, 0, 0)) + struct.pack("<I", 2**32 - 1)
    with pytest.raises(CorruptCellError):
        face.cell_verify(head)
