"""The disk tier, beside py-lmdb doing the same by hand."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benches.harness import compare

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 1000


def _environment(where: Path) -> Any:
    import lmdb

    return lmdb.open(str(where / "bare"), map_size=1 << 34)


def test_ratio_durable_batches(directory: Path, value: bytes) -> None:
    """Batches of 1,000, each synced, over a rolling set of 50,000 keys."""
    import annapy

    env = _environment(directory)
    names = [f"user:{n:06d}" for n in range(50 * BATCH)]
    batches = [dict.fromkeys(names[n:n + BATCH], value) for n in range(0, len(names), BATCH)]
    turn = [0, 0]

    def bare() -> None:
        batch = batches[turn[0] % len(batches)]
        turn[0] += 1
        with env.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti([(key.encode(), data) for key, data in batch.items()])

    with annapy.open(directory / "store") as store:
        def ours() -> None:
            batch = batches[turn[1] % len(batches)]
            turn[1] += 1
            store.set_many(batch, ack="disk")

        compare("durable set_many(1000)", ours, bare, names="annapy rate against py-lmdb putmulti",
                target=0.7, at_most=False, repeats=61)
    env.close()


def test_ratio_one_ack(directory: Path, value: bytes) -> None:
    import annapy

    env = _environment(directory)

    def bare() -> None:
        for n in range(10):
            with env.begin(write=True) as transaction:
                transaction.put(b"user:%d" % n, value)

    with annapy.open(directory / "store") as store:
        def ours() -> None:
            for n in range(10):
                store.set(f"user:{n}", value, ack="disk")

        compare('one ack="disk"', ours, bare, names="annapy set against one py-lmdb commit",
                target=1.3, repeats=31)
    env.close()


def test_ratio_cold_get(directory: Path, value: bytes) -> None:
    """Keys that are on disk only: every get is the first one since the store was opened."""
    import annapy

    names = [f"user:{n:06d}" for n in range(20_000)]
    with annapy.open(directory / "store") as store:
        store.set_many(dict.fromkeys(names, value), ack="disk")
    env = _environment(directory)
    with env.begin(write=True) as transaction:
        for name in names:
            transaction.put(name.encode(), value)
    position = {"bare": 0, "ours": 0}

    def next_names(who: str) -> list[str]:
        start = position[who]
        position[who] += 2000
        return names[start:start + 2000]

    def bare() -> None:
        for name in next_names("bare"):
            with env.begin() as transaction:
                transaction.get(name.encode())

    with annapy.open(directory / "store") as store:
        def ours() -> None:
            for name in next_names("ours"):
                store.get(name)

        compare("a miss to LMDB", ours, bare, names="annapy get against py-lmdb get",
                target=2, repeats=9)
    env.close()
