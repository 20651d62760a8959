"""Operations on single keys: registers, counters as values, lifetimes, reading and merging."""
from __future__ import annotations

import datetime
import threading
import time
from typing import Any

import pytest

import annapy
from annapy.lattice import GCounter, MaxInt


def test_set_get_delete(s: annapy.Store) -> None:
    s["a"] = 1
    s.set("a", [1, {"b": (2, 3)}])
    assert s["a"] == [1, {"b": (2, 3)}]
    assert s.delete("a") is True
    assert s.delete("a") is False
    s["a"] = None
    assert "a" in s
    assert s.get("a", 5) is None


def test_add_is_for_missing_keys_only(s: annapy.Store) -> None:
    assert s.add("k", 1) is True
    assert s.add("k", 2) is False
    assert s["k"] == 1
    del s["k"]
    assert s.add("k", 3) is True


def test_cas(s: annapy.Store) -> None:
    assert s.cas("k", None, 1) is False
    s["k"] = {"v": 1}
    assert s.cas("k", {"v": 2}, 9) is False
    assert s.cas("k", {"v": 1}, {"v": 2}) is True
    assert s["k"] == {"v": 2}


def test_cas_by_many_threads_loses_nothing(s: annapy.Store) -> None:
    s["n"] = 0

    def work() -> None:
        for _ in range(50):
            while not s.cas("n", seen := s["n"], seen + 1):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert s["n"] == 200


def test_pop_and_setdefault(s: annapy.Store) -> None:
    assert s.pop("k", 7) == 7
    assert s.setdefault("k", [1]) == [1]
    assert s.setdefault("k", [2]) == [1]
    assert s.setdefault("none") is None
    assert s.pop("k") == [1]
    s.counter("c").add(4)
    assert s.setdefault("c", 9) == 4
    assert s.pop("c") == 4
    assert "c" not in s


def test_incr(s: annapy.Store) -> None:
    assert s.incr("n") == 1
    assert s.incr("n", 5) == 6
    assert s.incr("n", -10) == -4
    assert s.kind("n") == "counter"
    assert type(s.incr("n")) is int


def test_plus_equals_on_a_counter_joins_the_delta_once(s: annapy.Store) -> None:
    s.counter("hits").add(10)
    s["hits"] += 1
    assert s["hits"] == 11
    seen = s["hits"]
    s.counter("hits").add(100)          # somebody else, between the read and the write
    seen += 5
    seen -= 2
    s["hits"] = seen
    assert s["hits"] == 114
    s["hits"] = seen                    # once is once
    assert s["hits"] == 114
    seen += 1
    s["hits"] = seen
    assert s["hits"] == 115


def test_plus_equals_branches_share_their_past(s: annapy.Store) -> None:
    s.counter("n").add(1)
    base = s["n"]
    base += 10
    left = right = base
    left += 1
    right += 2
    s["n"] = left
    s["n"] = right
    assert s["n"] == 14


def test_a_count_elsewhere_is_a_plain_int(s: annapy.Store) -> None:
    s.counter("n").add(3)
    count = s["n"]
    count += 1
    s["copy"] = count
    assert s.kind("copy") == "register"
    assert type(s["copy"]) is int
    assert s["copy"] == 4
    assert type(count + 1) is int
    assert s["n"] == 3
    with pytest.raises(annapy.LatticeTypeError, match=r"'n' holds a counter.*register"):
        s["n"] = count + 1
    with pytest.raises(annapy.LatticeTypeError):
        s["n"] = 5
    with pytest.raises(KeyError):
        s["missing"] += 1


def test_counter_overflow_changes_nothing(s: annapy.Store) -> None:
    s.counter("n").add(2**63 - 2)
    with pytest.raises(OverflowError):
        s.counter("n").add(2)
    with pytest.raises(OverflowError):
        s.incr("n", 2**64)
    assert s["n"] == 2**63 - 2
    assert s.incr("n") == 2**63 - 1


@pytest.mark.parametrize("ttl", [30, 30.0, "30s", "0.5m", datetime.timedelta(seconds=30)])
def test_ttl_forms(s: annapy.Store, ttl: Any) -> None:
    s.set("k", 1, ttl=ttl)
    left = s.ttl("k")
    assert left is not None
    assert 25 < left <= 30


def test_ttl_runs_out(s: annapy.Store) -> None:
    s.set("k", 1, ttl=0.05)
    s.set("stay", 1)
    s.counter("c").add(1)
    s.touch("c", ttl="50ms")
    assert s.ttl("stay") is None
    assert len(s) == 3
    time.sleep(0.12)
    assert "k" not in s
    assert "c" not in s
    assert list(s) == ["stay"]
    assert len(s) == 1
    assert s.get("k", 5) == 5
    with pytest.raises(KeyError):
        s.ttl("k")
    s.counter("c").add(2)               # a fresh life, not the old sum
    assert s["c"] == 2
    assert s.ttl("c") is None


def test_set_makes_permanent_and_touch_moves_the_deadline(s: annapy.Store) -> None:
    s.set("k", 1, ttl=30)
    s["k"] = 2
    assert s.ttl("k") is None
    assert s.touch("k", ttl=10) is True
    assert (s.ttl("k") or 0) > 5
    assert s.touch("k") is True
    assert s.ttl("k") is None
    assert s["k"] == 2
    s.counter("c").add(1)
    s.touch("c", ttl=20)
    s.counter("c").add(1)               # an addition leaves the deadline
    assert s.ttl("c") is not None


