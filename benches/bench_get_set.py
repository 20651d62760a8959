"""get and set of a 100-byte value over 1,000 warm keys, beside dict, caches and disk caches."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from benches.harness import compare
from benches.peers.local import PEERS, open_peer

if TYPE_CHECKING:
    from pathlib import Path

    import annapy

SLOW = ("diskcache", "py-lmdb")


def each(call: Any, keys: list[str]) -> Any:
    def run() -> None:
        for key in keys:
            call(key)
    return run


def each_set(call: Any, keys: list[str], value: bytes) -> Any:
    def run() -> None:
        for key in keys:
            call(key, value)
    return run


@pytest.mark.benchmark(group="get of 100 bytes, 1,000 keys a round")
@pytest.mark.parametrize("name", ["annapy", *PEERS])
def test_get(benchmark: Any, name: str, store: annapy.Store, keys: list[str], value: bytes,
             directory: Path) -> None:
    get, put = (store.get, store.set) if name == "annapy" else open_peer(name, directory)[:2]
    each_set(put, keys, value)()
    assert get(keys[7]) == value
    benchmark.pedantic(each(get, keys), rounds=5 if name in SLOW else 50, warmup_rounds=1)


@pytest.mark.benchmark(group="set of 100 bytes, 1,000 keys a round")
@pytest.mark.parametrize("name", ["annapy", *PEERS])
def test_set(benchmark: Any, name: str, store: annapy.Store, keys: list[str], value: bytes,
             directory: Path) -> None:
    put = store.set if name == "annapy" else open_peer(name, directory)[1]
    benchmark.pedantic(each_set(put, keys, value), rounds=5 if name in SLOW else 50,
                       warmup_rounds=1)


def test_ratios_get(store: annapy.Store, keys: list[str], value: bytes, directory: Path) -> None:
    each_set(store.set, keys, value)()
    table = dict.fromkeys(keys, value)
    many = keys * 20
    compare("get, 100 bytes", each(store.get, many), each(table.get, many),
            names="annapy get against dict.get", target=2.5, repeats=41)
    get, put, _ = open_peer("diskcache", directory)
    each_set(put, keys, value)()
    compare("get, 100 bytes", each(store.get, many), each(get, keys), scale=20,
            names="annapy get against diskcache get", target=40, at_most=False)


def test_ratios_set(store: annapy.Store, keys: list[str], value: bytes, directory: Path) -> None:
    table: dict[str, bytes] = {}
    many = keys * 20
    compare("set, 100 bytes", each_set(store.set, many, value),
            each_set(table.__setitem__, many, value),
            names="annapy set against dict.__setitem__", target=5, repeats=41)
    put = open_peer("diskcache", directory)[1]
    compare("set, 100 bytes", each_set(store.set, many, value), each_set(put, keys, value),
            scale=20, names="annapy set against diskcache set", target=200, at_most=False,
            repeats=5)


def test_ratio_counter(store: annapy.Store, keys: list[str], value: bytes) -> None:
    """Under 150 ns where dict.get takes 20: 7.5 times it."""
    counter = store.counter("hits")
    table = dict.fromkeys(keys, value)
    many = keys * 20

    def add() -> None:
        for _ in many:
            counter.add(1)

    compare("counter.add", add, each(table.get, many), names="annapy counter.add against dict.get",
            target=7.5, repeats=41)


def test_ratio_random_million() -> None:
    """At random over a million keys, where memory decides."""
    import random

    import annapy

    keys = [f"user:{n:08d}" for n in range(1_000_000)]
    with annapy.open(capacity="1GiB") as store:
        table = {key: bytes(100) + key.encode()[:0] for key in keys}
        for key in keys:
            store[key] = bytes(100)
            table[key] = bytes([1]) * 100
        random.Random(7).shuffle(keys)
        compare("get at random, 1 M keys", each(store.get, keys), each(table.get, keys),
                names="annapy get against dict.get", target=1.2, repeats=7)
