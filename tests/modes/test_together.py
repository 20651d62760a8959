"""Batches, watches, locks: what one caller does beside others."""
from __future__ import annotations

import pickle
import threading
import time
from typing import Any

import pytest

import annapy
from annapy import Event


def test_a_batch_is_applied_at_its_end(s: annapy.Store) -> None:
    s["old"] = 1
    s.counter("n").add(1)
    with s.batch() as b:
        b["a"] = [1]
        b["a"] = [2]
        b.counter("n").add(5)
        b.orset("o").add("x")
        b.ormap("m")["f"] = 1
        b["n"] += 2
        del b["old"]
        b.set("t", 1, ttl=60, tag="t")
        b.set_many({"p": 1, "q": 2})
        b.merge("hi", annapy.lattice.MaxInt().observe(3))
        b.touch("q", ttl=30)
        assert "a" not in s
        assert s["n"] == 1
        assert s["old"] == 1
        assert b["a"] == [2]
        assert b.get("none", 7) == 7
        assert "old" not in b
        assert b.counter("n").value == 8
        assert len(b) == 12
    assert s["a"] == [2]
    assert s["n"] == 8
    assert s["o"] == {"x"}
    assert s["m"] == {"f": 1}
    assert "old" not in s
    assert s["hi"] == 3
    assert s.ttl("t") is not None
    assert s.ttl("q") is not None
    assert s.evict("t") == 1


def test_an_exception_discards_a_batch(s: annapy.Store) -> None:
    s.counter("n").add(1)
    count = s["n"]
    count += 5

    class Stop(Exception):
        pass

    with pytest.raises(Stop), s.batch() as b:
        b["a"] = 1
        b["n"] = count
        raise Stop
    assert "a" not in s
    assert s["n"] == 1
    s["n"] = count                      # its delta was not joined, so it still is to be
    assert s["n"] == 6


def test_a_batch_that_an_owner_refuses_changes_nothing(s: annapy.Store) -> None:
    s.orset("o").add(1)
    s.counter("full").add(2**63 - 1)
    for bad in (lambda b: b.counter("o").add(1), lambda b: b.counter("full").add(1)):
        with pytest.raises((annapy.LatticeTypeError, OverflowError)), s.batch() as b:
            b["a"] = 1
            b.orset("o").add(2)
            bad(b)
        assert "a" not in s
        assert s["o"] == {1}


def test_a_batch_checks_what_it_is_given(s: annapy.Store) -> None:
    batch = s.batch()
    with pytest.raises(RuntimeError, match="inside its `with`"):
        batch["a"] = 1
    with batch as b:
        with pytest.raises(annapy.SerializationError):
            b["a"] = object()
        with pytest.raises(TypeError, match="str or bytes"):
            b[5] = 1  # type: ignore[index]
        with pytest.raises(ValueError, match="as a whole"):
            b.counter("n").add(1, ack="disk")
        with pytest.raises(ValueError, match="op_id"):
            b.counter("n").add(1, op_id="x")
        with pytest.raises(KeyError):
            del b["none"]
        b["fine"] = 1
    assert dict(s)["fine"] == 1
    with pytest.raises(RuntimeError):
        batch.__enter__()
    with pytest.raises(RuntimeError):
        batch["late"] = 1


def test_readers_see_a_batch_whole(s: annapy.Store) -> None:
    keys = [f"k{n}" for n in range(20)]
    s.set_many(dict.fromkeys(keys, 0))
    stop = threading.Event()
    torn: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            seen = set(s.get_many(keys, snapshot=True).values())
            if len(seen) != 1:
                torn.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(200):
        with s.batch() as b:
            b.set_many(dict.fromkeys(keys, n))
    stop.set()
    reader.join()
    assert not torn


# --- watching -----------------------------------------------------------------------------------


def test_watch_sees_changes_in_order(s: annapy.Store) -> None:
    s["before"] = 1
    with s.watch("w:", timeout=5) as events:
        s["w:a"] = 1
        s["x"] = 1
        s.counter("w:n").add(1)
        del s["w:a"]
        got = [next(events) for _ in range(3)]
    assert [(e.key, e.kind) for e in got] == [("w:a", "set"), ("w:n", "merge"), ("w:a", "delete")]


