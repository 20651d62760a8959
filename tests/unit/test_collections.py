"""Sets, maps and causal registers: what each promises, by name, and its limits on both sides."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from annapy import values
from annapy._core import face
from annapy.errors import CorruptCellError, LatticeTypeError
from annapy.lattice.base import CellLattice, from_cell
from annapy.lattice.causal import Causal, MultiCausal, MVRegister
from annapy.lattice.maps import Map, ORMap
from annapy.lattice.scalar import LWW, Flag, GCounter, MaxInt, PNCounter
from annapy.lattice.sets import GSet, OrderedSet, ORSet
from tests.model import collections as model
from tests.model.encoding import counted, u64, varint

OP = face.OPS


# --- sets -------------------------------------------------------------------------------------


def test_members_equal_in_python_are_one_member() -> None:
    assert len(GSet().update([1, 1.0, True])) == 1
    assert True in GSet().add(1.0)
    assert OrderedSet().update(["b", 2, "a", 10, 1]).value == (1, 2, 10, "a", "b")


def test_delta_of_a_member_that_is_there_is_the_bottom() -> None:
    assert GSet().add(1).delta_add(1) == GSet()
    assert GSet().add(1).delta_update([1, 2]) == GSet().add(2)
    assert ORSet().delta_discard("missing") == ORSet()


def test_orset_concurrent_addition_wins() -> None:
    here = ORSet().add("x", actor="a")
    there = here.add("x", actor="b")
    assert "x" in (here.discard("x") | there)
    assert "x" not in (here.discard("x") | here)


def test_orset_addition_supersedes_the_dots_it_has_seen() -> None:
    x = ORSet()
    for i in range(50):
        x = x.add("x", actor=f"actor {i % 3}")
    _, entries = model.decode_framed(x.state)
    assert [len(dots) for dots in entries.values()] == [16]


def test_orset_removal_leaves_only_context() -> None:
    x = ORSet().update(range(100), actor="a").clear()
    assert x.is_empty()
    assert len(x.state) < 32
    with pytest.raises(KeyError):
        x.remove(1)


def test_a_lost_delta_leaves_a_gap_instead_of_a_false_claim() -> None:
    """A context that claimed all up to its last dot would make the lost addition a removal."""
    one = ORSet().add(1, actor="a")
    both = one.add(2, actor="a")
    second = one.delta_add(2, actor="a")
    assert (second | one).value == {1, 2}
    assert second.value == {2}
    assert (second | one) == both


def test_a_dot_is_never_minted_twice_nor_past_64_bits() -> None:
    last = counted(varint(1) + u64(5, 2**64 - 1) + varint(0)) + varint(0)
    face.verify(ORSet.tag, last)
    x = ORSet._of(last)
    with pytest.raises(OverflowError):
        x.add(1, actor=5)
    assert x.add(1, actor=6).value == {1}
    gap = ORSet._of(counted(varint(0) + varint(1) + u64(5, 9)) + varint(0)).add(1, actor=5)
    assert face.context_contains(model.decode_framed(gap.state)[0], 5, 10)


def test_an_actor_is_needed_where_dots_are_minted() -> None:
    with pytest.raises(TypeError):
        face.mutate(ORSet.tag, b"", OP["add"], varint(1) + counted(b"x"), 0)
    with pytest.raises(ValueError, match="actor"):
        ORSet().add(1, actor=0)


@pytest.mark.parametrize("tag", [GSet.tag, ORSet.tag, OrderedSet.tag])
@pytest.mark.parametrize(
    "arg", [b"", b"\1", b"\1\2x", b"\1\1xy", b"\xff\xff\xff\xff\x0f", b"\x80\0", b"\0x"]
)
def test_malformed_members_are_refused(tag: int, arg: bytes) -> None:
    with pytest.raises(CorruptCellError):
        face.mutate(tag, b"", OP["add"], arg, 1)


# --- causal registers -------------------------------------------------------------------------


class OneClockPair:
    """The original's causal pair: one vector clock for a whole set of values."""

    def __init__(self, clock: dict[str, int], values: frozenset[str]) -> None:
        self.clock, self.values = clock, values

    def __or__(self, other: OneClockPair) -> OneClockPair:
        actors = self.clock.keys() | other.clock.keys()
        joined = {a: max(self.clock.get(a, 0), other.clock.get(a, 0)) for a in actors}
        if joined == self.clock:
            return self
        if joined == other.clock:
            return other
        return OneClockPair(joined, self.values | other.values)


