"""ThreadSanitizer over table, shard, arena and ring, and planted mistakes that it must report.

ANNAPY_PROFILE=long (`make tsan`) runs for minutes, by default it is seconds. Skips by name where
there is no libtsan.
"""
from __future__ import annotations

import json
import os

import pytest

from tests.race.building import run

LONG = os.environ.get("ANNAPY_PROFILE") == "long"
SECONDS = 120.0 if LONG else 4.0

SHARD = """
import json, sys, stress
print(json.dumps(stress.stress_shard(float(sys.argv[1]), *map(int, sys.argv[2:]))))
"""
HEAPS = """
import json, sys, stress
print(json.dumps(stress.stress_heaps(*map(int, sys.argv[1:]))))
"""
RING = """
import json, os, threading, sys, stress
from annapy._core.ring import MailClient
client = MailClient(1, 1 << 16)
owner = stress.Consumer(client.fd, os.eventfd(0, os.EFD_NONBLOCK))
count = int(sys.argv[1])
thread = threading.Thread(target=stress.produce, args=(
    client.fd, owner.fd, owner.reply_at, owner.bell_at, owner.bell_fd, count, 7))
thread.start()
print(json.dumps(owner.run(count, 30.0)))
thread.join()
"""


def stress(variant: str, *arguments: int) -> tuple[dict[str, int], int, str]:
    done = run(variant, SHARD, str(SECONDS), *map(str, arguments), timeout=SECONDS * 4 + 200)
    assert done.stdout, done.stderr[-4000:]
    return json.loads(done.stdout), done.returncode, done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("writers", "readers", "capacity", "keys", "evicts"), [
    (1, 2, 64 << 20, 20_000, 0), (2, 2, 4 << 20, 20_000, 1)], ids=["growth", "eviction"])
def test_readers_through_growth_and_eviction(writers: int, readers: int, capacity: int, keys: int,
                                             evicts: int) -> None:
    seen, status, report = stress("tsan", writers, readers, capacity, keys, evicts)
    assert "WARNING: ThreadSanitizer" not in report, report[:6000]
    assert status == 0, report[-4000:]
    assert seen["torn"] == seen["stuck"] == seen["faults"] == 0
    assert seen["hits"] > 1000
    assert seen["segments"] > 1
    if evicts:
        assert seen["evicted"] > 0
    else:
        assert seen["refused"] == 0
        assert seen["counted"] == seen["added"] > 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("capacity", [64 << 20, 4 << 20], ids=["room", "exhaustion"])
def test_heaps_share_an_arena(capacity: int) -> None:
    done = run("tsan", HEAPS, "4", str(1_000_000 if LONG else 20_000), str(capacity), timeout=800)
    assert "WARNING: ThreadSanitizer" not in done.stderr, done.stderr[:6000]
    seen = json.loads(done.stdout)
    assert seen["trampled"] == seen["faults"] == 0
    assert (seen["empty"] > 0) == (capacity < 64 << 20)
    assert seen["held"] <= seen["cursor"] <= capacity


@pytest.mark.timeout(900)
def test_both_ends_of_a_ring() -> None:
    count = 3_000_000 if LONG else 100_000
    done = run("tsan", RING, str(count), timeout=800)
    assert "WARNING: ThreadSanitizer" not in done.stderr, done.stderr[:6000]
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout) == [count, 0, False]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["planted", *(["unordered"] if LONG else [])])
def test_a_planted_race_is_caught(variant: str) -> None:
    _, status, report = stress(variant, 1, 2, 16 << 20, 300, 0)
    assert "WARNING: ThreadSanitizer: data race" in report
    assert status == 66
