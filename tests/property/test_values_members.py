"""Members as bytes: Python's order and equality, the twin, the way back, hardening."""
from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from annapy import values
from annapy.errors import CorruptCellError, SerializationError
from tests.model import values as twin
from tests.property import values_strategies as strategies


def has_nan(x: Any) -> bool:
    if isinstance(x, (tuple, frozenset)):
        return any(map(has_nan, x))
    return bool(x != x)


@given(strategies.members)
@example(5e-324)
@example(Decimal("1E-4300"))
@example(Decimal(1) / 3)
@example(1e308)
@example(("a\0", b"\0", ()))
@example(dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-23))))
@example(dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=23))))
def test_equals_twin_and_comes_back(x: Any) -> None:
    data = values.member(x)
    assert data == twin.member(x)
    back = values.unmember(data)
    assert values.member(back) == data
    assert has_nan(x) or (back == x and hash(back) == hash(x)) or odd_time(x)


def odd_time(x: Any) -> bool:
    """Times compare by their offset's whole seconds, and an hour shown twice counts once."""
    return "tzinfo" in repr(x)


@given(strategies.numbers, strategies.numbers)
@example(1, True)
@example(0.1, Decimal("0.1"))
@example(1 << 70, float(1 << 70))
@example(float("inf"), Decimal("Infinity"))
@example((1 << 53) + 1, float(1 << 53))
@example(-0.0, 0)
def test_order_of_numbers(a: Any, b: Any) -> None:
    x, y = values.member(a), values.member(b)
    assert (x < y, x == y) == (a < b, a == b)


@given(strategies.numbers, strategies.numbers, strategies.numbers)
def test_order_of_neighbours(a: Any, b: Any, c: Any) -> None:
    """Numbers that differ late: the same whole part, fractions around one another."""
    for n in (a, b, c):
        if abs(n) < 1 << 60:
            close = Decimal(n)
            for other in (close + Decimal("1E-25"), close - Decimal("1E-30")):
                x, y = values.member(n), values.member(other)
                assert (x < y, x == y) == (n < other, n == other), (n, other)


same_kind = st.one_of(
    *(st.tuples(kind, kind) for kind in (
        strategies.texts, st.binary(max_size=6), st.dates(), st.datetimes(), st.times(),
        st.datetimes(timezones=strategies.offsets.map(dt.timezone)), st.timedeltas(), st.uuids(),
        st.frozensets(st.integers(0, 5)), st.lists(strategies.numbers, max_size=3).map(tuple),
        st.lists(strategies.texts, max_size=3).map(tuple),
        st.lists(st.lists(st.binary(max_size=3), max_size=2).map(tuple), max_size=3).map(tuple),
    ))
)


@given(same_kind)
def test_order_within_a_kind(pair: tuple[Any, Any]) -> None:
    a, b = pair
    x, y = values.member(a), values.member(b)
    assert (x == y) == (a == b)
    if isinstance(a, frozenset):
        assert not a < b or x < y
    else:
        assert (x < y) == (a < b)


@given(strategies.members, strategies.members)
def test_equality_and_fixed_order_of_kinds(a: Any, b: Any) -> None:
    if has_nan(a) or has_nan(b) or odd_time(a) or odd_time(b):
        return
    x, y = values.member(a), values.member(b)
    assert (x == y) == (a == b)
    assert (values.member((a,)) < values.member((b,))) == (x < y) or x[0] == y[0]


@given(st.lists(strategies.members, max_size=2), st.lists(strategies.members, max_size=2))
def test_nested_encodings_end_themselves(a: list[Any], b: list[Any]) -> None:
    x, y = values.member(tuple(a)), values.member(tuple(b))
    assert x == y or not (x.startswith(y) or y.startswith(x))


@example(b"\x7f\x91\x00\x01")
@example(b"\x84\x7c\xa9\x81\x19\x53\xbb\xfd\x87\xd3\xc0")
@given(st.binary(max_size=30))
def test_junk(junk: bytes) -> None:
    judge(junk)


@given(strategies.members, st.data())
def test_broken_bytes(x: Any, data: Any) -> None:
    judge(data.draw(strategies.flipped(values.member(x))))


def judge(data: bytes) -> None:
    try:
        back = values.unmember(data)
    except CorruptCellError:
        return
    assert twin.member(back) == data


def test_equal_members_are_one() -> None:
    for group in ([1, 1.0, True, Decimal(1), Decimal("1.00"), 1 + 0j, Direction.UP],
                  [0, -0.0, False, Decimal("-0"), 0j],
                  [0.5, Decimal("0.5"), 0.5 + 0j],
                  [float("nan"), Decimal("nan"), -float("nan")]):
        assert len({values.member(x) for x in group}) == 1
    noon = dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone.utc)
    east = noon.astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert values.member(noon) == values.member(east)


class Direction(enum.IntEnum):
    UP = 1


def test_numpy_scalars_are_the_numbers_that_they_equal() -> None:
    numpy = pytest.importorskip("numpy")
    for x, plain in [(numpy.int16(-3), -3), (numpy.float32(0.1), float(numpy.float32(0.1))),
                     (numpy.bool_(True), 1), (numpy.str_("a"), "a"), (numpy.bytes_(b"a"), b"a"),
                     (numpy.complex64(2), 2)]:
        assert values.member(x) == values.member(plain)
    for x in (numpy.datetime64(1, "s"), numpy.longdouble(1)):
        with pytest.raises(SerializationError):
            values.member(x)


def test_what_comes_back() -> None:
    for x, expected in [(2.0, int), (0.5, float), (Decimal("0.1"), Decimal), (True, int),
                        (Decimal("2.50"), float), (1e300, int), (1 + 0j, int), (1j, complex)]:
        assert type(values.unmember(values.member(x))) is expected


@pytest.mark.parametrize("x", [[], {}, set(), bytearray(), (1, []), Decimal("sNaN")])
def test_unhashable(x: Any) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        values.member(x)


@pytest.mark.parametrize(
    "x", [object(), Fraction(1, 3), 1 << 14_281, Decimal("1E-4301"), Decimal("1E+999999")]
)
def test_refused(x: Any) -> None:
    with pytest.raises(SerializationError):
        values.member(x)


def test_depth() -> None:
    x: Any = ()
    for _ in range(63):
        x = (x,)
    assert values.unmember(values.member(x)) == x
    with pytest.raises(SerializationError, match="64 levels"):
        values.member((x,))
    with pytest.raises(CorruptCellError):
        values.unmember(b"\xa2" * 70 + b"\0" * 70)