def test_one_clock_for_all_values_is_neither_commutative_nor_associative() -> None:
    """Why each sibling has a dot: the pair fails on histories that a dot for each gets right."""
    a = OneClockPair({"a": 1}, frozenset({"x"}))
    b = OneClockPair({"b": 1}, frozenset({"y"}))
    forked = OneClockPair({"a": 1}, frozenset({"z"}))
    assert (a | forked).values != (forked | a).values
    newer = OneClockPair({"a": 2}, frozenset({"w"}))
    assert ((a | b) | newer).values != (a | (b | newer)).values

    x, y = Causal().set("x", actor="a"), Causal().set("y", actor="b")
    w = x.set("w", actor="a")
    assert ((x | y) | w) == (x | (y | w)) == (w | y | x)
    assert set((x | y | w).siblings) == {"y", "w"}
    z = Causal().set("z", actor="a")
    assert (x | z) == (z | x)


def test_a_write_replaces_what_its_writer_had_seen() -> None:
    first = Causal().set(1, actor="a")
    here, there = first.set(2, actor="a"), first.set(3, actor="b")
    both = here | there
    assert set(both.siblings) == {2, 3}
    assert both.set(4, actor="a").siblings == (4,)
    assert set(both.set(4, actor="c", seen=here).siblings) == {3, 4}
    assert set(both.set(4, actor="c", seen=there.context).siblings) == {2, 4}
    assert len(both.set(4, actor="c", seen=Causal()).siblings) == 3
    with pytest.raises(CorruptCellError):
        both.set(4, actor="c", seen=b"junk")


def test_latest_is_by_stamp_then_by_dot() -> None:
    a = MVRegister().set("a", actor=1, stamp=(9, 1, 0))
    b = MVRegister().set("b", actor=2, stamp=(8, 2, 0))
    c = MVRegister().set("c", actor=3, stamp=(9, 1, 0))
    assert (a | b).value == "a"
    assert (a | b | c).value == "c"
    assert (b | a).siblings == ("a", "b")
    assert MVRegister().value is None
    assert MVRegister().clear() == MVRegister()


def test_clock_counts_what_was_seen_without_a_gap() -> None:
    one = Causal().set(1, actor=7)
    third = one.set(2, actor=7).delta_set(3, actor=7)
    assert one.clock.value == {7: 1}
    assert third.clock.value == {}
    assert face.context_contains(third.context, 7, 3)


def test_multicausal_carries_dependencies() -> None:
    basket = Causal().set(["tea"], actor="a")
    order = MultiCausal().set("paid", actor="a", dependencies={"basket": basket, b"\xff": b""})
    assert order.entries[0].dependencies == {"basket": basket.context, "\udcff": b"\0\0"}
    other = MultiCausal().set("void", actor="b", dependencies={"basket": basket.set(1, actor="b")})
    joined = order | other
    assert joined.dependencies["basket"] == basket.set(1, actor="b").context
    with pytest.raises(CorruptCellError):
        order.set("x", actor="a", dependencies={"k": b"junk"})


def sibling(seq: int, value: bytes, dependencies: bytes = b"") -> bytes:
    return u64(1, seq) + bytes(20) + counted(value) + dependencies


def test_siblings_are_canonical() -> None:
    context = counted(model.Context([(1, 1), (1, 2)]).encode())
    face.verify(Causal.tag, context + varint(2) + sibling(1, b"v") + sibling(2, b"v"))
    for things in (
        [sibling(1, b"")],
        [sibling(0, b"v")],
        [sibling(3, b"v")],
        [sibling(1, b"v"), sibling(1, b"w")],
        [sibling(2, b"v"), sibling(1, b"v")],
    ):
        with pytest.raises(CorruptCellError):
            face.verify(Causal.tag, context + varint(len(things)) + b"".join(things))


def test_dependencies_are_canonical() -> None:
    context = counted(model.Context([(1, 1)]).encode())
    nothing = counted(b"\0\0")
    a, b = counted(b"a") + nothing, counted(b"b") + nothing
    good = sibling(1, b"v", varint(2) + a + b)
    face.verify(MultiCausal.tag, context + varint(1) + good)
    for dependencies in (
        varint(2) + b + a,
        varint(2) + a + a,
        varint(3) + a + b,
        varint(1) + a + b,
        varint(1) + counted(b"a") + counted(b""),
        varint(1) + counted(b"a") + counted(b"\0\0\0"),
    ):
        bad = sibling(1, b"v", dependencies)
        with pytest.raises(CorruptCellError):
            face.verify(MultiCausal.tag, context + varint(1) + bad)
        with pytest.raises(CorruptCellError):
            face.mutate(MultiCausal.tag, b"", OP["set"], b"\0\1v" + dependencies, 1, (1, 1, 0))


