"""MaxArray and SumArray: histories of three replicas against the twins, laws, hardening."""
from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annapy._core import face, joins_array
from annapy.errors import CorruptCellError
from annapy.lattice import MaxArray, SumArray
from tests.model import arrays as twin
from tests.model.encoding import Corrupt
from tests.property.values_strategies import flipped

MAX, SUM = face.TAGS["maxarray"], face.TAGS["sumarray"]
ADD, OBSERVE = face.OPS["add"], face.OPS["observe"]
every_type = pytest.mark.parametrize("tag", [MAX, SUM], ids=["maxarray", "sumarray"])
SUMMED = [(0, 32), (0, 64), (2, 32), (2, 64)]
BITS = {16: 16, 32: 32, 64: 64}


def elements(tag: int, dtype: tuple[int, int]) -> Any:
    code, bits = dtype
    if code == 2:
        finite = tag == SUM
        return st.floats(width=BITS[bits], allow_nan=False, allow_infinity=not finite)
    low = -(1 << bits - 1) if code == 0 else 0
    return st.one_of(st.integers(-3, 3) if code == 0 else st.integers(0, 6),
                     st.integers(low, low + (1 << bits) - 1))


@st.composite
def arrays(draw: Any, tag: int, dtype: tuple[int, int], shape: tuple[int, ...]) -> bytes:
    n = math.prod(shape)
    return twin.array_bytes(dtype, shape, draw(st.lists(elements(tag, dtype), min_size=n,
                                                        max_size=n)))


def mutate(tag: int, state: bytes, arg: bytes, actor: int) -> bytes:
    return face.mutate(tag, state, OBSERVE if tag == MAX else ADD, arg, actor)


def operate(before: Any, arg: bytes, actor: int) -> Any:
    """The twin after the operation, or the error that is due."""
    if before.state and before.state[: 8 + 8 * before.state[4]] != twin.read_array(arg)[0]:
        return ValueError
    if isinstance(before, twin.MaxTwin):
        return before.observe(arg)
    try:
        after = before.add(arg, actor)
        if after.dtype[0] == 0:
            sum_of(after)
    except OverflowError:
        return OverflowError
    return after


@st.composite
def histories(draw: Any, tag: int) -> tuple[list[bytes], list[Any], list[bytes]]:
    """(states of three replicas, their twins, all deltas); now and then shapes differ."""
    dtypes = sorted(twin.FORMATS) if tag == MAX else SUMMED
    kinds = draw(st.lists(st.tuples(st.sampled_from(dtypes), st.sampled_from(
        [(), (0,), (3,), (2, 2), (9,)])), min_size=1, max_size=2))
    empty: Any = twin.MaxTwin() if tag == MAX else twin.SumTwin()
    states, twins, deltas = [b""] * 3, [empty] * 3, []
    for _ in range(draw(st.integers(1, 10))):
        at, kind = draw(st.integers(0, 2)), draw(st.sampled_from(kinds))
        if draw(st.integers(0, 3)) == 0:
            other = draw(st.integers(0, 2))
            states[at] = face.join(tag, states[at], states[other])
            twins[at] = twins[at].join(twins[other])
        else:
            arg = draw(arrays(tag, *kind))
            expected = operate(twins[at], arg, at + 1)
            if isinstance(expected, type):
                with pytest.raises(expected):
                    mutate(tag, states[at], arg, at + 1)
                continue
            deltas.append(mutate(tag, states[at], arg, at + 1))
            states[at] = face.join(tag, states[at], deltas[-1])
            twins[at] = expected
        assert states[at] == twins[at].state
    return states, twins, deltas


@every_type
@given(data=st.data())
def test_history_equals_twin(tag: int, data: Any) -> None:
    states, twins, deltas = data.draw(histories(tag))
    whole, model = b"", twins[0]
    for state, other in zip(states, twins, strict=True):
        face.verify(tag, state)
        whole, model = face.join(tag, whole, state), model.join(other)
    assert whole == model.state
    got = b""
    for delta in data.draw(st.permutations(deltas + deltas[:2])):
        got = face.join(tag, got, delta)
    assert got == whole


@every_type
@given(data=st.data())
def test_laws(tag: int, data: Any) -> None:
    a, b, c = data.draw(histories(tag))[0]
    ab = face.join(tag, a, b)
    assert ab == face.join(tag, b, a)
    assert face.join(tag, a, a) == a == face.join(tag, a, b"") == face.join(tag, b"", a)
    assert face.join(tag, ab, c) == face.join(tag, a, face.join(tag, b, c))
    assert face.order(tag, a, ab) & 1
    assert face.order(tag, a, b) == (ab == b) | (ab == a) << 1


