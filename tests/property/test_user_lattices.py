"""User-defined lattices: the check finds what is wrong; siblings of them are a lattice too."""
from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy import limits
from annapy._core import face
from annapy.errors import CorruptCellError, LatticeTypeError, SerializationError
from annapy.lattice import GCounter, Lattice
from annapy.lattice.user import Siblings, name_of, register, registered
from annapy.testing import LawBroken, check_lattice


class Span(Lattice, name="tests.span"):
    """An interval that covers all that was observed: low and high, or nothing."""

    __slots__ = ("ends",)

    def __init__(self, low: int | None = None, high: int | None = None) -> None:
        self.ends = None if low is None else (low, low if high is None else high)

    def join(self, other: Span) -> Span:
        if self.ends is None or other.ends is None:
            return self if other.ends is None else other
        return Span(min(self.ends[0], other.ends[0]), max(self.ends[1], other.ends[1]))

    def encode(self) -> bytes:
        return b"" if self.ends is None else face.i64(self.ends[0]) + face.i64(self.ends[1])

    @classmethod
    def decode(cls, data: Any) -> Span:
        data = bytes(data)
        if not data:
            return cls()
        if len(data) != 16:
            raise ValueError("a span is 16 bytes")
        low, high = face.to_i64(data), face.to_i64(data[8:])
        if low > high:
            raise ValueError("a span's ends are in order")
        return cls(low, high)

    @property
    def value(self) -> tuple[int, int] | None:
        return self.ends


N = st.integers(-5, 5)
SPANS = st.one_of(
    st.just(Span()), st.builds(lambda a, b: Span(min(a, b), max(a, b)), N, N)
)


def test_a_sound_lattice_passes() -> None:
    report = check_lattice(Span, SPANS, max_examples=100)
    assert min(report.examples.values()) >= 100
    assert report.pairs >= 100
    assert "concurrent" in repr(report)


class Sum(Span, name="tests.sum"):
    """Adds instead of joining: not idempotent."""

    def join(self, other: Span) -> Span:
        if self.ends is None or other.ends is None:
            return self if other.ends is None else other
        return type(self)(self.ends[0] + other.ends[0], self.ends[1] + other.ends[1])


class First(Span, name="tests.first"):
    """Keeps the left one: not commutative."""

    def join(self, other: Span) -> Span:
        return other if self.ends is None else self


class Middle(Span, name="tests.middle"):
    """Takes averages: not associative."""

    def join(self, other: Span) -> Span:
        if self.ends is None or other.ends is None:
            return self if other.ends is None else other
        mean = (self.ends[0] + other.ends[0]) // 2
        return type(self)(mean, mean)


class Lax(Span, name="tests.lax"):
    """Accepts trailing bytes: two spellings of one value."""

    @classmethod
    def decode(cls, data: Any) -> Span:
        found = Span.decode(bytes(data)[:16])
        return cls(*found.ends) if found.ends else cls()

    def join(self, other: Span) -> Span:
        found = Span.join(self, other)
        return type(self)(*found.ends) if found.ends else type(self)()


class Crashing(Lax, name="tests.crashing"):
    """Raises what no caller expects of bytes from outside."""

    @classmethod
    def decode(cls, data: Any) -> Span:
        known = {0: Span.decode, 16: Span.decode}
        found = known[len(data)](data)
        return cls(*found.ends) if found.ends else cls()


class NoBottom(Lax, name="tests.nobottom"):
    """T() is a value like others."""

    def __init__(self, low: int = 0, high: int | None = None) -> None:
        super().__init__(low, high)

    @classmethod
    def decode(cls, data: Any) -> Span:
        found = Span.decode(data).ends
        if found is None:
            raise ValueError("a span is 16 bytes")
        return cls(*found)


@pytest.mark.parametrize(
    ("cls", "law"),
    [
        (Sum, "idempotent"),
        (First, "commutative"),
        (Middle, "associative|idempotent|order"),
        (Lax, "hardened"),
        (Crashing, "KeyError"),
        (NoBottom, "bottom"),
    ],
)
def test_what_breaks_a_law_is_caught(cls: Any, law: str) -> None:
    values = st.builds(lambda a, b: cls(min(a, b), max(a, b)), N, N)
    with pytest.raises(LawBroken, match=law):
        check_lattice(cls, values, max_examples=300)


def test_a_user_type_needs_a_strategy() -> None:
    with pytest.raises(TypeError, match="say how to make its values"):
        check_lattice(Span)


def test_operators_follow_from_the_three_methods() -> None:
    a, b = Span(1, 2), Span(5, 6)
    assert (a | b).value == (1, 6)
    assert a <= a | b
    assert a < a | b
    assert a | b >= b
    assert a | b > b
    assert not a <= b
    assert not b <= a
    assert hash(a) == hash(Span(1, 2))
    assert bytes(a) == a.encode()
    assert Span.decode(bytes(a)) == a
    with pytest.raises(LatticeTypeError):
        _ = a | GCounter()
    with pytest.raises(TypeError):
        _ = a | 3
    plain = Lattice()
    for call in (plain.encode, lambda: plain.join(plain), lambda: Lattice.decode(b"")):
        with pytest.raises(NotImplementedError):
            call()
    assert plain.value is plain


# --- names --------------------------------------------------------------------------------------


