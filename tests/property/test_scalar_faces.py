"""The Python face of the scalar types: mutators and their deltas, values, bytes, errors, habits."""
from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import annapy.lattice
from annapy._core import face
from annapy.errors import CorruptCellError, LatticeTypeError
from annapy.lattice import (
    LWW,
    Flag,
    GCounter,
    MaxFloat,
    MaxInt,
    MinFloat,
    MinInt,
    PNCounter,
    Priority,
    VectorClock,
)

ACTORS = st.one_of(
    st.text(max_size=3), st.binary(max_size=3), st.integers(1, 2**64 - 1)
)
SMALL = st.integers(-1000, 1000)
PLAIN = st.one_of(st.none(), st.booleans(), SMALL, st.text(max_size=5), st.binary(max_size=5))
# (type, mutator, arguments, keyword arguments)
CALLS: dict[Any, Any] = {
    (MaxInt, "observe"): (st.tuples(st.integers(-(2**63), 2**63 - 1)), st.just({})),
    (MinInt, "observe"): (st.tuples(st.integers(-(2**63), 2**63 - 1)), st.just({})),
    (MaxFloat, "observe"): (st.tuples(st.floats(allow_nan=False)), st.just({})),
    (MinFloat, "observe"): (st.tuples(st.floats(allow_nan=False)), st.just({})),
    (Flag, "set"): (st.just(()), st.just({})),
    (LWW, "set"): (
        st.tuples(PLAIN),
        st.fixed_dictionaries({"stamp": st.tuples(*[st.integers(1, 5)] * 3)}),
    ),
    (LWW, "clear"): (st.just(()), st.fixed_dictionaries({"stamp": st.integers(1, 5)})),
    (Priority, "offer"): (st.tuples(st.floats(allow_nan=False), PLAIN), st.just({})),
    (GCounter, "add"): (st.tuples(st.integers(0, 9)), st.fixed_dictionaries({"actor": ACTORS})),
    (PNCounter, "add"): (st.tuples(SMALL), st.fixed_dictionaries({"actor": ACTORS})),
    (PNCounter, "sub"): (st.tuples(SMALL), st.fixed_dictionaries({"actor": ACTORS})),
    (VectorClock, "increment"): (st.tuples(ACTORS, st.integers(0, 9)), st.just({})),
}
NAMES = [f"{cls.__name__}.{method}" for cls, method in CALLS]


@pytest.mark.parametrize("call", CALLS, ids=NAMES)
@given(data=st.data())
def test_a_mutator_is_the_join_with_its_delta(call: Any, data: Any) -> None:
    cls, method = call
    x = cls()
    for _ in range(data.draw(st.integers(1, 5))):
        args, keywords = data.draw(CALLS[call][0]), data.draw(CALLS[call][1])
        after = getattr(x, method)(*args, **keywords)
        delta = getattr(x, f"delta_{method}")(*args, **keywords)
        assert after == x | delta
        assert x <= after
        assert delta <= after
        x = after
    assert cls.decode(bytes(x)) == x
    assert cls.decode(memoryview(bytearray(bytes(x)))) == x
    assert annapy.lattice.from_cell(bytes(x)) == x
    assert annapy.lattice.from_state(cls.tag, x.state) == x
    assert pickle.loads(pickle.dumps(x)) == x
    assert copy.deepcopy(x) is x is copy.copy(x)
    assert len({x, cls.decode(bytes(x))}) == 1
    assert cls.__name__ in repr(x)


@given(st.lists(st.tuples(SMALL, st.integers(1, 4)), max_size=8))
def test_counters_count(steps: list[tuple[int, int]]) -> None:
    plus = minus = PNCounter()
    for n, actor in steps:
        plus, minus = plus.add(n, actor=actor), minus.sub(n, actor=actor)
    assert plus.value == sum(n for n, _ in steps) == -minus.value
    assert sum(a - b for a, b in plus.columns.values()) == plus.value


@given(st.lists(st.tuples(st.floats(allow_nan=False), PLAIN), min_size=1, max_size=6))
def test_priority_takes_the_lowest(offers: list[tuple[float, Any]]) -> None:
    x = Priority()
    for priority, value in offers:
        x = x.offer(priority, value)
    lowest = min(priority for priority, _ in offers)
    assert x.priority == lowest
    assert x.value in [value for priority, value in offers if priority == lowest]