@pytest.mark.parametrize("ttl", [0, -1, "0s", float("nan"), float("inf"), "soon", "5 parsecs", ""])
def test_bad_ttl(s: annapy.Store, ttl: Any) -> None:
    for call in (lambda: s.set("k", 1, ttl=ttl), lambda: s.add("k", 1, ttl=ttl),
                 lambda: s.touch("k", ttl=ttl), lambda: s.options(ttl=ttl)):
        with pytest.raises(ValueError, match="ttl="):
            call()
    assert "k" not in s
    with pytest.raises(TypeError, match="ttl must be seconds"):
        s.set("k", 1, ttl=[5])  # type: ignore[arg-type]


def test_default_ttl_of_a_view(s: annapy.Store) -> None:
    brief = s.options(ttl="1h")
    brief["k"] = 1
    assert s.ttl("k") is not None
    s["k"] = 1
    assert s.ttl("k") is None
    brief.set("k", 1, ttl="1d")
    assert (s.ttl("k") or 0) > 80000


def test_read_and_merge(s: annapy.Store) -> None:
    s.merge("m", MaxInt().observe(5))
    s.merge("m", MaxInt().observe(3))
    assert s["m"] == 5
    found = s.read("m")
    assert found == MaxInt().observe(5)
    s.merge("g", GCounter().add(3, actor="a"))
    s.merge("g", GCounter().add(3, actor="a"))
    assert s["g"] == 3
    with pytest.raises(annapy.LatticeTypeError, match="maxint"):
        s.merge("m", GCounter().add(1, actor="a"))
    for bad in (5, None, MaxInt, b"cell"):
        with pytest.raises(TypeError, match="lattice value"):
            s.merge("m", bad)  # type: ignore[arg-type]


def test_kinds(s: annapy.Store) -> None:
    s["r"] = 1
    s.counter("c").add(1)
    s.orset("o").add(1)
    assert [s.kind(k) for k in ("r", "c", "o", "none")] == ["register", "counter", "orset", None]
    info = s.info("o")
    assert info["kind"] == "orset"
    assert info["bytes"] > 0
    assert s.conflicts() == []


def test_a_deleted_key_may_become_another_kind(s: annapy.Store) -> None:
    s["k"] = 1
    with pytest.raises(annapy.LatticeTypeError):
        s.counter("k").add(1)
    del s["k"]
    s.counter("k").add(1)
    assert s["k"] == 1
    assert s.kind("k") == "counter"
    s.delete("k")
    s["k"] = "text"
    assert s.kind("k") == "register"


def test_op_id_applies_once(s: annapy.Store) -> None:
    for _ in range(3):
        s.counter("n").add(5, op_id="order-7")
        assert s.incr("m", 2, op_id=b"order-7") == 2
    s.counter("n").add(5, op_id="order-8")
    assert s["n"] == 10
    assert s.add("a", 1, op_id="x") is True
    assert s.add("a", 1, op_id="x") is True      # the first outcome again
    for bad in (5, "", "x" * 256):
        with pytest.raises((TypeError, ValueError), match="op_id"):
            s.set("k", 1, op_id=bad)  # type: ignore[arg-type]


def test_labels(s: annapy.Store) -> None:
    for n in range(10):
        s.set(f"a{n}", n, tag="odd" if n % 2 else "even")
    s["plain"] = 1
    s.set("a1", 1)                      # a later write without the tag
    assert s.evict("odd") == 4
    assert s.evict("odd") == 0
    assert len(s) == 7
    with pytest.raises((TypeError, ValueError)):
        s.evict("")
    with pytest.raises(TypeError):
        s.set("k", 1, tag=5)  # type: ignore[arg-type]


def test_pin(s: annapy.Store) -> None:
    numpy = pytest.importorskip("numpy")
    s["big"] = numpy.arange(100_000, dtype="i4")
    s["bytes"] = b"abc"
    with s.pin("big") as view:
        assert view.readonly
        assert view.nbytes == 400_000
    with s.pin("bytes") as view:
        assert bytes(view) == b"abc"
    s["int"] = 5
    with pytest.raises(TypeError, match="no buffer"), s.pin("int"):
        pass
    with pytest.raises(KeyError), s.pin("missing"):
        pass


def test_arrays_are_read_only_views(s: annapy.Store) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(60_000, dtype="f8").reshape(300, 200)
    s["a"] = array
    got = s["a"]
    assert not got.flags.writeable
    assert (got == array).all()
    s["a"] = array + 1                  # a view is a snapshot
    assert (got == array).all()
    own = s.get("a", copy=True)
    own += 1
    assert (s["a"] == array + 1).all()
    s.close()
    assert (got == array).all()


def test_devices_are_refused_with_words(s: annapy.Store) -> None:
    s["k"] = 1
    assert s.get("k", device="cpu") == 1
    with pytest.raises(annapy.DeviceUnavailable, match="host memory"):
        s.get("k", device="cuda:0")


def test_pickled_values_need_consent(mode: Any) -> None:
    s = mode.open()
    with pytest.raises(annapy.SerializationError, match="allow_pickle"):
        s["k"] = object
    s.close()
    s = mode.open(allow_pickle=True)
    s["k"] = Consenting(3)
    s.mvregister("mv").set(Consenting(4))
    s.ormap("m")["f"] = Consenting(5)
    assert (s["k"], s["mv"], s["m"]["f"]) == (Consenting(3), Consenting(4), Consenting(5))


class Consenting:
    """Picklable, and unknown to annapy."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Consenting) and other.n == self.n

    def __hash__(self) -> int:
        return hash(self.n)
