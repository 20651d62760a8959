"""Causal contexts beside their meaning, plain sets of dots: union, order, membership, next dot."""
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core import face
from annapy.errors import CorruptCellError
from tests.model.encoding import Corrupt
from tests.model.scalars import Contexts

DOTS = st.sets(
    st.tuples(st.sampled_from([1, 2, 300, 2**64 - 1]), st.integers(1, 7)), max_size=20
)


@given(DOTS)
def test_context_of_dots(dots: set[tuple[int, int]]) -> None:
    data = face.context_make(dots)
    assert data == Contexts.encode(dots)
    vector, above = face.context_split(data)
    assert {(a, i) for a, upto in vector.items() for i in range(1, upto + 1)} | {*above} == dots


@given(DOTS, DOTS)
def test_union_and_order(a: set[tuple[int, int]], b: set[tuple[int, int]]) -> None:
    x, y = face.context_make(a), face.context_make(b)
    assert face.context_join(x, y) == Contexts.encode(a | b)
    assert face.context_order(x, y) == (a <= b) | (b <= a) << 1


@given(DOTS, st.sampled_from([1, 2, 3, 300, 2**64 - 1]), st.integers(1, 9))
def test_membership_and_next_dot(dots: set[tuple[int, int]], actor: int, seq: int) -> None:
    data = face.context_make(dots)
    assert face.context_contains(data, actor, seq) == ((actor, seq) in dots)
    assert face.context_next(data, actor) == max((i for a, i in dots if a == actor), default=0) + 1


@given(st.integers(1, 60), st.randoms(use_true_random=True))
def test_many_actors(actors: int, rng: Any) -> None:
    """Past a handful of actors a search is binary."""
    dots = {(rng.randrange(1, 90), rng.randrange(1, 4)) for _ in range(actors * 2)}
    data = face.context_make(dots)
    for actor in range(1, 92):
        for seq in range(1, 5):
            assert face.context_contains(data, actor, seq) == ((actor, seq) in dots)


@given(DOTS, st.data())
def test_verdict_on_bytes_equals_twin(dots: set[tuple[int, int]], data: Any) -> None:
    """A flipped bit or a cut: refused, unless the twin too says that it is canonical."""
    encoded = face.context_make(dots)
    for at in range(len(encoded)):
        for broken in (
            encoded[:at],
            encoded[:at] + bytes([encoded[at] ^ 1 << data.draw(st.integers(0, 7))])
            + encoded[at + 1 :],
        ):
            try:
                Contexts.decode(broken)
                canonical = True
            except Corrupt:
                canonical = False
            try:
                face.context_join(broken, b"\0\0")
                accepted = broken != b""
            except CorruptCellError:
                accepted = False
            # The twin spells dots out, and gives up on a prefix of more than 10,000 of them.
            vector = face.context_split(broken)[0] if accepted and broken else {}
            assert accepted == canonical or max(vector.values(), default=0) > 10_000


def test_empty_context_has_two_spellings_of_which_parsers_write_one() -> None:
    assert face.context_make([]) == b"\0\0" == face.context_join(b"", b"")


def test_a_sequence_past_64_bits_is_refused() -> None:
    last = face.context_make([(1, 2**64 - 1)])
    with pytest.raises(OverflowError):
        face.context_next(last, 1)
    assert face.context_next(last, 2) == 1


@pytest.mark.parametrize("dot", [(0, 1), (1, 0)])
def test_zero_is_no_actor_and_no_sequence(dot: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="start at 1"):
        face.context_make([dot])
