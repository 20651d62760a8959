"""A process to be killed: the disk tier under a double of the engine, committing all the time.

usage: python -m tests.crash.tier_worker DIR

Every round n puts the same number n into a group of keys of all sorts (plain, folded, chunked, with
a deadline), commits, and says so on standard output, 9 bytes a message: `b` or `d`, u64 n. A store
in which the group does not agree on n has seen half a commit.
"""
from __future__ import annotations

import os
import struct
import sys

from annapy.persist import records
from annapy.persist.persister import Persister
from tests.unit.persist_double import NS, EngineDouble, value_of

PLAIN = [NS + b"plain%d" % i for i in range(6)]
LONG = NS + b"long" * 500
LARGE = NS + b"large"
DUE = NS + b"due"
HISTORY = 200                  # one more key a round, up to here; then they are deleted again


def large_value(number: int) -> bytes:
    """Several chunks, of which a round changes the first, and another one."""
    raw = bytearray(5 * records.CHUNK_SIZE)
    raw[:8] = struct.pack("<Q", number)
    at = records.CHUNK_SIZE * (1 + number % 4) + 100
    raw[at:at + 8] = struct.pack("<Q", number)
    return bytes(raw)


def put_round(engine: EngineDouble, number: int) -> None:
    value = struct.pack("<Q", number)
    for key in [*PLAIN, LONG]:
        engine.put(key, value)
    engine.put(LARGE, large_value(number))
    engine.put(DUE, value, deadline_ms=number)
    if number // HISTORY % 2 == 0:
        engine.put(NS + b"history%d" % (number % HISTORY), value)
    else:
        engine.put(NS + b"history%d" % (number % HISTORY), None)


def round_of(tier: Persister) -> int:
    """The round that a store is at, 0 if new; AssertionError if it is at several."""
    found = {value_of(key, tier.load(key)) for key in [*PLAIN, LONG, DUE]}
    assert len(found) == 1, found
    value = found.pop()
    if value is None:
        assert tier.load(LARGE) is None
        return 0
    number = struct.unpack("<Q", value)[0]
    assert value_of(LARGE, tier.load(LARGE)) == large_value(number)
    assert tier.expired(1 << 60) == [DUE]
    assert tier.expired(number - 1) == []
    return number


def main(directory: str) -> None:
    tier = Persister.open(directory, commit_every_s=0.001)
    engine = EngineDouble(tier)
    number = round_of(tier)
    while True:
        number += 1
        put_round(engine, number)
        os.write(1, b"b" + struct.pack("<Q", number))
        tier.sync()
        os.write(1, b"d" + struct.pack("<Q", number))


if __name__ == "__main__":
    main(sys.argv[1])
