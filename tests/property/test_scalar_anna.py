"""The laws that the original Anna breaks, each as a test by its name.

Anna's lattices (C++ and Python clients, 2018 to 2020) are joined with each other's results in
production order only, so these went unnoticed there; a store that gossips cannot have them.
"""
from __future__ import annotations

import itertools

from annapy._core import face
from annapy.lattice import (
    LWW,
    Causal,
    GCounter,
    GSet,
    Map,
    MaxInt,
    MinInt,
    MultiCausal,
    MVRegister,
    OrderedSet,
    ORSet,
    VectorClock,
)


def test_lww_with_equal_stamps_commutes() -> None:
    """Two writes at one stamp: Anna keeps whichever arrives first, so replicas differ for ever."""
    stamp = (7, 1, 1)
    values = [LWW().set(x, stamp=stamp) for x in ("a", "b", 1, None, "aa", b"")]
    values.append(LWW().clear(stamp=stamp))
    for a, b, c in itertools.product(values, repeat=3):
        assert bytes(a | b) == bytes(b | a)
        assert bytes((a | b) | c) == bytes(a | (b | c))


def test_a_64_bit_maximum_is_not_narrowed_to_int() -> None:
    """Narrowed to 32 bits, 2**32 + 1 becomes 1: a maximum that goes down."""
    steps = [1, 2**31 - 1, 2**31, 2**32 + 1, 2**63 - 1]
    top = MaxInt()
    for n in steps:
        assert top.observe(n) > top
        top = top.observe(n)
        assert top.value == n
    low = MinInt()
    for n in steps:
        low = low.observe(-n - 1)
        assert low.value == -n - 1
    assert (MaxInt().observe(2**32 + 1) | MaxInt().observe(2)).value == 2**32 + 1
    assert GCounter().add(2**32, actor="a").add(1, actor="a").value == 2**32 + 1
    assert VectorClock().increment("a", 2**32 + 1) > VectorClock().increment("a", 2)


def test_causal_pair_with_equal_clocks_commutes() -> None:
    """One clock for the whole value: on equal clocks such a merge must pick a side."""
    for register in (MVRegister, Causal):
        common = register().set("x", actor="a")
        left, right = common.set("y", actor="b"), common.set("z", actor="c")
        both = left | right
        assert bytes(both) == bytes(right | left)
        assert {*both.siblings} == {"y", "z"}
        # Two replicas with the same clock, whose siblings arrived in different orders.
        assert bytes((left | right) | common) == bytes(common | (right | left))


def test_causal_pair_is_associative() -> None:
    """A sibling that one writer has replaced must not come back through a third replica."""
    a = Causal().set("a", actor="a")
    b = a.set("b", actor="b")
    c = Causal().set("c", actor="c")
    d = (a | c).set("d", actor="d")
    for x, y, z in itertools.permutations((a, b, c, d), 3):
        assert bytes((x | y) | z) == bytes(x | (y | z))
    assert {*(a | b | c | d).siblings} == {"b", "d"}
    assert "a" not in (b | c | a).siblings


def test_multicausal_keeps_each_siblings_dependencies() -> None:
    one = MultiCausal().set("a", actor="a", dependencies={"k": face.context_make([(1, 1)])})
    two = MultiCausal().set("b", actor="b", dependencies={"k": face.context_make([(2, 1)])})
    assert bytes(one | two) == bytes(two | one)
    assert (one | two).dependencies == {"k": face.context_make([(1, 1), (2, 1)])}


def test_set_merge_does_not_raise() -> None:
    assert (GSet().add(1) | GSet().add("a")).value == {1, "a"}
    assert (ORSet().add(1, actor="a") | ORSet().add("a", actor="b")).value == {1, "a"}


def test_map_merge_does_not_raise() -> None:
    a = Map().put("n", GCounter().add(1, actor="a"))
    b = Map().put("n", GCounter().add(2, actor="b")).put("m", MaxInt().observe(1))
    assert (a | b).value == {"n": 3, "m": 1} == (b | a).value


def test_clock_merge_does_not_raise() -> None:
    a, b = VectorClock().increment("a"), VectorClock().increment("b", 2)
    assert ((a | b)["a"], (a | b)["b"], (a | b)["c"]) == (1, 2, 0)


def test_ordered_set_merge_does_not_raise() -> None:
    assert (OrderedSet().add(3).add(1) | OrderedSet().add(2)).value == (1, 2, 3)
