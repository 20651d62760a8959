"""A process to be killed: a whole store, writing with ack="disk" from several threads.

usage: python -m tests.crash.workload DIR

Every thread of WRITERS repeats rounds on its own keys and on shared ones, and says `b`, u64 before
a round and `d`, u64 after its last write was acknowledged; the number is round * WRITERS + writer.
A round n of writer w:
    batch           `left:w` and `right:w` become n, `ops:w` (an orset) gains n     all or nothing
    counter         `hits` += 1, once, by the op_id `w/n`; after a restart, sent again
    register        `reg:w` becomes n
    large           `array:w`, 200 KB, whose every element is n                     one cell
    short-lived     `gone:w:n` is set, and that of the round before deleted
"""
from __future__ import annotations

import os
import struct
import sys
import threading

import annapy

WRITERS = 3
LARGE_ITEMS = 200_000


def large_value(number: int) -> bytes:
    return struct.pack("<Q", number) * (LARGE_ITEMS // 8)


def one_round(s: annapy.Store, writer: int, number: int) -> None:
    with s.batch(ack="disk") as b:
        b[f"left:{writer}"] = number
        b[f"right:{writer}"] = number
        b.orset(f"ops:{writer}").add(number)
    s.counter("hits").add(1, ack="disk", op_id=f"{writer}/{number}")
    s.set(f"reg:{writer}", number, ack="disk")
    s.set(f"array:{writer}", large_value(number), ack="disk")
    s.set(f"gone:{writer}:{number}", 1)
    s.delete(f"gone:{writer}:{number - 1}")


def verify(s: annapy.Store) -> list[int]:
    """The round that each writer is at, after everything that must fit together was seen to."""
    rounds = []
    counted = 0
    for writer in range(WRITERS):
        left, right = s.get(f"left:{writer}", 0), s.get(f"right:{writer}", 0)
        operations = s.get(f"ops:{writer}", frozenset())
        assert left == right == len(operations) == max(operations, default=0), "half a batch"
        register, raw = s.get(f"reg:{writer}", 0), s.get(f"array:{writer}")
        assert left - 1 <= register <= left, (left, register)
        if raw is not None:
            number = struct.unpack_from("<Q", raw)[0]
            assert raw == large_value(number), "a torn value"
            assert register - 1 <= number <= register
        left_over = list(s.keys(f"gone:{writer}:"))
        assert len(left_over) <= 2, left_over
        rounds.append(left)
        counted += register
    # Between a round's counter and its register there may be one more, per writer.
    assert counted <= s.counter("hits").value <= counted + WRITERS
    return rounds


def work(s: annapy.Store, writer: int, number: int) -> None:
    for key in list(s.keys(f"gone:{writer}:")):
        s.delete(key)          # the kill may have come before that was committed
    if number:                 # perhaps it was cut off: the op_id makes this exactly once
        s.counter("hits").add(1, ack="disk", op_id=f"{writer}/{number}")
        s.set(f"reg:{writer}", number, ack="disk")
        s.set(f"array:{writer}", large_value(number), ack="disk")
    while True:
        number += 1
        os.write(1, b"b" + struct.pack("<Q", number * WRITERS + writer))
        one_round(s, writer, number)
        os.write(1, b"d" + struct.pack("<Q", number * WRITERS + writer))


def main(directory: str) -> None:
    s = annapy.open(directory, commit_every="1ms")
    rounds = verify(s)
    threads = [
        threading.Thread(target=work, args=(s, writer, number), daemon=True)
        for writer, number in enumerate(rounds)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
