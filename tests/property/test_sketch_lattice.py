"""HyperLogLog: histories against the twin, laws, hardening, and the error of its estimate."""
from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy import values
from annapy._core import face
from annapy.errors import CorruptCellError
from annapy.lattice import HyperLogLog
from tests.model import sketch as twin
from tests.model.encoding import Corrupt
from tests.property.values_strategies import flipped

TAG = face.TAGS["hll"]


@st.composite
def sketches(draw: Any) -> tuple[HyperLogLog, twin.SketchTwin]:
    """Sparse and dense ones; few registers, so that ranks collide."""
    p = draw(st.sampled_from([4, 4, 5, 8, 14, 16]))
    seed, n = draw(st.integers(0, 30)), draw(st.sampled_from([0, 1, 2, 3, 4, 5, 9, 40, 80, 300]))
    model = twin.SketchTwin(precision=p)
    seen = range(seed * 7, seed * 7 + n)
    for x in seen:
        model.add(values.member(x))
    return HyperLogLog(p).add(*seen), model


@given(sketches())
def test_equals_twin(pair: tuple[HyperLogLog, twin.SketchTwin]) -> None:
    sketch, model = pair
    assert sketch.state == model.state
    face.verify(TAG, sketch.state)
    assert HyperLogLog.decode(bytes(sketch)) == sketch


@given(sketches(), sketches(), sketches())
def test_laws(x: Any, y: Any, z: Any) -> None:
    (a, a2), (b, b2), (c, _) = x, y, z
    ab = a | b
    assert ab.state == a2.join(b2).state
    assert ab == b | a
    assert a | a == a == a | HyperLogLog()
    assert (a | b) | c == a | (b | c)
    assert a <= ab
    assert b <= ab
    assert (a <= b, b <= a) == (ab == b, ab == a)


@given(sketches(), st.integers(0, 400))
def test_delta_is_the_change(x: Any, member: int) -> None:
    sketch, _ = x
    delta = sketch.delta_add(member)
    assert sketch.add(member) == sketch | delta
    assert sketch.add(member).delta_add(member) == HyperLogLog()
    assert sketch.add(member, 1, 2) == sketch.add(1).add(member).add(2)


@given(sketches(), sketches())
def test_folding_is_as_if_seen_coarsely(x: Any, y: Any) -> None:
    coarse = HyperLogLog(4).add("a")
    assert HyperLogLog(12).add(*range(50), "a") | coarse == HyperLogLog(4).add(*range(50), "a")


@given(sketches(), st.data())
def test_broken_bytes(x: Any, data: Any) -> None:
    judge(data.draw(flipped(x[0].state)))


@given(st.binary(max_size=24))
def test_junk(junk: bytes) -> None:
    judge(junk)
    judge(bytes([4, 1]) + junk)
    judge(bytes([4, 0]) + junk)


def judge(state: bytes) -> None:
    try:
        twin.SketchTwin(state)
    except Corrupt:
        with pytest.raises(CorruptCellError):
            face.verify(TAG, state)
    else:
        face.verify(TAG, state)


def test_the_hash_is_part_of_the_format() -> None:
    rng = random.Random(1)
    for n in (*range(70), 200):
        data = rng.randbytes(n)
        assert face.actor_id(data) == twin.hash64(data)


@pytest.mark.parametrize("precision", [8, 11, 14])
@pytest.mark.parametrize("n", [10, 100, 1_000, 10_000, 100_000])
def test_relative_error(precision: int, n: int) -> None:
    """The root mean square over several sketches, against 1.04 / sqrt(m) (Flajolet et al. 2007)."""
    rounds = 8 if n < 100_000 else 3
    errors = []
    for salt in range(rounds):
        base = salt << 40
        sketch = HyperLogLog(precision).add(*range(base, base + n))
        errors.append(sketch.value / n - 1)
    rms = math.sqrt(sum(error * error for error in errors) / rounds)
    assert rms <= 2.2 * 1.04 / math.sqrt(1 << precision) + 0.5 / n, errors
    assert abs(sum(errors) / rounds) <= 2 * 1.04 / math.sqrt(1 << precision) + 0.5 / n, errors


def test_estimate_at_the_ends() -> None:
    assert HyperLogLog().value == 0 == HyperLogLog().add().value
    full = bytes([4, 1]) + bytes([61]) * 16
    face.verify(TAG, full)
    assert HyperLogLog._of(full).value > 1 << 60
    for precision in (3, 17):
        with pytest.raises(ValueError, match="4 to 16"):
            HyperLogLog(precision)
