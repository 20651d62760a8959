"""memoize: results kept, one computation at a time, stale while a new one is made."""
from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import annapy


def test_results_are_kept(s: annapy.Store) -> None:
    calls = []

    @s.memoize("10m")
    def square(n: int, scale: int = 1) -> int:
        """Doc."""
        calls.append(n)
        return n * n * scale

    assert [square(3), square(n=3), square(3, 1), square(3, 2)] == [9, 9, 9, 18]
    assert len(calls) == 2
    assert square.__doc__ == "Doc."
    assert (s.ttl(square.key(3)) or 0) > 500
    assert square.invalidate(3) is True
    assert square.invalidate(3) is False
    square(3)
    assert len(calls) == 3


def test_key_templates(s: annapy.Store) -> None:
    @s.memoize(key="user:{uid}:{opts[lang]}")
    def load(uid: int, opts: dict[str, str], trace: object = None) -> str:
        return f"{uid}"

    assert load.key(7, {"lang": "de"}) == "user:7:de"
    assert load(7, {"lang": "de"}) == s["user:7:de"] == "7"
    with pytest.raises(ValueError, match="no parameter"):
        s.memoize(key="user:{id}")(load.__wrapped__)
    with pytest.raises(ValueError, match="no parameter"):
        s.memoize(ignore=["nothing"])(load.__wrapped__)
    with pytest.raises(TypeError, match="parentheses"):
        s.memoize(load.__wrapped__)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stale="):
        s.memoize(stale=5)


def test_ignored_parameters(s: annapy.Store) -> None:
    calls = []

    @s.memoize(ignore=("trace",))
    def load(uid: int, trace: object = None) -> int:
        calls.append(uid)
        return uid

    load(1, trace=object())
    load(1, trace=object())
    assert calls == [1]

    @s.memoize()
    def strict(x: object) -> int:
        return 1

    with pytest.raises(TypeError, match="key="):
        strict(object())


def test_none_is_a_result_and_exceptions_are_not(s: annapy.Store) -> None:
    calls = []

    @s.memoize("1m")
    def flaky(n: int) -> None:
        calls.append(n)
        if len(calls) == 1:
            raise LookupError(n)

    with pytest.raises(LookupError):
        flaky(1)
    assert flaky(1) is None
    assert flaky(1) is None
    assert len(calls) == 2


def test_a_lease_lets_one_compute(s: annapy.Store) -> None:
    calls = []

    @s.memoize("1m", lease=True)
    def slow(n: int) -> int:
        calls.append(n)
        time.sleep(0.05)
        return n

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(slow(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 8
    assert calls == [1]


def test_a_lease_whose_holder_fails_goes_on_to_the_next(s: annapy.Store) -> None:
    calls = []
    lock = threading.Lock()

    @s.memoize("1m", lease=True)
    def flaky() -> int:
        with lock:
            calls.append(1)
            first = len(calls) == 1
        time.sleep(0.02)
        if first:
            raise LookupError
        return 5

    results: list[Any] = []

    def call() -> None:
        try:
            results.append(flaky())
        except LookupError:
            results.append("failed")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["5", "5", "5", "failed"]
    assert len(calls) == 2


def test_recursion_under_a_lease(s: annapy.Store) -> None:
    @s.memoize("1m", key="fib:{n}", lease=True)
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(30) == 832040


def test_stale_results_serve_while_one_computes(s: annapy.Store) -> None:
    calls = []
    gate = threading.Event()

    @s.memoize(ttl=0.05, stale=60, key="v")
    def version() -> int:
        calls.append(1)
        if len(calls) > 1:
            gate.wait(5)
        return len(calls)

    assert version() == 1
    time.sleep(0.08)
    refresher = threading.Thread(target=version)
    refresher.start()
    while len(calls) < 2:
        time.sleep(0.001)
    assert version() == 1               # stale, at once
    gate.set()
    refresher.join()
    assert version() == 2


def test_coroutines(s: annapy.Store) -> None:
    calls = []

    @s.memoize("1m", key="c:{n}", lease=True)
    async def slow(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0.02)
        if n < 0:
            raise LookupError(n)
        return n

    async def main() -> None:
        assert await asyncio.gather(*(slow(4) for _ in range(10))) == [4] * 10
        assert calls == [4]
        failed = await asyncio.gather(*(slow(-1) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(x, LookupError) for x in failed)
        assert slow.key(4) == "c:4"
        assert slow.invalidate(4)
        assert await slow(4) == 4

    asyncio.run(main())
    assert calls.count(4) == 2


def test_methods(s: annapy.Store) -> None:
    class Service:
        calls = 0

        @s.memoize("1m", key="item:{item}", ignore=["self"])
        def load(self, item: int) -> int:
            Service.calls += 1
            return item

    assert Service().load(1) == Service().load(1) == 1
    assert Service.calls == 1
