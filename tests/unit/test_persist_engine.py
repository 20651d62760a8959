"""The disk tier under the real engine: demotion, cold reads, the filter, tickets, check."""
from __future__ import annotations

import time

import pytest

import annapy
from annapy.persist.check import check

CAPACITY = 4 << 20


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "store")


def test_ten_times_the_capacity_goes_to_disk_and_comes_back(directory):
    count = 10 * CAPACITY // 1000
    with annapy.open(directory, capacity=CAPACITY) as s:
        for i in range(count):
            s[f"k{i}"] = str(i) * (1000 // len(str(i)))
        s.flush()
        assert s.stats()["demoted"] > 0
        assert len(s) == count
        for i in range(0, count, 7):
            assert s[f"k{i}"] == str(i) * (1000 // len(str(i)))
        s.counter("k-new").add(5)
        del s["k3"]
    assert check(directory)
    with annapy.open(directory) as s:
        assert len(s) == count
        assert s.counter("k-new").value == 5
        assert "k3" not in s
        assert s["k4"] == "4" * 1000


def test_many_misses_fill_the_filter_and_nothing_is_missed_by_it(directory):
    with annapy.open(directory, shards=4) as s:
        s.set_many({f"k{i}": i for i in range(5000)})
        s["L" * 3000] = "long"
    with annapy.open(directory) as s:
        assert s.stats()["cold"] == "unknown"
        assert all(s.get(f"absent{i}") is None for i in range(1100))
        end = time.monotonic() + 20
        while s.stats()["cold"] != "filter" and time.monotonic() < end:
            time.sleep(0.005)
        assert s.stats()["cold"] == "filter"
        assert all(s.get(f"absent{i}") is None for i in range(1100))
        assert all(s[f"k{i}"] == i for i in range(5000))
        assert s["L" * 3000] == "long"
        s["later"] = 1
    with annapy.open(directory) as s:
        assert s["later"] == 1


def test_everything_of_every_kind_survives_and_checks(directory):
    with annapy.open(directory) as s:
        s["text"] = "x"
        s.counter("hits").add(3)
        s.orset("tags").add("a")
        s.hll("seen").add("b")
        s.set("short", 1, ttl=1000)
        s["k" * 1000] = list(range(50_000))
        big = s.gset("members")
        for i in range(3000):
            big.add(i)
        for i in range(20):
            s.counter("once").add(1, op_id=f"op{i % 4}")
        kept = {key: s.read(key) for key in s}
        assert len(s) == len(kept) == 8
    assert check(directory), check(directory).problems
    with annapy.open(directory) as s:
        assert {key: s.read(key) for key in s} == kept
        assert s.counter("once").value == 4
        assert s.counter("once").add(1, op_id="op0") is not False
        assert s.counter("once").value == 4
        assert 0 < s.ttl("short") <= 1000
        assert [key for key, _ in s.scan()] == sorted(kept)
        s.backup(directory + "-backup")
    assert check(directory)


def test_a_shared_handle_is_not_a_second_owner(directory):
    with annapy.open(directory) as one, annapy.open(directory) as two:
        one["a"] = 1
        assert two["a"] == 1
    with annapy.open(directory, readonly=True) as s:
        assert dict(s) == {"a": 1}
        with pytest.raises(annapy.ReadOnlyError):
            s["b"] = 1
