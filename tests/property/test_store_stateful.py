"""A store against a plain dict, by any sequence of public methods, in every mode.

Each rule does one thing to the store and to the model and compares what they say; the invariant
compares all contents. `covers` names the public methods that a rule stands for, and a test asserts
that no public method of Store is without one.
"""
from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import annapy
from annapy import lattice
from tests.model.store_model import Mismatch, StoreModel

LONG = os.environ.get("ANNAPY_PROFILE") == "long"
COVERED: set[str] = set()

KEYS = ["", "a", "a:1", "a:2", "b", "é", "日本", "\udcff", "k" * 700, "k" * 700 + "2"]
keys = st.sampled_from(KEYS)
prefixes = st.sampled_from(["", "a", "a:", "k", "none", "é"])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-5, 5), st.floats(allow_nan=False),
    st.text(max_size=20), st.binary(max_size=20), st.datetimes(), st.dates(), st.times(),
    st.timedeltas(), st.uuids(), st.decimals(allow_nan=False),
)
hashables = st.one_of(st.integers(-3, 3), st.text(max_size=3), st.tuples(st.integers(0, 2)))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner),
        st.dictionaries(hashables, inner, max_size=3), st.sets(hashables, max_size=3),
        st.frozensets(hashables, max_size=3)),
    max_leaves=6)
small = st.integers(-100, 100)
EXTREMES = ["maxint", "minint", "maxfloat", "minfloat"]


def covers(*names: str) -> Callable[[Any], Any]:
    COVERED.update(names)
    return lambda function: function


def exact(x: Any) -> Any:
    """A value with its types, so that 1, 1.0 and True differ."""
    if isinstance(x, dict):
        return ("dict", {exact(k): exact(v) for k, v in x.items()})
    if isinstance(x, (list, tuple)):
        return (type(x).__name__, tuple(exact(v) for v in x))
    if isinstance(x, (set, frozenset)):
        return (type(x).__name__, frozenset(exact(v) for v in x))
    if isinstance(x, int) and not isinstance(x, bool):
        return ("int", int(x))
    return (type(x).__name__, x)