# --- maps -------------------------------------------------------------------------------------


def test_map_joins_field_by_field() -> None:
    a = Map().counter("n").add(2, actor="a").set("name", "x", actor="a")
    b = Map().counter("n").add(3, actor="b").orset("tags").add("t", actor="b")
    assert (a | b).value == {"n": 5, "name": "x", "tags": frozenset({"t"})}
    assert a.read("n") == PNCounter().add(2, actor="a")
    assert a.put("n", PNCounter().add(1, actor="c"))["n"] == 3
    assert list(a) == ["n", "name"]


def test_map_concurrent_types_resolve_to_the_higher_tag() -> None:
    a, b = Map().put("f", MaxInt().observe(1)), Map().put("f", Flag().set())
    assert (a | b) == (b | a)
    assert (a | b)["f"] is True
    with pytest.raises(LatticeTypeError):
        (a | b).put("f", MaxInt().observe(1))
    with pytest.raises(LatticeTypeError, match="remove"):
        (a | b).at("f", MaxInt)


def test_a_cleared_register_is_not_in_the_value() -> None:
    m = Map().set("f", 1, actor="a")
    m = m.register("f").clear(actor="a")
    assert m.value == {}
    assert "f" not in m
    assert m.get("f", 5) == 5
    assert len(m) == 0


def test_an_update_that_changes_nothing_makes_no_field() -> None:
    assert Map().counter("n").add(0, actor="a") == Map()
    assert ORMap().counter("n").add(0, actor="a") == ORMap()


def test_ormap_update_wins_over_a_removal_that_has_not_seen_it() -> None:
    here = ORMap().counter("n").add(5, actor="a").counter("n").add(2, actor="b")
    there = here.counter("n").add(1, actor="a")
    joined = here.remove("n") | there
    assert joined.value == {"n": 6}  # a's share survives whole, b's was seen and went
    assert (here.remove("n") | here).value == {}
    assert here.remove("n").counter("n").add(1, actor="a").value == {"n": 1}


def test_ormap_one_context_covers_what_is_nested() -> None:
    m = ORMap().ormap("day").orset("who").add("eve", actor="a")
    there = m.ormap("day").orset("who").add("bob", actor="b")
    assert (m.remove("day") | there).value == {"day": {"who": frozenset({"bob"})}}
    removed = m.ormap("day").orset("who").discard("eve")
    assert removed.value == {}
    assert (removed | there).value == {"day": {"who": frozenset({"bob"})}}


def test_ormap_keeps_one_fragment_an_actor_and_none_that_is_dominated() -> None:
    m = ORMap()
    for i in range(30):
        m = m.set("name", i, actor=f"actor {i}")
        m = m.at("best", MaxInt, actor=f"actor {i % 3}").observe(i)
        m = m.counter("n").add(1, actor=f"actor {i % 3}")
    assert m.value == {"best": 29, "n": 30, "name": 29}
    fragments = {key[-4:]: payload[6] for key, payload in model.decode_framed(m.state)[1].items()}
    store = model.twin(model.ORMAP).decode(ORMap().set("name", 1, actor="a").state)[0]
    assert [len(facets[model.LWW]) for facets in store.values()] == [1]
    assert len(fragments) == 3
    assert len(m.state) < 700


def test_ormap_two_types_in_a_field_are_both_kept_and_both_removed() -> None:
    a = ORMap().at("f", MaxInt, actor="a").observe(1)
    b = ORMap().orset("f").add("x", actor="b")
    both = a | b
    assert both.value == {"f": frozenset({"x"})}
    assert (b.remove("f") | both).value == {"f": 1}
    assert both.remove("f").value == {}
    with pytest.raises(LatticeTypeError):
        arg = counted(values.member("f")) + bytes([MaxInt.tag, OP["observe"]]) + bytes(8)
        face.mutate(ORMap.tag, both.state, OP["update"], arg, 1)