def test_watch_times_out(s: annapy.Store) -> None:
    with s.watch(timeout="50ms") as events:
        assert list(events) == []
        s["a"] = 1
        assert [e.key for e in events] == ["a"]


def test_watch_wakes_a_waiting_thread(s: annapy.Store) -> None:
    seen: list[Event] = []
    ready = threading.Event()

    def look() -> None:
        with s.watch() as events:
            ready.set()
            for event in events:
                seen.append(event)
                if event.key == "stop":
                    return

    thread = threading.Thread(target=look)
    thread.start()
    ready.wait(5)
    time.sleep(0.05)
    s["a"] = 1
    s["stop"] = 1
    thread.join(10)
    assert not thread.is_alive()
    assert [e.key for e in seen] == ["a", "stop"]


def test_closing_the_store_ends_a_watch(s: annapy.Store) -> None:
    ready, done = threading.Event(), threading.Event()

    def look() -> None:
        with s.watch() as events:
            ready.set()
            assert list(events) == []
            done.set()

    thread = threading.Thread(target=look)
    thread.start()
    ready.wait(5)
    time.sleep(0.05)
    s.close()
    thread.join(10)
    assert done.is_set()


def test_watch_expiry_and_batches(s: annapy.Store) -> None:
    with s.watch(timeout=5) as events:
        s.set("t", 1, ttl=0.05)
        assert next(events) == Event("t", "set", "local")
        time.sleep(0.1)
        assert len(s) == 0              # whoever counts, sweeps
        assert next(events).kind == "expire"
        with s.batch() as b:
            b["a"] = 1
            b["b"] = 1
        assert {next(events).key, next(events).key} == {"a", "b"}


def test_a_slow_watcher_gets_a_gap(s: annapy.Store) -> None:
    with s.watch(timeout=5) as events:
        for n in range(60_000):
            s.set("k" * 50 + str(n % 10), n)
        got = list(events.poll())
        assert got[0] == Event(None, "gap", "overrun")
        assert got[1].kind == "set"
        s["after"] = 1
        while events.poll():
            pass
        s["last"] = 1
        assert next(events).key == "last"


def test_events_are_values() -> None:
    event = Event("k", "set", "local")
    assert event == Event("k", "set", "local") != Event("k", "delete", "local")
    assert hash(event) == hash(Event("k", "set", "local"))
    assert pickle.loads(pickle.dumps(event)) == event
    assert repr(event) == "Event(key='k', kind='set', cause='local')"
    assert Event(kind="gap").key is None
    with pytest.raises(AttributeError):
        event.key = "other"  # type: ignore[misc]
    match event:
        case Event(key, "set"):
            assert key == "k"
        case _:
            pytest.fail("does not match by position")


# --- locks --------------------------------------------------------------------------------------


def test_a_lock_excludes(s: annapy.Store) -> None:
    inside = [0]
    most = [0]

    def work() -> None:
        for _ in range(20):
            with s.lock("one"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not s._hub.locks()._held


def test_taking_ones_own_lock_is_an_error(s: annapy.Store) -> None:
    with s.lock("l"), s.lock("m"), pytest.raises(RuntimeError, match="not entered twice"):
        s.lock("l").acquire()
    with s.lock("l"):
        pass


def test_lock_timeout_and_ttl(s: annapy.Store) -> None:
    def hold() -> None:
        s.lock("l", ttl=0.2).acquire()

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    with pytest.raises(TimeoutError, match="'l'"):
        s.lock("l", timeout=0.02).acquire()
    with s.lock("l", timeout=5):        # the ttl frees it
        pass


def test_outlasting_the_ttl_is_told(s: annapy.Store) -> None:
    with pytest.raises(annapy.AnnapyError, match="outlasted"), s.lock("l", ttl=0.02):
        time.sleep(0.05)
        thread = threading.Thread(target=s.lock("l").acquire)
        thread.start()
        thread.join()


def test_lock_arguments(s: annapy.Store) -> None:
    for ttl in (0, -1, "never"):
        with pytest.raises(ValueError, match="ttl="):
            s.lock("l", ttl=ttl)
    assert "l" in repr(s.lock("l"))