def test_bottoms() -> None:
    assert [T().value for T in (MaxInt, MinInt, MaxFloat, MinFloat, LWW, Priority)] == [None] * 6
    assert (GCounter().value, PNCounter().value, Flag().value, VectorClock().value) == (
        0, 0, False, {},
    )
    assert all(T().is_empty() for T, _ in CALLS)


def test_a_register_remembers_that_it_was_removed() -> None:
    x = LWW().set("x", actor="a")
    gone = x.clear(actor="b")
    assert (gone.value, gone.is_empty(), gone > x) == (None, True, True)
    assert gone | x == gone
    assert "removed" in repr(gone)
    assert x.stamp is not None
    assert gone.stamp is not None
    assert gone.stamp > x.stamp
    assert LWW().set(None, actor="a").is_empty() is False


def test_an_earlier_write_changes_nothing() -> None:
    x = LWW().set("new", stamp=9)
    assert x.set("old", stamp=8) == x
    assert x.delta_set("old", stamp=8) == LWW()


def test_clocks_of_the_wall_are_left_behind_by_what_is_there() -> None:
    """A register from a machine whose clock is ahead is still written after, not before."""
    ahead = LWW().set("theirs", stamp=(2**63, 1, 0))
    assert ahead.set("mine", actor="me").value == "mine"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: MaxInt().observe(2**63), OverflowError),
        (lambda: MaxInt().observe(1.5), TypeError),
        (lambda: MaxInt().observe("1"), TypeError),
        (lambda: MaxFloat().observe(float("nan")), ValueError),
        (lambda: MaxFloat().observe("x"), TypeError),
        (lambda: Priority().offer(float("nan"), 1), ValueError),
        (lambda: GCounter().add(-1, actor="a"), ValueError),
        (lambda: GCounter().add(2**63 - 1, actor="a").add(1, actor="b"), OverflowError),
        (lambda: PNCounter().add(2**63 - 1, actor="a").add(1, actor="b"), OverflowError),
        (lambda: PNCounter().sub(2**63 + 1, actor="a"), OverflowError),
        (lambda: PNCounter().sub(2**63, actor="a").sub(1, actor="b"), OverflowError),
        (lambda: VectorClock().increment("a", 2**63), OverflowError),
        (lambda: VectorClock().increment("a", -1), ValueError),
        (lambda: GCounter().add(1, actor=0), ValueError),
        (lambda: GCounter().add(1, actor=-1), OverflowError),
        (lambda: GCounter().add(1, actor=1.0), TypeError),
        (lambda: GCounter().add(1, actor=True), TypeError),
        (lambda: LWW().set(1), TypeError),
        (lambda: LWW().set(1, stamp=0), ValueError),
        (lambda: LWW().set(1, stamp=(1, 2)), ValueError),
        (lambda: GCounter() | PNCounter(), LatticeTypeError),
        (lambda: GCounter() <= MaxInt(), LatticeTypeError),
        (lambda: GCounter() | 1, TypeError),
        (lambda: GCounter() < 1, TypeError),
        (lambda: GCounter.decode(bytes(PNCounter())), CorruptCellError),
        (lambda: GCounter.decode(b""), CorruptCellError),
        (lambda: GCounter.decode(face.make_cell(8, b"", (1, 1, 1))), CorruptCellError),
        (lambda: annapy.lattice.class_of(77), LatticeTypeError),
    ],
)
def test_errors(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value)


def test_different_types_are_unequal() -> None:
    assert GCounter() != PNCounter()
    assert GCounter() != 0


def test_actors_are_names_or_numbers() -> None:
    assert face.actor_id("a") == face.actor_id(b"a") != face.actor_id("b")
    assert face.actor_id(7) == 7
    assert VectorClock.of({"a": 2, 7: 1}).value == {face.actor_id("a"): 2, 7: 1}


def test_importing_the_lattices_is_light() -> None:
    """A handler that only needs a counter pays for no codec, no NumPy and no regular expression."""
    code = (
        "import sys; before = set(sys.modules); import annapy.lattice;"
        "annapy.lattice.GCounter().add(1, actor='a').value;"
        "heavy = {'numpy', 're', 'enum', 'typing', 'dataclasses', 'json', 'inspect'};"
        "print(sorted((set(sys.modules) - before) & heavy))"
    )
    # -S: no site packages, whose own start-up files would import what is looked for.
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True, text=True, check=True,
    )
    assert done.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    for name in annapy.lattice.__all__:
        assert getattr(annapy.lattice, name) is not None
    assert dir(annapy.lattice) == sorted(annapy.lattice.__all__)
    with pytest.raises(AttributeError):
        annapy.lattice.NoSuchLattice
