"""Sets, maps and causal registers: laws, equality with the twins, hardening.

`ANNAPY_PROFILE=long` runs 10,000 histories a law and type.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core import face
from annapy.errors import CorruptCellError
from tests.model import collections as model
from tests.property.collections_histories import (
    DOTTED,
    TAGS,
    histories,
    play,
    states,
)

NAMES = {tag: kind for kind, tag in face.TAGS.items()}
every_type = pytest.mark.parametrize("tag", TAGS, ids=[NAMES[tag] for tag in TAGS])
every_dotted = pytest.mark.parametrize("tag", DOTTED, ids=[NAMES[tag] for tag in DOTTED])


@every_type
@given(data=st.data())
def test_history_equals_twin(tag: int, data: Any) -> None:
    world = play(tag, data.draw(histories(tag, 24)))
    for at in range(3):
        assert model.judge(tag, world.real[at])
        for other in range(3):
            world.receive(at, world.real[other], world.models[other])
    for other in range(3):
        world.receive(0, world.real[other], world.models[other])
    assert world.real[0] == face.join(tag, world.real[2], world.real[1])


@every_type
@given(data=st.data())
def test_laws(tag: int, data: Any) -> None:
    found = data.draw(states(tag, 3))
    a, b, c = (data.draw(st.sampled_from(found)) for _ in range(3))
    ab = face.join(tag, a, b)
    assert ab == face.join(tag, b, a)
    assert face.join(tag, a, a) == a == face.join(tag, a, b"") == face.join(tag, b"", a)
    assert face.join(tag, ab, c) == face.join(tag, a, face.join(tag, b, c))
    assert face.order(tag, a, ab) & 1
    assert face.order(tag, a, b) == (ab == b) | (ab == a) << 1


@every_type
@given(data=st.data())
def test_deltas_equal_full_states(tag: int, data: Any) -> None:
    """Whoever gets all the deltas, in any order and repeatedly, has what the replicas' join has."""
    world = play(tag, data.draw(histories(tag)))
    whole = face.join(tag, face.join(tag, world.real[0], world.real[1]), world.real[2])
    deltas = [delta for delta, _ in world.deltas]
    got = b""
    for delta in data.draw(st.permutations(deltas + deltas[:2])):
        got = face.join(tag, got, delta)
    assert got == whole


@every_type
@given(data=st.data())
def test_flips_and_truncations(tag: int, data: Any) -> None:
    """Either it is refused, or the twin too reads it as a canonical state."""
    state = data.draw(st.sampled_from(data.draw(states(tag, 3))))
    if not state:
        return
    for _ in range(20):
        broken = bytearray(state)
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] ^= 1 << data.draw(st.integers(0, 7))
        check(tag, bytes(broken))
        check(tag, state[:at])
        check(tag, state + state[: at + 1])


@every_type
@given(junk=st.binary(max_size=64))
def test_junk(tag: int, junk: bytes) -> None:
    check(tag, junk)


def check(tag: int, b: bytes) -> None:
    try:
        face.verify(tag, b)
        good = True
    except CorruptCellError:
        good = False
    judged = model.judge(tag, b)
    assert judged is None or judged == good, (NAMES[tag], b.hex())


@every_dotted
@given(data=st.data())
def test_clear_is_an_observed_remove_of_everything(tag: int, data: Any) -> None:
    world = play(tag, data.draw(histories(tag)))
    before = world.real[0]
    world.act(0, (model.CLEAR, None))
    assert face.is_empty(tag, world.real[0])
    assert face.join(tag, before, world.real[0]) == world.real[0]


@every_type
@given(data=st.data())
def test_entries_join_independently(tag: int, data: Any) -> None:
    """A join restricted to some keys gives those entries of the join: what large sets rely on."""
    if not face.is_collection(tag):
        return
    found = data.draw(states(tag, 3))
    a, b = (data.draw(st.sampled_from(found)) for _ in range(2))
    keys = data.draw(st.sets(st.sampled_from([b"", b"a", b"ab", b"b", b"longer than eight"])))
    joined = face.join(tag, restrict(a, keys), restrict(b, keys))
    assert joined == restrict(face.join(tag, a, b), keys)


def restrict(state: bytes, keys: set[bytes]) -> bytes:
    if not state:
        return b""
    prefix, entries = model.decode_framed(state)
    kept = {key: payload for key, payload in entries.items() if key in keys}
    return model.framed(prefix, kept) if prefix or kept else b""