class StoreMachine(RuleBasedStateMachine):
    """What every mode shares."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="annapy-"))
        self.model = StoreModel()
        self.store = self.open()

    def open(self) -> annapy.Store:
        return annapy.open(self.folder / "s" if self.durable else "mem://", capacity="4MiB",
                           shards=1)     # one, so that a run replays: popitem follows its order

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def both(self, modelled: Callable[[], Any], done: Callable[[], Any]) -> Any:
        """Do it twice; the same result, or a mismatch of kinds in both."""
        try:
            expected = modelled()
        except Mismatch:
            with pytest.raises(annapy.LatticeTypeError):
                done()
            return None
        got = done()
        assert exact(got) == exact(expected)
        return got

    # --- registers ------------------------------------------------------------------------------

    @covers("set", "get", "options")
    @rule(key=keys, value=values, how=st.sampled_from(["item", "set", "label", "mortal", "view"]))
    def set(self, key: str, value: Any, how: str) -> None:
        def done() -> None:
            if how == "item":
                self.store[key] = value
            elif how == "label":
                self.store.set(key, value, tag="label")
            elif how == "mortal":
                self.store.set(key, value, ttl="1h")
            elif how == "view":
                self.store.options(ttl=3600, errors="miss")[key.encode("utf-8", "surrogateescape")
                                                            ] = value
            else:
                self.store.set(key, value, ack=None)

        label = "label" if how == "label" else None
        self.both(lambda: self.model.set(key, value, mortal=how in ("mortal", "view"), label=label),
                  done)
        if key in self.model.cells:
            assert exact(self.store.get(key)) == exact(self.model.value(key))

    @covers("add", "setdefault")
    @rule(key=keys, value=values, how=st.booleans())
    def add(self, key: str, value: Any, how: bool) -> None:
        if how:
            assert self.store.add(key, value) is self.model.add(key, value)
        else:
            self.model.add(key, value)
            assert exact(self.store.setdefault(key, value)) == exact(self.model.value(key))

    @covers("cas")
    @rule(key=keys, new=small, right=st.booleans())
    def cas(self, key: str, new: int, right: bool) -> None:
        cell = self.model.cells.get(key)
        if cell is None or cell.kind != "register":
            assert self.store.cas(key, object, new) is False
        elif right:
            assert self.store.cas(key, cell.value, new) is True
            self.model.set(key, new, label=cell.label)
        else:
            assert self.store.cas(key, [cell.value], new) is False

    # --- any kind -------------------------------------------------------------------------------

    @covers("delete", "pop")
    @rule(key=keys, how=st.sampled_from(["delete", "del", "pop", "default"]))
    def delete(self, key: str, how: str) -> None:
        there = key in self.model.cells
        value = self.model.value(key) if there else None
        self.model.delete(key)
        if how == "delete":
            assert self.store.delete(key) is there
        elif how == "default":
            assert exact(self.store.pop(key, None)) == exact(value)
        elif there and how == "pop":
            assert exact(self.store.pop(key)) == exact(value)
        elif there:
            del self.store[key]
        else:
            with pytest.raises(KeyError):
                self.store.pop(key)

    @covers("popitem")
    @rule()
    def popitem(self) -> None:
        if not self.model.cells:
            with pytest.raises(KeyError):
                self.store.popitem()
            return
        key, value = self.store.popitem()
        assert exact(value) == exact(self.model.value(key))
        self.model.delete(key)

    @covers("touch", "ttl")
    @rule(key=keys, mortal=st.booleans())
    def touch(self, key: str, mortal: bool) -> None:
        assert self.store.touch(key, ttl=3600 if mortal else None) is \
            self.model.touch(key, mortal=mortal)
        if key in self.model.cells:
            assert (self.store.ttl(key) is not None) is mortal
        else:
            with pytest.raises(KeyError):
                self.store.ttl(key)

    @rule(key=keys)
    def expire(self, key: str) -> None:
        if self.store.touch(key, ttl=0.001):
            time.sleep(0.012)           # the clock that deadlines are judged by ticks coarsely
        self.model.delete(key)

    @covers("clear")
    @rule(prefix=st.sampled_from(["a:", "k", "none"]))
    def clear(self, prefix: str) -> None:
        self.store.clear(prefix)
        self.model.clear(prefix)

    @covers("evict")
    @rule()
    def evict(self) -> None:
        assert self.store.evict("label") == self.model.evict("label")

    @covers("kind", "read", "info", "conflicts", "merge")
    @rule(key=keys)
    def read_and_merge(self, key: str) -> None:
        cell = self.model.cells.get(key)
        assert self.store.kind(key) == (cell.kind if cell else None)
        found = self.store.read(key)
        assert (found is None) is (cell is None)
        assert self.store.conflicts() == []
        if found is not None:
            self.store.merge(key, found)        # idempotent
            assert self.store.info(key)["kind"] == found.kind

    # --- many keys ------------------------------------------------------------------------------

    @covers("set_many", "update", "delete_many", "get_many")
    @rule(chosen=st.lists(keys, max_size=4, unique=True), value=small, how=st.integers(0, 2))
    def many(self, chosen: list[str], value: int, how: int) -> None:
        got = self.store.get_many(chosen, snapshot=how == 0)
        there = [k for k in chosen if k in self.model.cells]
        assert exact(got) == exact({k: self.model.value(k) for k in there})
        if how == 0:
            expected = sum(self.model.delete(k) for k in chosen)
            assert self.store.delete_many(chosen) == expected
            return
        free = [k for k in chosen
                if k not in self.model.cells or self.model.cells[k].kind == "register"]
        items = dict.fromkeys(free, value)
        (self.store.set_many if how == 1 else self.store.update)(items)
        for key in free:
            self.model.set(key, value)

    @covers("scan", "keys", "items", "values", "namespace")
    @rule(prefix=prefixes, start=st.none() | keys, stop=st.none() | keys, reverse=st.booleans(),
          limit=st.none() | st.integers(0, 4))
    def scan(self, prefix: str, start: str | None, stop: str | None, reverse: bool,
             limit: int | None) -> None:
        got = list(self.store.scan(prefix, start=start, stop=stop, reverse=reverse, limit=limit))
        expected = self.model.scan(prefix, start, stop, reverse=reverse, limit=limit)
        assert exact(got) == exact(expected)
        assert sorted(self.store.keys(prefix)) == sorted(self.model.order(prefix))
        view = self.store.namespace(prefix)
        assert len(view) == len(view.items()) == len(list(view.values())) == \
            len(self.model.order(prefix))
        assert {prefix + key for key in view} == set(self.model.order(prefix))

    @covers("batch")
    @rule(key=keys, other=keys, value=values, amount=small, fail=st.booleans())
    def batch(self, key: str, other: str, value: Any, amount: int, fail: bool) -> None:
        before = {k: copy.copy(cell) for k, cell in self.model.cells.items()}
        try:
            self.model.set(key, value)
            self.model.count(other, amount)
        except Mismatch:
            self.model.cells = before
            with pytest.raises(annapy.LatticeTypeError), self.store.batch() as b:
                b[key] = value
                b.counter(other).add(amount)
            return
        if fail:
            self.model.cells = before
        try:
            with self.store.batch() as b:
                b[key] = value
                b.counter(other).add(amount)
                if fail:
                    raise InterruptedError
        except InterruptedError:
            assert fail

    # --- lattices -------------------------------------------------------------------------------

    @covers("counter", "incr")
    @rule(key=keys, amount=small, how=st.sampled_from(["add", "sub", "incr", "plus"]))
    def count(self, key: str, amount: int, how: str) -> None:
        if how == "incr":
            self.both(lambda: self.model.count(key, amount), lambda: self.store.incr(key, amount))
        elif how == "sub":
            self.both(lambda: self.model.tally(key, -amount),
                      lambda: self.store.counter(key).sub(amount))
        elif how == "plus" and key in self.model.cells and self.model.cells[key].kind == "counter":
            self.store[key] += amount
            self.model.count(key, amount)
        else:
            self.both(lambda: self.model.tally(key, amount),
                      lambda: self.store.counter(key).add(amount))

    @covers("maxint", "minint", "maxfloat", "minfloat")
    @rule(key=keys, number=small, kind=st.sampled_from(EXTREMES))
    def observe(self, key: str, number: int, kind: str) -> None:
        amount = float(number) if "float" in kind else number
        self.both(lambda: self.model.observe(key, kind, amount),
                  lambda: getattr(self.store, kind)(key).observe(amount))

    @covers("flag", "priority", "register")
    @rule(key=keys, value=small)
    def flags_and_registers(self, key: str, value: int) -> None:
        self.both(lambda: self.model.enable(key), lambda: self.store.flag(key).set())
        register = key + "r"
        self.both(lambda: self.model.set(register, value),
                  lambda: self.store.register(register).set(value))
        self.model.observe(key + "p", "priority", value)
        self.store.priority(key + "p").offer(float(value), value)

    @covers("gset", "orset", "ordered_set", "hll")
    @rule(key=keys, xs=st.sets(st.integers(0, 9), min_size=1, max_size=4),
          kind=st.sampled_from(["gset", "orset", "ordered_set", "hll"]))
    def unite(self, key: str, xs: set[int], kind: str) -> None:
        self.both(lambda: self.model.unite(key, kind, xs),
                  lambda: getattr(self.store, kind)(key).update(xs))
        self.both(lambda: self.model.look(key, kind),
                  lambda: getattr(self.store, kind)(key).value)

    @rule(key=keys, xs=st.sets(st.integers(0, 9), max_size=6), all_of_it=st.booleans())
    def remove(self, key: str, xs: set[int], all_of_it: bool) -> None:
        if key in self.model.cells and self.model.emptied(key):
            return                      # an empty map is as free for a set as no key at all
        if all_of_it:
            xs = set(range(10))
        self.both(lambda: self.model.drop(key, xs) if xs else None,
                  lambda: self.store.orset(key).difference_update(xs))

    @covers("mvregister", "causal", "multicausal")
    @rule(key=keys, value=values, kind=st.sampled_from(["mvregister", "causal", "multicausal"]))
    def assign(self, key: str, value: Any, kind: str) -> None:
        self.both(lambda: self.model.assign(key, kind, value),
                  lambda: getattr(self.store, kind)(key).set(value))

    @covers("map", "ormap")
    @rule(key=keys, field=st.integers(0, 2), value=values, kind=st.sampled_from(["map", "ormap"]))
    def fields(self, key: str, field: int, value: Any, kind: str) -> None:
        self.both(lambda: self.model.field_set(key, kind, field, value),
                  lambda: getattr(self.store, kind)(key).set(field, value))
        self.both(lambda: self.model.field_count(key, kind, "n", 1),
                  lambda: getattr(self.store, kind)(key).counter("n").add(1))

    @rule(key=keys, field=st.sampled_from([0, 1, 2, "n"]))
    def drop_field(self, key: str, field: Any) -> None:
        if key in self.model.cells and self.model.emptied(key):
            return
        self.both(lambda: self.model.field_drop(key, field),
                  lambda: self.store.ormap(key).discard(field))

    @covers("sumarray", "maxarray", "lattice", "pin")
    @rule(numbers=st.lists(small, min_size=2, max_size=2))
    def arrays(self, numbers: list[int]) -> None:
        total, top = self.store.sumarray("sum", 2, "i8"), self.store.maxarray("max", 2, "i8")
        before = total.value.tolist()
        total.add(numbers)
        assert total.value.tolist() == [a + b for a, b in zip(before, numbers, strict=True)]
        before = top.value.tolist()
        top.observe(numbers)
        assert top.value.tolist() == [max(a, b) for a, b in zip(before, numbers, strict=True)]
        with self.store.pin("max") as view:
            assert view.nbytes == 16
        largest = self.store.lattice("user", Largest)
        expected = max(largest.value, numbers[0])
        largest.merge(Largest(numbers[0]))
        assert largest.value == expected
        for key in ("sum", "max", "user"):
            self.store.delete(key)

    # --- the rest -------------------------------------------------------------------------------

    @covers("memoize", "lock", "watch", "warm", "stats", "url", "closed")
    @rule(n=small)
    def around(self, n: int) -> None:
        @self.store.memoize(key="memo:{n}")
        def double(n: int) -> int:
            return 2 * n

        with self.store.lock("l"), self.store.watch("memo:", timeout=1) as events:
            assert double(n) == double(n) == 2 * n
            assert next(events) == annapy.Event(f"memo:{n}", "set", "local")
        double.invalidate(n)
        assert self.store.warm() == len(self.model.cells)
        assert self.store.stats()["live"] == len(self.model.cells)
        assert self.store.closed is False
        assert (self.store.url is None) is not self.durable

    @covers("close", "flush", "backup")
    @rule(how=st.sampled_from(["flush", "reopen", "backup", "drop"]))
    def life(self, how: str) -> None:
        if how == "flush" or not self.durable:
            self.store.flush()
        elif how == "backup":
            copy = self.folder / f"copy-{len(list(self.folder.iterdir()))}"
            self.store.backup(copy)
            assert copy.exists()
        else:
            if how == "reopen":
                self.store.close()
            del self.store
            self.store = self.open()

    @precondition(lambda self: self.durable)
    @rule()
    def fill(self) -> None:
        """More than memory holds, so that everything else is demoted, then faulted in again."""
        filler = "x" * 100_000
        for n in range(60):
            self.store[f"filler:{n}"] = filler
        self.store.clear("filler:")

    @invariant()
    def contents(self) -> None:
        expected = self.model.contents()
        assert exact(dict(self.store.items())) == exact(expected)
        assert len(self.store) == len(expected)
        assert set(self.store) == set(expected)


class Largest(lattice.Lattice, name="tests.property.largest"):
    """The greatest number seen, as a user would write it."""

    def __init__(self, number: int = -1000) -> None:
        self.number = number

    def join(self, other: Largest) -> Largest:
        return Largest(max(self.number, other.number))

    def encode(self) -> bytes:
        return str(self.number).encode()

    @classmethod
    def decode(cls, data: Any) -> Largest:
        return cls(int(bytes(data)))

    @property
    def value(self) -> int:
        return self.number


class DirMachine(StoreMachine):
    """Over a directory: closing and opening again keeps everything."""

    durable = True


settings_here = settings(max_examples=5_000 if LONG else 60, stateful_step_count=40, deadline=None)
TestMem = StoreMachine.TestCase
TestMem.settings = settings_here
TestDir = DirMachine.TestCase
TestDir.settings = settings(settings_here, max_examples=5_000 if LONG else 40)


def test_every_public_method_has_a_rule() -> None:
    public = {name for name in dir(annapy.Store) if not name.startswith("_")} - {"engine"}
    assert public - COVERED == set()
    assert COVERED - public == set()
