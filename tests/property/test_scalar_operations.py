"""Operations come from outside too: their bytes are refused, or leave sound states."""
from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core import face
from annapy.testing.histories import ACTORS, operation, play

KINDS = [kind for kind in face.TAGS if kind != "none"]
REFUSALS = (TypeError, ValueError, OverflowError, KeyError)
each = pytest.mark.parametrize("kind", KINDS)


def broken(arg: bytes, rng: Any) -> bytes:
    """An argument with bits flipped, cut, or with something behind it."""
    data = bytearray(arg)
    for _ in range(rng.randrange(3)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data) + 1) :]
    if rng.random() < 0.3:
        data += rng.randbytes(rng.randrange(6))
    return bytes(data)


@each
@given(seed=st.integers(0, 2**32 - 1))
def test_a_broken_argument_is_refused_or_leaves_a_sound_state(kind: str, seed: int) -> None:
    rng, tag = random.Random(seed), face.TAGS[kind]
    state = play(tag, rng, 12).states[0]
    for _ in range(10):
        code, arg, stamp = operation(tag, rng, state)
        code = code if rng.random() < 0.8 else rng.randrange(12)
        actor = rng.choice((*ACTORS, 0))
        try:
            delta = face.mutate(tag, state, code, broken(arg, rng), actor, stamp)
        except REFUSALS:
            continue
        face.verify(tag, delta)
        after = face.join(tag, state, delta)
        face.verify(tag, after)
        assert face.order(tag, state, after) & 1
        state = after


@each
@given(arg=st.binary(max_size=80), code=st.integers(0, 12), actor=st.integers(0, 3))
def test_a_garbage_argument_is_refused_or_leaves_a_sound_state(
    kind: str, arg: bytes, code: int, actor: int
) -> None:
    tag = face.TAGS[kind]
    try:
        delta = face.mutate(tag, b"", code, arg, actor, (1, 1, 1))
    except REFUSALS:
        return
    face.verify(tag, delta)