def test_names() -> None:
    assert registered("tests.span") is Span
    assert name_of(Span) == "tests.span"
    with pytest.raises(LatticeTypeError, match="import the module"):
        registered("tests.nobody")
    for wrong in (GCounter, Lattice, 3):
        with pytest.raises(LatticeTypeError, match=r"subclass annapy\.Lattice"):
            name_of(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="belongs to"):

        class Other(Lattice, name="tests.span"):
            __slots__ = ()

    for name in ("", "x" * (limits.USER_NAME_SIZE_MAX_BYTES + 1)):
        with pytest.raises(ValueError, match="bytes"):
            register(Span, name)
    register(Span, "tests.span")


def test_the_default_name_is_where_the_class_stands() -> None:
    class Local(Lattice):
        __slots__ = ()

    assert name_of(Local).endswith("Local")


# --- siblings -----------------------------------------------------------------------------------


@given(st.lists(SPANS, min_size=1, max_size=6), st.randoms(use_true_random=True))
def test_concurrent_writes_join_in_any_order(spans: list[Span], rng: Any) -> None:
    written = [Siblings().write(x, actor=i + 1) for i, x in enumerate(spans)]
    rng.shuffle(written)
    met = Siblings()
    for one in written + written[:2]:
        met |= one
    whole = Span()
    for x in spans:
        whole |= x
    assert met.join_as(Span) == whole
    assert met.value == whole.value
    assert len(met.encoded) == len(spans)
    back = met.write(whole, actor=9)
    assert back.encoded == [bytes(whole)]
    assert met < back
    assert back | met == back
    assert Siblings.decode(bytes(back)) == back
    assert pickle.loads(pickle.dumps(back)) == back


def test_a_write_back_replaces_what_it_has_seen_and_nothing_else() -> None:
    a, b = Siblings().write(Span(1), actor="a"), Siblings().write(Span(2), actor="b")
    back = a.write(Span(1, 3), actor="a")
    assert {*(back | b).encoded} == {bytes(Span(1, 3)), bytes(Span(2))}
    blind = (a | b).write(Span(9), actor="c", context=b"")
    assert len(blind.encoded) == 3


def test_clear_removes_what_is_there() -> None:
    a, b = Siblings().write(Span(1), actor="a"), Siblings().write(Span(2), actor="b")
    gone = a.clear(actor="a")
    assert (gone.is_empty(), gone.value, gone.name) == (True, None, "tests.span")
    assert (gone | b).value == (2, 2)
    assert gone == a | a.delta_clear(actor="a")
    assert Siblings().value is None
    assert Siblings().joined is None
    assert Siblings().clear(actor="a") == Siblings()


def test_limits() -> None:
    many = Siblings()
    for n in range(limits.USER_SIBLINGS_MAX):
        many = many.write(Span(n), actor="a", context=b"")
    with pytest.raises(ValueError, match="limit"):
        many.write(Span(99), actor="a", context=b"")
    joined = many.write(many.join_as(Span), actor="a")
    assert joined.value == (0, limits.USER_SIBLINGS_MAX - 1)
    over = many | Siblings().write(Span(99), actor="b")
    assert len(over.encoded) == limits.USER_SIBLINGS_MAX + 1  # what was replicated is not refused


class Blob(Lattice, name="tests.blob"):
    """The greater of two byte strings."""

    __slots__ = ("data",)

    def __init__(self, data: Any = b"") -> None:
        self.data = data

    def join(self, other: Blob) -> Blob:
        return max(self, other, key=lambda x: x.data)

    def encode(self) -> bytes:
        return self.data  # type: ignore[no-any-return]

    decode = classmethod(lambda cls, data: cls(bytes(data)))  # type: ignore[assignment]


def test_size_limit_is_for_siblings_not_for_one_state() -> None:
    large = Blob(bytes(limits.USER_STATE_MAX_BYTES))
    one = Siblings().write(large, actor="a")
    with pytest.raises(ValueError, match="limit"):
        one.write(Blob(b"x"), actor="b", context=b"")
    assert one.write(Blob(b"x" * limits.USER_STATE_MAX_BYTES * 2), actor="b").encoded


def test_two_names_under_one_key_resolve_alike() -> None:
    """The greater name wins whole; a local write under another name is refused."""
    a, b = Siblings().write(Blob(b"x"), actor="a"), Siblings().write(Span(2), actor="b")
    assert a | b == b | a == b
    assert a < b
    with pytest.raises(LatticeTypeError):
        b.write(Blob(b"x"), actor="a")


def test_a_class_that_refuses_stored_bytes_is_named() -> None:
    broken = Siblings().write(Blob(b"not 16 bytes"), actor="a")
    with pytest.raises(CorruptCellError, match=r"Span\.decode"):
        broken.join_as(Span)


def test_encode_must_give_bytes() -> None:
    with pytest.raises(SerializationError, match="str"):
        Siblings().write(Blob("text"), actor="a")


def test_siblings_of_three_actors_are_a_lattice() -> None:
    values = [Siblings()]
    for actor, x in itertools.product((1, 2), (Span(1), Blob(b"z"))):
        values.append(Siblings().write(x, actor=actor))
    values += [a | b for a, b in itertools.combinations(values, 2)]
    values += [a.clear(actor=3) for a in values]
    for a, b, c in itertools.product(values, repeat=3):
        assert (a | b) | c == a | (b | c)
        assert a | b == b | a
