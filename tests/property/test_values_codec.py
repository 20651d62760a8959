"""Values as bytes and back: equality with the twin, exact types, hardening, limits."""
from __future__ import annotations

import array
import contextlib
import datetime as dt
import enum
import subprocess
import sys
import zoneinfo
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from annapy import values
from annapy.errors import CorruptCellError, SerializationError
from tests.model import values as twin
from tests.model.encoding import Corrupt
from tests.property import values_strategies as strategies


@given(strategies.values)
@example("\ud800\udc00 lone")
@example(-(1 << 63) - 1)
@example(-(1 << 71))
@example({float("nan"), float("nan")})
def test_equals_twin_and_comes_back(x: Any) -> None:
    data = values.encode(x)
    assert data == twin.encode(x)
    back = values.decode(data)
    assert type(back) is type(x)
    assert values.encode(back) == data
    assert "nan" in repr(x).lower() or back == x  # to compare a signalling NaN would raise


@given(strategies.values, st.data())
def test_broken_bytes_are_refused_or_mean_something_else(x: Any, data: Any) -> None:
    """Accepted exactly when the twin accepts, and as the same value."""
    broken = data.draw(strategies.flipped(values.encode(x)))
    judge(broken)


@given(st.binary(max_size=40))
def test_junk(junk: bytes) -> None:
    judge(junk)


def judge(data: bytes) -> None:
    if b"\x30" in data or b"\x31" in data or b"\x40" in data:  # arrays, pickles: not the twin's
        with contextlib.suppress(CorruptCellError, SerializationError):
            values.decode(data)
        return
    try:
        expected = twin.decode(data)
    except Corrupt:
        with pytest.raises(CorruptCellError):
            values.decode(data)
        return
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        with pytest.raises(SerializationError):
            values.decode(data)
        return
    assert twin.encode(values.decode(data)) == twin.encode(expected)


@given(strategies.values)
def test_every_truncation(x: Any) -> None:
    data = values.encode(x)
    for at in range(len(data)):
        with pytest.raises(CorruptCellError):
            values.decode(data[:at])


def test_subclasses_become_their_base() -> None:
    class Color(enum.IntEnum):
        RED = 3

    class Name(str):
        __slots__ = ()

    Point = namedtuple("Point", "x y")  # noqa: PYI024
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    for x, base in [(Color.RED, 3), (Name("n"), "n"), (Point(1, 2), (1, 2)), (ordered, None),
                    (Counter("aab"), {"a": 2, "b": 1})]:
        expected = {"b": 2, "a": 1} if base is None else base
        back = values.decode(values.encode(x))
        assert back == expected
        assert type(back) is type(expected)
    assert list(values.decode(values.encode(ordered))) == ["b", "a"]


def test_depth_and_cycles() -> None:
    x: Any = 1
    for _ in range(64):
        x = [x]
    assert values.decode(values.encode(x)) == x
    with pytest.raises(SerializationError, match="64 levels"):
        values.encode([x])
    with pytest.raises(CorruptCellError, match="deeper"):
        values.decode(b"\x19\x01" * 65 + b"\x01")
    ring: list[Any] = []
    ring += [ring, ring]
    loop: dict[str, Any] = {}
    loop["me"] = (loop,)
    for knot in (ring, loop):
        with pytest.raises(SerializationError, match="contains itself"):
            values.encode(knot)


def test_foreign_objects() -> None:
    with pytest.raises(SerializationError, match=r"collections\.deque.*allow_pickle"):
        values.encode(__import__("collections").deque())
    data = values.encode({"d": range(3)}, allow_pickle=True)
    assert values.decode(data, allow_pickle=True) == {"d": range(3)}
    with pytest.raises(SerializationError, match="allow_pickle"):
        values.decode(data)
    with pytest.raises(SerializationError, match="cannot pickle"):
        values.encode(lambda: 0, allow_pickle=True)
    with pytest.raises(SerializationError, match="time zone"):
        values.encode(dt.datetime(2024, 1, 1, tzinfo=dt.tzinfo()))
    with pytest.raises(CorruptCellError):
        values.decode(b"")


def test_containers_that_change_under_the_encoder() -> None:
    items: list[Any] = []

    class Shrinks(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            items.clear()
            return []

    class Swaps(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            for key in range(2, 40):
                del whole[key - 1]
                whole[key] = key
            return []

    whole: dict[int, Any] = {0: Swaps(), 1: 1}
    with contextlib.suppress(RuntimeError):
        assert len(values.decode(values.encode(whole))) == 2
    items += [Shrinks(), 1, 2]
    with pytest.raises(RuntimeError, match="changed size"):
        values.encode(items)


def test_claims_beyond_the_bytes_allocate_nothing() -> None:
    import tracemalloc

    huge = b"\xff\xff\xff\xff\x0f"
    header = b"\x02\x40\x01\x00\x01\x00\x00\x00" + (1 << 27).to_bytes(8, "little")
    tracemalloc.start()
    for data in (b"\x10" + huge, b"\x19" + huge, b"\x1a" + huge, b"\x30\0\0\0" + header):
        with pytest.raises(CorruptCellError):
            values.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_decimal_context_does_not_matter() -> None:
    from decimal import localcontext

    data = values.encode(Decimal("1E+30"))
    with localcontext() as context:
        context.capitals = 0
        context.prec = 1
        assert values.encode(Decimal("1E+30")) == data
        assert values.decode(values.encode(Decimal("1.234"))) == Decimal("1.234")


def test_other_buffers() -> None:
    data = values.encode("abc")
    assert values.decode(bytearray(data)) == values.decode(memoryview(data)) == "abc"
    assert values.decode(values.encode(array.array("d", [1.5]))).tolist() == [1.5]


def test_imports_nothing_until_it_is_met() -> None:
    code = (
        "import sys; from annapy import values as v\n"
        "v.decode(v.encode({'a': [1, 2.5, 'x', b'y', None, (1 << 80,), {3}]}))\n"
        "v.member(('a', 1))\n"
        "print([m for m in ('numpy', 'datetime', 'decimal', 'uuid', 'pickle', 'typing', 'enum')"
        " if m in sys.modules])"
    )
    code = f"import sys; sys.path = {sys.path}\n{code}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True,
                          check=True)
    assert done.stdout.strip() == "[]", done.stdout
