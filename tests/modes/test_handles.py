"""Typed handles: names, not objects; each kind as the Python type that it resembles."""
from __future__ import annotations

import collections.abc
import copy
import pickle
from typing import Any

import pytest

import annapy
from annapy import lattice

SCALARS: list[tuple[str, list[tuple[str, tuple[Any, ...]]], Any, Any]] = [
    ("counter", [("add", (3,)), ("sub", (1,)), ("add", ())], 0, 3),
    ("maxint", [("observe", (4,)), ("observe", (9,)), ("observe", (-1,))], None, 9),
    ("minint", [("observe", (4,)), ("observe", (-9,)), ("observe", (1,))], None, -9),
    ("maxfloat", [("observe", (1.5,)), ("observe", (0,))], None, 1.5),
    ("minfloat", [("observe", (1.5,)), ("observe", (-0.0,))], None, 0.0),
    ("flag", [("set", ())], False, True),
    ("priority", [("offer", (2.5, "b")), ("offer", (1, ["a"])), ("offer", (3, "c"))], None, ["a"]),
    ("register", [("set", (1,)), ("set", ({"x": 2},))], None, {"x": 2}),
    ("mvregister", [("set", (1,)), ("set", (2,))], None, 2),
    ("causal", [("set", (1,)), ("set", (2,))], None, 2),
    ("multicausal", [("set", (1,)), ("set", (2,))], None, 2),
    ("gset", [("add", (1,)), ("add", ("a",))], frozenset(), frozenset({1, "a"})),
    ("orset", [("add", (1,)), ("add", (2,)), ("discard", (1,))], frozenset(), frozenset({2})),
    ("ordered_set", [("add", (3,)), ("add", (1,)), ("add", (3,))], (), (1, 3)),
    ("map", [("set", ("f", 1))], {}, {"f": 1}),
    ("ormap", [("set", ("f", 1)), ("set", ("g", 2)), ("discard", ("f",))], {}, {"g": 2}),
    ("hll", [("add", ("x",)), ("add", ("y",)), ("update", (["x", "z"],))], 0, 3),
]


@pytest.mark.parametrize(("kind", "calls", "bottom", "result"), SCALARS, ids=lambda x: str(x)[:12])
def test_every_kind(s: annapy.Store, kind: str, calls: Any, bottom: Any, result: Any) -> None:
    handle = getattr(s, kind)("k")
    assert handle.value == bottom
    assert "k" not in s
    for name, arguments in calls:
        getattr(handle, name)(*arguments)
    assert handle.value == result
    assert s["k"] == result
    assert s.kind("k") == kind == handle.kind
    assert handle.key == "k"
    assert handle.read() == s.read("k")
    getattr(s, kind)("other").merge(handle.read())
    assert getattr(s, kind)("other").value == result
    assert handle.delete() is True
    assert handle.delete() is False
    assert handle.value == bottom
    assert "k" not in s


@pytest.mark.parametrize("kind", [row[0] for row in SCALARS])
def test_a_mismatch_raises_at_the_first_operation(s: annapy.Store, kind: str) -> None:
    if kind == "register":
        s.counter("k").add(1)
    else:
        s["k"] = 1
    before = s["k"]
    handle = getattr(s, kind)("k")
    name, arguments = next((calls[0] for row, calls, _, _ in SCALARS if row == kind))
    for call in (lambda: getattr(handle, name)(*arguments), lambda: handle.value,
                 handle.delete, handle.read, lambda: handle.merge(lattice.LWW())):
        with pytest.raises(annapy.LatticeTypeError):
            call()
    assert s["k"] == before
    with pytest.raises(annapy.LatticeTypeError) as caught:
        handle.read()
    assert caught.value.expected == kind
    assert "'k'" in str(caught.value)


def test_handles_are_cached_while_held(s: annapy.Store) -> None:
    held = s.counter("a")
    assert s.counter("a") is held
    assert s.counter(b"a") is held
    assert s.counter("b") is not held
    assert s.maxint("a") is not held
    assert copy.copy(s) is not None if s.url else True
    del held
    assert not s.__dict__.get("_handles", {}).get(("Counter", b"a"))


def test_handles_pickle_with_their_store(mode: Any) -> None:
    s = mode.open()
    s.counter("n").add(2)
    handles = [s.counter("n"), s.orset("o"), s.ormap("m").counter("f"), s.sumarray("a", (2,), "f4")]
    if not mode.durable:
        for handle in handles:
            with pytest.raises(TypeError, match="in memory"):
                pickle.dumps(handle)
        return
    again = [pickle.loads(pickle.dumps(handle)) for handle in handles]
    assert again[0].value == 2
    again[2].add(5)
    assert s["m"] == {"f": 5}
    assert again[3].shape == (2,)
    for handle in (again[0], again[1]):
        handle._scope.close()