def test_ormap_fields_need_an_actor_and_take_no_foreign_dots() -> None:
    with pytest.raises(TypeError, match="actor"):
        ORMap().at("best", MaxInt).observe(1)
    with pytest.raises(TypeError, match="actor"):
        ORMap().put("best", MaxInt().observe(1))
    with pytest.raises(TypeError, match="actor"):
        ORMap().ormap("day").at("best", MaxInt).observe(1)
    assert ORMap().ormap("day", actor="a").at("best", MaxInt).observe(1).value["day"]["best"] == 1
    with pytest.raises(TypeError):
        ORMap().put("set", ORSet().add(1, actor="a"), actor="a")
    assert ORMap().put("best", MaxInt().observe(1), actor="a")["best"] == 1


def test_a_map_inside_an_ormap_reads_as_a_map_and_goes_with_its_field() -> None:
    m = ORMap().at("deep", Map).orset("t").add(1, actor="a")
    m = m.at("deep", Map).counter("n").add(2, actor="a")
    inner = m.read("deep")
    assert type(inner) is Map
    assert Map.decode(bytes(inner)) == inner
    assert m.value == {"deep": {"n": 2, "t": frozenset({1})}}
    assert m.remove("deep").value == {}
    with pytest.raises(TypeError):
        nested = counted(b"x") + bytes([Map.tag, OP["remove"]]) + varint(1) + counted(b"t")
        face.mutate(ORMap.tag, m.state, OP["update"], nested, 1)


def nest(tag: int, depth: int) -> bytes:
    """The argument of an update `depth` maps deep, a flag at its end."""
    arg = counted(b"f") + bytes([Flag.tag, OP["enable"]])
    for _ in range(depth - 1):
        arg = counted(b"f") + bytes([tag, OP["update"]]) + arg
    return arg


@pytest.mark.parametrize("tag", [Map.tag, ORMap.tag])
def test_maps_nest_eight_deep_and_no_deeper(tag: int) -> None:
    state = face.mutate(tag, b"", OP["update"], nest(tag, 8), 1)
    face.verify(tag, state)
    with pytest.raises(ValueError, match="limit"):
        face.mutate(tag, b"", OP["update"], nest(tag, 9), 1)
    with pytest.raises(CorruptCellError):
        face.verify(tag, state, 1)
    deeper = model.framed(b"", {b"f": bytes([tag]) + state})
    with pytest.raises(CorruptCellError):
        face.verify(Map.tag, deeper)


def test_a_nested_cell_has_no_header_of_its_own() -> None:
    cell = face.make_cell(MaxInt.tag, bytes(8), generation=(1, 1, 1))
    arg = counted(b"f") + bytes([MaxInt.tag, OP["merge"]])
    for tag in (Map.tag, ORMap.tag):
        with pytest.raises(CorruptCellError):
            face.mutate(tag, b"", OP["update"], arg + cell, 1)
        with pytest.raises(CorruptCellError):
            face.mutate(tag, b"", OP["update"], arg + bytes(MaxInt().observe(1))[:-1], 1)
        with pytest.raises(LatticeTypeError):
            face.mutate(tag, b"", OP["update"], arg + bytes(Flag().set()), 1)


def test_a_nested_state_is_never_the_bottom() -> None:
    with pytest.raises(CorruptCellError):
        face.verify(Map.tag, model.framed(b"", {b"f": bytes([MaxInt.tag])}))
    context = model.Context([(1, 1)]).encode()
    empty = varint(1) + u64(1, 1) + counted(b"")
    for facet in (b"", counted(b"\0"), counted(empty)):
        payload = bytes([MaxInt.tag]) + facet if facet else b""
        with pytest.raises(CorruptCellError):
            face.verify(ORMap.tag, model.framed(context, {b"f": payload}))


def test_facets_ascend_and_do_not_repeat() -> None:
    context = model.Context([(1, 1), (1, 2)]).encode()

    def facet(tag: int, seq: int, state: bytes) -> bytes:
        return bytes([tag]) + counted(varint(1) + u64(1, seq) + counted(state))

    number, flag = facet(MaxInt.tag, 1, bytes(8)), facet(Flag.tag, 2, b"\1")
    face.verify(ORMap.tag, model.framed(context, {b"f": number + flag}))
    for payload in (number + number, flag + number, number + facet(MaxInt.tag, 2, bytes(8))):
        with pytest.raises(CorruptCellError):
            face.verify(ORMap.tag, model.framed(context, {b"f": payload}))


def test_unknown_and_user_types_do_not_stand_in_maps() -> None:
    assert model.judge(Map.tag, model.framed(b"", {b"f": b"\x63x"})) is False
    with pytest.raises(CorruptCellError):
        face.verify(Map.tag, model.framed(b"", {b"f": b"\x63x"}))
    with pytest.raises(TypeError):
        face.mutate(ORMap.tag, b"", OP["update"], counted(b"f") + b"\x16\1x", 1)


