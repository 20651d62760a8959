"""The engine over a disk double: conditions, tickets, deadlines, batches, cuts, demotion, pins."""
from __future__ import annotations

import random
import struct
import threading
import time

import pytest

from annapy import errors
from annapy._core import (
    engine as engine_module,
)
from annapy._core import (
    face,
)
from annapy._core.engine import Engine

SET, ADD, MERGE = 1, 2, 9
LWW, COUNTER, ORSET = 6, 9, 11
E = engine_module
STAMP = 20


class DiskDouble:
    """A dict that does what annapy.persist does for an engine."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, int] = {}
        self.woken = 0
        self.loads = 0
        self.fails = False
        self.engine: Engine | None = None

    def load(self, stored: bytes) -> bytes | None:
        self.loads += 1
        return self.records.get(stored)

    def wake(self) -> None:
        self.woken += 1

    def expired(self, now_ms: int, limit: int) -> list[bytes]:
        return [key for key, at in self.deadlines.items() if at <= now_ms][:limit]

    def commit(self) -> None:
        assert self.engine is not None
        cut = self.engine.collect()
        if self.fails:
            cut.done(False)
            return
        self.records.update(cut.puts)
        for key, _ in cut.puts:
            self.deadlines.pop(key, None)
        for key in cut.deletes:
            self.records.pop(key, None)
            self.deadlines.pop(key, None)
        self.deadlines.update(cut.deadlines)
        cut.done(True)


def memory(capacity: int = 16 << 20, shards: int = 1, **how: object) -> Engine:
    return Engine(capacity, shards, actor=7 << 20 | 1, **how)


def on_disk(capacity: int = 16 << 20, shards: int = 1,
            disk: DiskDouble | None = None) -> tuple[Engine, DiskDouble]:
    engine = memory(capacity, shards)
    disk = disk or DiskDouble()
    disk.engine = engine
    engine.set_backing(disk, live=len(disk.records), cold=bool(disk.records))
    return engine, disk


def put(engine: Engine, key: bytes, value: bytes, **how: object) -> bool:
    return engine.apply(key, SET, LWW, value, **how)[0]


def value(engine: Engine, key: bytes) -> bytes | None:
    found = engine.read(key)
    return None if found is None else found[1][STAMP:]


def i64(n: int) -> bytes:
    return struct.pack("<q", n)


def count_of(engine: Engine, key: bytes) -> int:
    state = engine.read(key)[1]
    return sum(
        plus - minus for _, plus, minus in struct.iter_unpack("<QQQ", state)
    )


@pytest.fixture(params=["memory", "disk"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "memory":
        return memory(shards=2)
    request.node.disk = on_disk(shards=2)
    return request.node.disk[0]


def test_set_get_delete(engine: Engine) -> None:
    assert value(engine, b"k") is None
    assert put(engine, b"k", b"1")
    assert value(engine, b"k") == b"1"
    assert put(engine, b"k", b"2")
    assert value(engine, b"k") == b"2"
    assert engine.live() == 1
    assert engine.apply(b"k", 0, 0, flags=E.DELETE)[0]
    assert not engine.apply(b"k", 0, 0, flags=E.DELETE)[0]
    assert value(engine, b"k") is None
    assert engine.live() == 0


def test_empty_key_and_longest_key(engine: Engine) -> None:
    for key in (b"", b"k" * 4096):
        put(engine, key, b"v")
        assert value(engine, key) == b"v"
    assert sorted(engine.keys()) == [b"", b"k" * 4096]


def test_conditions(engine: Engine) -> None:
    assert not put(engine, b"k", b"1", flags=E.IF_PRESENT)
    assert put(engine, b"k", b"1", flags=E.IF_ABSENT)
    assert not put(engine, b"k", b"2", flags=E.IF_ABSENT)
    version = engine.read(b"k")[3]
    assert put(engine, b"k", b"2", flags=E.IF_VERSION, expect=version)
    assert not put(engine, b"k", b"3", flags=E.IF_VERSION, expect=version)
    applied, cell, _ = engine.apply(b"k", 0, 0, flags=E.DELETE | E.RETURN_OLD)
    assert applied
    assert cell.endswith(b"2")
    assert put(engine, b"k", b"4", flags=E.IF_VERSION, expect=0)


def test_versions_only_grow(engine: Engine) -> None:
    seen = 0
    for n in range(100):
        put(engine, b"k", b"%d" % n)
        version = engine.read(b"k")[3]
        assert version > seen
        seen = version


def test_another_type_is_refused_and_named(engine: Engine) -> None:
    engine.apply(b"k", ADD, COUNTER, i64(3))
    with pytest.raises(errors.LatticeTypeError, match=r"'k' holds a counter, not a register"):
        put(engine, b"k", b"1")
    assert count_of(engine, b"k") == 3
    engine.apply(b"k", 0, 0, flags=E.DELETE)
    assert put(engine, b"k", b"1")
    assert value(engine, b"k") == b"1"


def test_counters_refuse_to_overflow(engine: Engine) -> None:
    engine.apply(b"k", ADD, COUNTER, i64(2**63 - 1))
    with pytest.raises(OverflowError):
        engine.apply(b"k", ADD, COUNTER, i64(1))
    assert count_of(engine, b"k") == 2**63 - 1


def test_merge_is_idempotent_and_checked(engine: Engine) -> None:
    engine.apply(b"a", ADD, COUNTER, i64(3))
    cell = engine.read_cell(b"a")
    for _ in range(3):
        engine.apply(b"b", MERGE, COUNTER, cell)
    assert count_of(engine, b"b") == 3
    with pytest.raises(errors.CorruptCellError):
        engine.apply(b"b", MERGE, COUNTER, cell[:-1])


def test_deadlines(engine: Engine) -> None:
    put(engine, b"soon", b"1", ttl_ms=30)
    put(engine, b"never", b"1")
    put(engine, b"kept", b"1", ttl_ms=30)
    assert engine.read(b"soon")[2] > time.time() * 1000 - 1000
    assert put(engine, b"kept", b"2", ttl_ms=0)
    assert engine.live() == 3
    time.sleep(0.06)
    assert value(engine, b"soon") is None
    assert value(engine, b"kept") == b"2"
    assert engine.live() == 2
    assert sorted(engine.keys()) == [b"kept", b"never"]
    assert put(engine, b"soon", b"again")
    assert value(engine, b"soon") == b"again"


def test_touching_often_does_not_pile_up_deadlines() -> None:
    engine = memory()
    put(engine, b"k", b"1", ttl_ms=1000)
    for n in range(20_000):
        engine.apply(b"k", 0, 0, flags=E.TOUCH, ttl_ms=50_000 if n & 1 else 40_000)
    before = engine.stats()["heap_bytes"]
    assert before < 1000
    assert engine.live() == 1


def test_batch_is_all_or_nothing(engine: Engine) -> None:
    put(engine, b"a", b"0")
    engine.apply(b"n", ADD, COUNTER, i64(1))
    with pytest.raises(errors.LatticeTypeError):
        engine.apply_batch([(b"a", SET, LWW, b"1"), (b"b", SET, LWW, b"1"),
                            (b"a", 0, 0, b"", 1, -1, None, E.DELETE),
                            (b"n", SET, LWW, b"1")])
    assert value(engine, b"a") == b"0"
    assert value(engine, b"b") is None
    assert count_of(engine, b"n") == 1
    assert engine.live() == 2
    engine.apply_batch([(b"a", SET, LWW, b"1"), (b"a", SET, LWW, b"2"), (b"b", SET, LWW, b"1"),
                        (b"b", 0, 0, b"", 1, -1, None, E.DELETE), (b"n", ADD, COUNTER, i64(4))])
    assert value(engine, b"a") == b"2"
    assert value(engine, b"b") is None
    assert count_of(engine, b"n") == 5
    assert engine.live() == 2


def test_readers_see_a_batch_whole(engine: Engine) -> None:
    keys = [b"k%d" % n for n in range(20)]
    engine.apply_batch([(key, SET, LWW, b"0") for key in keys])
    stop = threading.Event()
    torn: list[object] = []

    def read() -> None:
        while not stop.is_set():
            values = {found[1][STAMP:] for found in engine.read_many(keys)}
            if len(values) != 1:
                torn.append(values)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(300):
        engine.apply_batch([(key, SET, LWW, b"%d" % n) for key in keys])
    stop.set()
    for thread in threads:
        thread.join()
    assert not torn


def test_op_id_applies_once(engine: Engine) -> None:
    first = engine.apply(b"n", ADD, COUNTER, i64(5), op_id=b"x", flags=E.RETURN_NEW)
    again = engine.apply(b"n", ADD, COUNTER, i64(5), op_id=b"x", flags=E.RETURN_NEW)
    assert first == again
    assert first[1] is not None
    engine.apply(b"n", ADD, COUNTER, i64(5), op_id=b"y")
    assert count_of(engine, b"n") == 10
    assert engine.keys() == [b"n"]


def test_threads_lose_no_addition() -> None:
    engine = memory(shards=2)

    def add() -> None:
        for _ in range(2000):
            engine.apply(b"n", ADD, COUNTER, i64(1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count_of(engine, b"n") == 8000


def test_events_and_gaps() -> None:
    engine = memory()
    watcher = engine.watch_open(b"w")
    put(engine, b"other", b"1")
    put(engine, b"w1", b"1")
    engine.apply(b"wc", ADD, COUNTER, i64(1))
    engine.apply(b"w1", 0, 0, flags=E.DELETE)
    assert engine.watch_poll(watcher) == (
        [(b"w1", "set", ""), (b"wc", "merge", ""), (b"w1", "delete", "")], False)
    for n in range(50_000):
        put(engine, b"w%d" % n, b"1")
    events, gap = engine.watch_poll(watcher, 1 << 30)
    assert gap
    assert events[-1] == (b"w49999", "set", "")
    engine.watch_close(watcher)


def test_a_cut_holds_what_changed_and_nothing_else() -> None:
    engine, disk = on_disk(shards=2)
    put(engine, b"a", b"1")
    put(engine, b"b", b"x" * 100_000)
    put(engine, b"t", b"1", ttl_ms=60_000)
    assert disk.woken == 1
    cut = engine.collect()
    assert sorted(key for key, _ in cut.puts) == [
        b"\0\0\0\1a", b"\0\0\0\1b", b"\0\0\0\1t"]
    assert [key for key, _ in cut.deadlines] == [b"\0\0\0\1t"]
    assert cut.live == 3
    put(engine, b"a", b"2")
    cut.done(True)
    disk.commit()
    assert list(disk.records) == [b"\0\0\0\1a"]
    engine.apply(b"a", 0, 0, flags=E.DELETE)
    cut = engine.collect()
    assert cut.deletes == [b"\0\0\0\1a"]
    cut.done(False)
    assert value(engine, b"a") is None
    disk.commit()
    assert not disk.records
    assert engine.stats()["resident"] == 2


def test_cold_keys_come_back_and_are_counted_once() -> None:
    engine, disk = on_disk()
    for n in range(1000):
        put(engine, b"k%d" % n, b"v%d" % n)
    engine.apply(b"n", ADD, COUNTER, i64(7))
    disk.commit()
    again, _ = on_disk(disk=disk)
    assert again.live() == 1001
    again.apply(b"n", ADD, COUNTER, i64(1))
    assert count_of(again, b"n") == 8
    for n in range(0, 1000, 7):
        assert value(again, b"k%d" % n) == b"v%d" % n
    assert not put(again, b"k1", b"x", flags=E.IF_ABSENT)
    assert again.apply(b"k2", 0, 0, flags=E.DELETE)[0]
    assert again.live() == 1000
    assert value(again, b"nothing") is None


def test_a_damaged_record_is_an_error_and_changes_nothing() -> None:
    engine, disk = on_disk()
    put(engine, b"k", b"value")
    disk.commit()
    key = b"\0\0\0\1k"
    good = disk.records[key]
    for bit in range(0, len(good) * 8, 3):
        bad = bytearray(good)
        bad[bit >> 3] ^= 1 << (bit & 7)
        disk.records[key] = bytes(bad)
        again, _ = on_disk(disk=disk)
        with pytest.raises(errors.CorruptCellError):
            again.read(b"k")
        with pytest.raises(errors.CorruptCellError):
            put(again, b"k", b"other")


def test_demotion_keeps_everything_within_the_capacity() -> None:
    engine, _ = on_disk(capacity=8 << 20)
    expected = {}
    for n in range(80_000):
        key, data = b"key:%06d" % n, b"%d" % n * 20
        put(engine, key, data)
        expected[key] = data
    stats = engine.stats()
    assert stats["heap_bytes"] + stats["index_bytes"] <= 8 << 20
    assert stats["demoted"] > 0
    assert engine.live() == len(expected)
    for key in random.Random(1).sample(sorted(expected), 4000):
        assert value(engine, key) == expected[key]
    assert value(engine, b"absent") is None
    assert engine.stats()["cold"] == "filter"


def test_capacity_without_a_disk() -> None:
    engine = memory(capacity=4 << 20)
    with pytest.raises(errors.CapacityError, match="capacity"):
        for n in range(100_000):
            put(engine, b"key:%06d" % n, b"x" * 100)
    kept = engine.live()
    assert kept > 10_000
    assert value(engine, b"key:000000") == b"x" * 100
    for n in range(kept // 10):
        engine.apply(b"key:%06d" % n, 0, 0, flags=E.DELETE)
    assert put(engine, b"key:%06d" % (kept - 1), b"y" * 90)


def test_a_cache_evicts_what_nobody_reads() -> None:
    engine = memory(capacity=4 << 20, evict=True)
    for n in range(100):
        put(engine, b"hot:%d" % n, b"x" * 100)
    for n in range(100_000):
        put(engine, b"cold:%d" % n, b"x" * 100)
        value(engine, b"hot:%d" % (n % 100))
    assert all(value(engine, b"hot:%d" % n) for n in range(100))
    assert engine.stats()["evicted"] > 0


def test_a_pin_is_a_snapshot_and_outlives_the_engine() -> None:
    engine = memory()
    put(engine, b"k", b"a" * 100_000)
    pin = engine.pin(b"k")
    view = memoryview(pin)
    assert view.readonly
    for letter in b"bcdef":
        put(engine, b"k", bytes([letter]) * 100_000)
    assert bytes(view[-3:]) == b"aaa"
    engine.close()
    del engine, pin
    assert bytes(view[-100:]) == b"a" * 100


def test_use_after_close() -> None:
    engine = memory()
    engine.close()
    with pytest.raises(errors.StoreClosed):
        engine.read(b"k")
    with pytest.raises(errors.StoreClosed):
        put(engine, b"k", b"1")


def test_a_failed_commit_is_tried_again_whole() -> None:
    engine, disk = on_disk()
    put(engine, b"k", b"1")
    disk.fails = True
    disk.commit()
    put(engine, b"k2", b"2")
    disk.fails = False
    disk.commit()
    assert len(disk.records) == 2


@pytest.mark.parametrize("shards", [1, 3])
def test_against_a_dict(shards: int) -> None:
    """Random operations with commits and a small memory, then everything once more."""
    draw = random.Random(shards)
    engine, disk = on_disk(capacity=4 << 20, shards=shards)
    model: dict[bytes, bytes] = {}
    for step in range(60_000):
        key = b"key:%d" % draw.randrange(20_000)
        what = draw.random()
        if what < 0.6:
            data = draw.randbytes(draw.randrange(300))
            put(engine, key, data)
            model[key] = data
        elif what < 0.75:
            assert engine.apply(key, 0, 0, flags=E.DELETE)[0] == (key in model)
            model.pop(key, None)
        else:
            assert value(engine, key) == model.get(key)
        if step % 5000 == 0:
            disk.commit()
            assert engine.live() == len(model)
    disk.commit()
    assert engine.live() == len(model)
    assert {key[4:] for key in disk.records} == set(model)
    for key, data in model.items():
        assert value(engine, key) == data


def members(*names: bytes) -> bytes:
    return bytes([len(names)]) + b"".join(bytes([len(name)]) + name for name in names)


def test_a_large_set_is_a_tree_and_reads_as_if_flat(engine: Engine) -> None:
    draw = random.Random(5)
    model: set[bytes] = set()
    for step in range(20_000):
        name = b"member:%04d" % draw.randrange(2500)
        if draw.random() < 0.6:
            engine.apply(b"s", ADD, ORSET, members(name))
            model.add(name)
        else:
            engine.apply(b"s", 3, ORSET, members(name))
            model.discard(name)
        if step % 4000 == 3999:
            assert engine.count(b"s") == (ORSET, len(model))
            face.verify(ORSET, engine.read(b"s")[1])
    for name in model:
        assert engine.entry(b"s", name) is not None
    assert engine.entry(b"s", b"member:9999") is None
    engine.apply(b"flat", MERGE, ORSET, engine.read_cell(b"s"))
    assert engine.read(b"flat")[1] == engine.read(b"s")[1]
    for name in sorted(model):
        engine.apply(b"s", 3, ORSET, members(name))
    assert engine.count(b"s") == (ORSET, 0)
    assert engine.apply(b"s", 0, 0, flags=E.DELETE)[0]
    assert engine.apply(b"flat", 0, 0, flags=E.DELETE | E.RETURN_OLD)[1] is not None


def test_trees_survive_the_disk_batches_and_deadlines() -> None:
    engine, disk = on_disk(capacity=16 << 20)
    names = [b"member:%05d" % n for n in range(3000)]
    for name in names:
        engine.apply(b"s", ADD, ORSET, members(name))
    disk.commit()
    again, _ = on_disk(disk=disk)
    assert again.count(b"s") == (ORSET, 3000)
    again.apply(b"s", ADD, ORSET, members(b"one more"))
    again.apply(b"s", 0, 0, flags=E.TOUCH, ttl_ms=60_000)
    assert again.count(b"s") == (ORSET, 3001)
    with pytest.raises(errors.LatticeTypeError):
        again.apply_batch([(b"s", ADD, ORSET, members(b"lost")), (b"s", SET, LWW, b"1")])
    assert again.entry(b"s", b"lost") is None
    again.apply_batch([(b"s", ADD, ORSET, members(b"a")), (b"s", ADD, ORSET, members(b"b"))])
    assert again.count(b"s") == (ORSET, 3003)
    disk.engine = again
    disk.commit()
    third, _ = on_disk(disk=disk)
    assert third.read(b"s")[1] == again.read(b"s")[1]
    assert third.read(b"s")[2] > 0


def test_trees_give_their_memory_back() -> None:
    engine = memory(capacity=64 << 20)
    put(engine, b"k", b"1")
    before = engine.stats()["heap_bytes"]
    for n in range(5000):
        engine.apply(b"s", ADD, ORSET, members(b"member:%05d" % n))
    engine.apply(b"s", 0, 0, flags=E.DELETE)
    assert engine.stats()["heap_bytes"] == before
