"""Many Python threads on one store, with and without the GIL: exact counts, no torn value.

ANNAPY_PROFILE=long runs longer. On a free-threaded interpreter the same tests run in parallel.
"""
from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import annapy

LONG = os.environ.get("ANNAPY_PROFILE") == "long"
THREADS = 8
ROUNDS = 50_000 if LONG else 5_000


@pytest.fixture
def store() -> Iterator[annapy.Store]:
    with annapy.open(capacity="64MiB") as s:
        yield s


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Threads change places often, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Runs work(0) .. work(threads - 1) at once; the first error of any of them is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(threads)

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def test_counters_are_exact(store: annapy.Store) -> None:
    def work(number: int) -> None:
        own, shared = store.counter(f"own {number}"), store.counter("shared")
        for _ in range(ROUNDS):
            own.add(1)
            shared.add(2)
            shared.sub(1)
            store.incr("plain")

    together(work)
    assert store.counter("shared").value == THREADS * ROUNDS
    assert store["plain"] == THREADS * ROUNDS
    assert [store.counter(f"own {n}").value for n in range(THREADS)] == [ROUNDS] * THREADS


def test_augmented_assignment_loses_nothing(store: annapy.Store) -> None:
    store.counter("hits").add(0)

    def work(number: int) -> None:
        for _ in range(ROUNDS):
            store["hits"] += 1

    together(work)
    assert store["hits"] == THREADS * ROUNDS


def test_one_of_many_adds(store: annapy.Store) -> None:
    wins = [0] * THREADS

    def work(number: int) -> None:
        for n in range(ROUNDS):
            wins[number] += store.add(f"key {n}", number)

    together(work)
    assert sum(wins) == ROUNDS
    assert len(store) == ROUNDS


def test_one_of_many_pops(store: annapy.Store) -> None:
    store.set_many({f"job {n}": n for n in range(ROUNDS)})
    taken: list[list[int]] = [[] for _ in range(THREADS)]

    def work(number: int) -> None:
        for n in range(ROUNDS):
            job = store.pop(f"job {n}", None)
            if job is not None:
                taken[number].append(job)

    together(work)
    assert sorted(job for jobs in taken for job in jobs) == list(range(ROUNDS))
    assert len(store) == 0


def test_compare_and_swap_counts(store: annapy.Store) -> None:
    store["n"] = 0

    def work(number: int) -> None:
        for _ in range(ROUNDS // 10):
            while True:
                seen = store["n"]
                if store.cas("n", seen, seen + 1):
                    break

    together(work)
    assert store["n"] == THREADS * (ROUNDS // 10)


def test_sets_keep_every_addition(store: annapy.Store) -> None:
    def work(number: int) -> None:
        seen = store.orset("seen")
        for n in range(ROUNDS // 10):
            seen.add((number, n))

    together(work)
    wanted = {(number, n) for number in range(THREADS) for n in range(ROUNDS // 10)}
    assert store.orset("seen").value == wanted


def test_readers_never_see_a_torn_or_older_value(store: annapy.Store) -> None:
    """Each value says its round and repeats it; sizes cross from copied to pinned."""
    sizes = [1, 10, 1000, 20_000]
    for n in range(len(sizes)):
        store[f"k{n}"] = (0).to_bytes(4, "little") * sizes[n]
    finished = threading.Event()

    def write(rng: random.Random) -> None:
        for turn in range(1, ROUNDS * 2):
            n = rng.randrange(len(sizes))
            store[f"k{n}"] = turn.to_bytes(4, "little") * sizes[n]
        finished.set()

    def read(rng: random.Random) -> None:
        last = [0] * len(sizes)
        while not finished.is_set():
            n = rng.randrange(len(sizes))
            value = store[f"k{n}"]
            assert value == value[:4] * sizes[n]
            turn = int.from_bytes(value[:4], "little")
            assert turn >= last[n]
            last[n] = turn

    together(lambda number: (read if number else write)(random.Random(number)))


def test_batches_are_seen_whole(store: annapy.Store) -> None:
    names = [f"part {n}" for n in range(5)]
    store.set_many(dict.fromkeys(names, 0))
    finished = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            for turn in range(1, ROUNDS):
                with store.batch() as batch:
                    for name in names:
                        batch[name] = turn
            finished.set()
            return
        while not finished.is_set():
            assert len(set(store.get_many(names, snapshot=True).values())) == 1

    together(work, 3)


def test_growth_eviction_and_deletion_at_once() -> None:
    with annapy.open(capacity="4MiB", evict="sieve") as store:
        def work(number: int) -> None:
            rng = random.Random(number)
            for n in range(ROUNDS):
                key = f"{rng.randrange(5000)}"
                kind = rng.randrange(4)
                if kind == 0:
                    store.delete(key)
                elif kind == 1:
                    value = store.get(key)
                    assert value is None or value == value[:1] * len(value)
                else:
                    store[key] = bytes([n % 256]) * rng.choice([10, 300, 3000, 9000])

        together(work)
        assert store.stats()["evicted"] > 0
        for value in store.values():
            assert value == value[:1] * len(value)