# --- the frame --------------------------------------------------------------------------------

DOTTED = [ORSet.tag, ORMap.tag, MVRegister.tag, Causal.tag, MultiCausal.tag]


@pytest.mark.parametrize("tag", [GSet.tag, OrderedSet.tag, Map.tag, *DOTTED])
def test_the_bottom_has_one_spelling(tag: int) -> None:
    face.verify(tag, b"")
    for spelled in (b"\0\0", counted(b"\0\0") + b"\0", b"\0", counted(b"\0\0")):
        with pytest.raises(CorruptCellError):
            face.verify(tag, spelled)


@pytest.mark.parametrize("tag", DOTTED)
def test_a_context_alone_is_a_state(tag: int) -> None:
    state = counted(model.Context([(1, 1), (2, 9)]).encode()) + b"\0"
    face.verify(tag, state)
    assert face.is_empty(tag, state)
    with pytest.raises(CorruptCellError):
        face.verify(tag, state + b"\0")
    with pytest.raises(CorruptCellError):
        face.verify(tag, state[:-1])


@pytest.mark.parametrize("n", [1, 63, 64, 65, 127, 128, 129, 200, 16_383, 16_384])
def test_counts_and_lengths_of_every_width(n: int) -> None:
    """The joined count may take fewer bytes than the sum of the two that it was made room for."""
    xs = range(n)
    same = GSet().update(xs)
    assert (same | GSet().update(xs)) == same
    assert len(GSet().update(range(0, n, 2)) | GSet().update(range(1, n, 2))) == n
    dotted = ORSet().update(xs, actor=1)
    other = dotted.update(xs, actor=2)
    face.verify(ORSet.tag, (dotted | other).state)
    assert (dotted | other) == other
    assert (dotted | other.clear()).value == set()
    assert (other.discard(0) | other) == other.discard(0)
    long = "k" * n
    assert (GSet().add(long) | GSet().add(long + "k")).value == {long, long + "k"}


def test_a_member_has_a_dot_for_each_concurrent_addition() -> None:
    x = ORSet()
    for actor in range(1, 20):
        x |= ORSet().add("x", actor=actor)
    assert [len(dots) for dots in model.decode_framed(x.state)[1].values()] == [19 * 16]
    face.verify(ORSet.tag, x.state)
    some = ORSet()
    for actor in range(1, 12):
        some |= ORSet().add("x", actor=actor)
    assert (some.clear() | x).value == {"x"}
    assert (x.clear() | some) == x.clear()


# --- all of them ------------------------------------------------------------------------------

SAMPLES: list[Any] = [
    GSet().add("x"),
    OrderedSet().update([3, 1]),
    ORSet().update("abc", actor="a").discard("b"),
    MVRegister().set([1, 2], actor="a") | MVRegister().set(None, actor="b"),
    Causal().set({"k": 1.5}, actor="a"),
    MultiCausal().set(b"v", actor="a", dependencies={"k": b""}),
    Map().put("g", GCounter().add(1, actor="a")).put("r", LWW().set("v", actor="a")),
    ORMap().ormap("o").counter("n").add(1, actor="a").orset("s").add(1, actor="b"),
]


@pytest.mark.parametrize("x", SAMPLES, ids=lambda x: x.kind)
def test_faces(x: Any) -> None:
    assert type(x).decode(bytes(x)) == x == from_cell(bytes(x))
    assert pickle.loads(pickle.dumps(x)) == x
    assert hash(x) == hash(type(x).decode(bytes(x)))
    assert type(x)() <= x <= x
    assert not x < x
    assert (x | type(x)()) == x
    assert type(x).__name__ in repr(x)
    with pytest.raises(LatticeTypeError):
        x | (Flag() if not isinstance(x, Flag) else GSet())
    assert isinstance(x, CellLattice)


@pytest.mark.parametrize("x", SAMPLES, ids=lambda x: x.kind)
def test_every_truncation_and_bit_flip(x: Any) -> None:
    cell, state = bytes(x), x.state
    for at in range(len(cell)):
        with pytest.raises(CorruptCellError):
            type(x).decode(cell[:at])
    for bit in range(8 * len(state)):
        broken = bytearray(state)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            face.verify(x.tag, bytes(broken))
        except CorruptCellError:
            assert model.judge(x.tag, bytes(broken)) is not True
        else:
            assert model.judge(x.tag, bytes(broken)) is not False