def test_counter_arguments(s: annapy.Store) -> None:
    with pytest.raises(TypeError):
        s.counter("n").add("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        s.counter("n").add(1.5)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        s.counter("n").add(2**63)
    s.counter("n").add(True)
    s.counter("n").sub(-(2**62))
    assert int(s.counter("n")) == 2**62 + 1
    assert list(range(5))[s.counter("n").value - 2**62] == 1


def test_floats_that_have_no_order_are_refused(s: annapy.Store) -> None:
    for call in (lambda: s.maxfloat("f").observe(float("nan")),
                 lambda: s.priority("p").offer(float("nan"), 1)):
        with pytest.raises(ValueError, match="NaN"):
            call()
    with pytest.raises(TypeError):
        s.maxfloat("f").observe("1.5")
    with pytest.raises(OverflowError):
        s.maxint("i").observe(2**63)


def test_sets_are_sets(s: annapy.Store) -> None:
    g, o = s.gset("g"), s.orset("o")
    assert isinstance(g, collections.abc.Set)
    assert isinstance(o, collections.abc.MutableSet)
    g.update([1, 2], "ab")
    o |= {1, "b", 5}
    assert g == {1, 2, "a", "b"}
    assert g & o == {1, "b"}
    assert o - g == {5}
    assert (g | {9}) >= {9, 1}
    assert 1.0 in g
    assert [1] not in g
    assert True in g                    # members equal in Python are one member
    o -= {5}
    o.remove("b")
    with pytest.raises(KeyError):
        o.remove("b")
    assert sorted(o) == [1]
    assert len(o) == 1
    assert o.pop() == 1
    o.update([1, 2, 3])
    o.clear()
    assert not o
    assert "o" not in s or s["o"] == frozenset()
    with pytest.raises(TypeError):
        o.add([1])
    with pytest.raises(TypeError):
        hash(o)


def test_ordered_set_is_a_sorted_sequence(s: annapy.Store) -> None:
    o = s.ordered_set("o")
    assert isinstance(o, collections.abc.Sequence)
    o.update([5, 3, 9], [3.0, 1])
    assert list(o) == [1, 3, 5, 9]
    assert o[0] == 1
    assert o[-1] == 9
    assert o[1:3] == (3, 5)
    assert o.index(5) == 2
    assert o.count(3) == 1
    assert o == (1, 3, 5, 9)
    assert list(reversed(o)) == [9, 5, 3, 1]
    with pytest.raises(IndexError):
        o[4]


def test_maps_are_mappings(s: annapy.Store) -> None:
    m = s.ormap("m")
    assert isinstance(m, collections.abc.MutableMapping)
    m["sku"] = 2
    m[5] = [1]
    m.update(a=1)
    assert dict(m) == {"sku": 2, 5: [1], "a": 1}
    assert m == {"sku": 2, 5: [1], "a": 1}
    assert m.pop("a") == 1
    assert m.get("a") is None
    assert m.setdefault("b", 3) == 3
    assert 5.0 in m
    with pytest.raises(KeyError):
        m["none"]
    with pytest.raises(KeyError):
        del m["none"]
    m.clear()
    assert len(m) == 0
    fixed = s.map("fixed")
    fixed["a"] = 1
    with pytest.raises(annapy.LatticeTypeError, match="never removed"):
        del fixed["a"]
    assert fixed["a"] == 1


def test_nested_handles(s: annapy.Store) -> None:
    m = s.ormap("cart")
    m.counter("n").add(3)
    m.orset("tags").update(["x", "y"])
    m.orset("tags").discard("x")
    m.ormap("inner").counter("deep").add(1)
    m.ormap("inner")["r"] = "v"
    m.maxint("hi").observe(4)
    m.flag("on").set()
    assert m.value == {"n": 3, "tags": frozenset({"y"}), "inner": {"deep": 1, "r": "v"}, "hi": 4,
                       "on": True}
    assert s["cart"] == m.value
    assert m.counter("n").key == "n"
    assert m.counter("n") == m.counter("n")
    assert m.counter("n") != m.counter("m")
    m["n"] += 4
    assert m["n"] == 7
    with pytest.raises(annapy.LatticeTypeError):
        m["n"] = 5
    with pytest.raises(annapy.LatticeTypeError):
        m.orset("n").add(1)
    m.counter("n").merge(lattice.PNCounter().add(10, actor="a"))
    assert m["n"] == 17
    assert m.counter("n").delete() is True
    assert m.counter("n").delete() is False
    assert "n" not in m
    with pytest.raises(ValueError, match="cannot expire"):
        m.register("r").set(1, ttl=5)


def test_nesting_has_a_floor(s: annapy.Store) -> None:
    m = s.ormap("m")
    for _ in range(7):
        m = m.ormap("x")
    m["leaf"] = 1
    with pytest.raises(ValueError, match="limit"):
        m.ormap("x")["leaf"] = 1


def test_causal_siblings(s: annapy.Store) -> None:
    c = s.causal("c")
    c.set("a")
    seen = c.read()
    c.set("b", after=seen)
    c.set("c", after=seen)              # whoever wrote this had not seen "b"
    assert sorted(c.siblings) == ["b", "c"]
    assert c.value in c.siblings
    assert c.clock == c.read().clock
    c.set("d")
    assert c.siblings == ("d",)
    with pytest.raises(TypeError, match="after="):
        c.set("e", after=lattice.GCounter())
    s.multicausal("m").set("v", depends={"c": c.read()})
    assert s.multicausal("m").siblings == ("v",)
    with pytest.raises(TypeError, match="depends="):
        s.multicausal("m").set("v", depends={"c": lattice.GCounter()})


def test_arrays(s: annapy.Store) -> None:
    numpy = pytest.importorskip("numpy")
    total = s.sumarray("w", (2, 3), "float32")
    assert (total.value == 0).all()
    for _ in range(3):
        total.add(numpy.ones((2, 3), "f4"))
    total.add([[1, 2, 3], [4, 5, 6]])
    assert (total.value == numpy.array([[4, 5, 6], [7, 8, 9]])).all()
    assert total.value.dtype == "float32"
    assert (s["w"] == total.value).all()
    top = s.maxarray("m", 3, int)
    top.observe([1, 5, 2])
    top.observe(numpy.array([3, 1, 1]))
    assert top.value.tolist() == [3, 5, 2]
    assert s.maxarray("none", 2).value.tolist() == [-numpy.inf] * 2
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        top.observe([1, 2])
    with pytest.raises(TypeError, match="astype"):
        top.observe([1.5, 2.5, 3.5])
    with pytest.raises(ValueError, match="shape"):
        s.sumarray("w", (3, 2), "float32").add(numpy.ones((3, 2)))
    with pytest.raises(ValueError, match="float64"):
        assert s.sumarray("w", (2, 3), "float64").value
    with pytest.raises(ValueError, match="NaN"):
        s.maxarray("f", 1).observe([float("nan")])
    with pytest.raises(TypeError, match="dtype"):
        s.sumarray("s", 3, "U5")
    with pytest.raises(ValueError, match="shape="):
        s.sumarray("s", -3)


class Interval(annapy.Lattice, name="tests.modes.interval"):
    """Grows at both ends."""

    def __init__(self, low: int | None = None, high: int | None = None) -> None:
        self.low, self.high = low, high

    def join(self, other: Interval) -> Interval:
        known = [x for x in (self, other) if x.low is not None]
        return Interval(min((x.low for x in known), default=None),
                        max((x.high for x in known), default=None))

    def encode(self) -> bytes:
        return b"" if self.low is None else f"{self.low},{self.high}".encode()

    @classmethod
    def decode(cls, data: Any) -> Interval:
        return cls(*(int(x) for x in bytes(data).decode().split(","))) if data else cls()

    @property
    def value(self) -> tuple[int | None, int | None]:
        return (self.low, self.high)


class Other(Interval, name="tests.modes.other"):
    """Another lattice with the same code."""


def test_user_lattices(s: annapy.Store) -> None:
    handle = s.lattice("i", Interval)
    assert handle.value == (None, None)
    handle.merge(Interval(3, 4))
    s.merge("i", Interval(1, 2))
    handle.merge(Interval(3, 4))
    assert s["i"] == (1, 4)
    assert handle.value == (1, 4)
    assert s.read("i") == Interval(1, 4)
    assert s.kind("i") == "lattice"
    with pytest.raises(annapy.LatticeTypeError, match="Interval"):
        handle.merge(lattice.GCounter())
    with pytest.raises(annapy.LatticeTypeError, match=r"tests.modes.other"):
        s.lattice("i", Other).merge(Other(1, 2))
    with s.batch() as b:
        b.merge("i", Interval(0, 9))
    assert s["i"] == (0, 9)


def test_grow_only_counters_stay_so(s: annapy.Store) -> None:
    s.merge("g", lattice.GCounter().add(3, actor="a"))
    s.counter("g").add(2)
    s["g"] += 1
    assert s["g"] == 6
    assert s.counter("g").value == 6
    assert s.incr("g", 2) == 8
    with pytest.raises((ValueError, TypeError, OverflowError)):
        s.counter("g").sub(1)
    assert s.kind("g") == "gcounter"


def test_handles_keep_their_store_alive(mode: Any) -> None:
    handle = annapy.open(mode.path if mode.durable else None, capacity="8MiB").counter("n")
    handle.add(1)
    assert handle.value == 1
    handle._scope.close()
    with pytest.raises(annapy.StoreClosed):
        handle.add(1)
    with pytest.raises(annapy.StoreClosed):
        assert handle.value