@every_type
@given(data=st.data())
def test_broken_bytes(tag: int, data: Any) -> None:
    for state in data.draw(histories(tag))[0]:
        judge(tag, data.draw(flipped(state)))


@every_type
@given(junk=st.binary(max_size=64))
def test_junk(tag: int, junk: bytes) -> None:
    judge(tag, junk)


def judge(tag: int, state: bytes) -> None:
    try:
        twin.MaxTwin(state) if tag == MAX else twin.SumTwin(state)
        good = True
    except Corrupt:
        good = False
    if good:
        face.verify(tag, state)
    else:
        with pytest.raises(CorruptCellError):
            face.verify(tag, state)


@given(data=st.data())
def test_sum_is_exact_and_everywhere_the_same(data: Any) -> None:
    states, twins, _ = data.draw(histories(SUM))
    state, model = states[0], twins[0]
    for i in (1, 2):
        state, model = face.join(SUM, state, states[i]), model.join(twins[i])
    try:
        expected = sum_of(model)
    except OverflowError:
        if model.dtype[0] == 0:
            with pytest.raises(OverflowError):
                joins_array.total(state)
        return
    total = joins_array.total(state)
    assert total[len(model.head) :] == twin.array_bytes(model.dtype, (), expected)[8:] \
        if state else total == b""


def sum_of(model: twin.SumTwin) -> list[Any]:
    if model.dtype[0] == 0 and model.entries:
        rows = [numbers for _, numbers in model.entries.values()]
        exact = [sum(column) for column in zip(*rows, strict=True)]
        return twin.rounded(model.dtype, exact)
    return model.value()


def test_data_starts_at_a_multiple_of_eight() -> None:
    state = SumArray(3, "float32").add([1, 2, 3], actor=1).add([4, 5, 6], actor=2).state
    assert (len(state) - 16) % 8 == 0
    assert struct.unpack_from("<3f", state, 16 + 32 + 16) == (4, 5, 6)


def test_faces() -> None:
    numpy = pytest.importorskip("numpy")
    a = MaxArray((2,), "float16").observe([1, -0.0])
    assert a.value.tolist() == [1, 0]
    assert str(a.value[1]) == "0.0"
    assert not a.value.flags.writeable
    assert MaxArray.decode(bytes(a)) == a
    assert a == a | a.delta_observe([0.5, -1])
    assert a.delta_observe([0.5, -1]) == MaxArray()
    assert MaxArray().value is None
    s = SumArray((2, 2), "int64")
    assert s.value.tolist() == [[0, 0], [0, 0]]
    assert SumArray().value is None
    s = s.add(numpy.eye(2, dtype="int64"), actor="a").add([[1, 2], [3, 4]], actor="b")
    assert s.value.tolist() == [[2, 2], [3, 5]]
    assert sorted(s.versions.values()) == [1, 1]
    assert s.shape == (2, 2)
    assert s.dtype == numpy.int64
    change = s.delta_add([[0, 0], [0, 0]], actor="c")
    assert s.add([[0, 0], [0, 0]], actor="c") == s | change != s
    fortran = numpy.asfortranarray(numpy.arange(4, dtype=">i8").reshape(2, 2))
    assert SumArray().add(fortran, actor=1).value.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: MaxArray((2,)).observe([1.0]), ValueError, "expected float64 of shape .2,."),
    (lambda: MaxArray().observe([1.5]).observe([1]).observe([[2]]), ValueError, "shape"),
    (lambda: MaxArray().observe([float("nan")]), ValueError, "NaN"),
    (lambda: MaxArray().observe([1j]), ValueError, "takes int8"),
    (lambda: SumArray().add([True], actor=1), ValueError, "takes int32"),
    (lambda: SumArray().add([float("inf")], actor=1), ValueError, "NaN"),
    (lambda: SumArray().add([1 << 62], actor=1).add([1 << 62], actor=1), OverflowError, "64"),
    (lambda: SumArray().add([1 << 62], actor=1).add([1 << 62], actor=2), OverflowError, "64"),
    (lambda: SumArray().add([1e308], actor=1).add([1e308], actor=1), OverflowError, "64"),
    (lambda: MaxArray((-1,)), ValueError, "negative"),
])
def test_refused(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_sums_that_only_meet_in_a_join_may_overflow() -> None:
    a = SumArray().add([1 << 62], actor=1) | SumArray().add([1 << 62], actor=2)
    with pytest.raises(OverflowError):
        _ = a.value
    back = a | SumArray().add([-(1 << 62)], actor=3)
    assert back.value.tolist() == [1 << 62]
