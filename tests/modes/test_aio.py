"""The asyncio face: every named method a coroutine that completes at once when it is local."""
from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import annapy
from annapy import aio
from annapy.factories import Factories

PLAIN = {"get_nowait", "namespace", "options", "watch", "batch", "lock", "pin", "memoize", "scan"}


def at_once(coroutine: Any) -> Any:
    """The result of a coroutine that must not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise AssertionError("it suspended")


@pytest.fixture
def a(s: annapy.Store) -> aio.AsyncStore:
    return aio.AsyncStore(s)


def test_every_public_method_is_there() -> None:
    for name in dir(annapy.Store):
        if name.startswith("_") or name == "engine":
            continue
        found = inspect.getattr_static(aio.AsyncStore, name)
        if isinstance(found, property) or name in PLAIN or name in vars(Factories):
            continue
        assert inspect.iscoroutinefunction(found), name
        mine = inspect.signature(found).parameters
        plain = getattr(annapy.Store, name)
        if inspect.isfunction(plain):       # the compiled ones show no signature
            assert list(mine) == list(inspect.signature(plain).parameters), name


def test_local_calls_do_not_suspend(a: aio.AsyncStore) -> None:
    at_once(a.set("k", [1], ttl="1h", tag="t"))
    assert at_once(a.get("k")) == [1]
    assert a.get_nowait("k") == [1]
    assert a.get_nowait("none", 3) == 3
    assert at_once(a.add("k", 2)) is False
    assert at_once(a.cas("k", [1], [2])) is True
    assert at_once(a.incr("n", 3)) == 3
    assert at_once(a.kind("n")) == "counter"
    assert at_once(a.ttl("k")) is None
    assert at_once(a.touch("k", ttl=5)) is True
    assert at_once(a.setdefault("d", 1)) == 1
    assert at_once(a.pop("d")) == 1
    assert at_once(a.pop("d", 9)) == 9
    at_once(a.update({"x": 1}, y=2))
    at_once(a.set_many({"z": 3}))
    assert at_once(a.get_many(["x", "z", "q"], snapshot=True)) == {"x": 1, "z": 3}
    assert at_once(a.delete_many(["z"])) == 1
    assert at_once(a.delete("y")) is True
    assert sorted(at_once(a.keys())) == ["k", "n", "x"]
    assert at_once(a.info("n"))["kind"] == "counter"
    assert at_once(a.stats())["live"] == 3
    at_once(a.counter("n").add(1))
    assert at_once(a.counter("n").value) == 4
    assert at_once(a.ormap("m").counter("f").add(2)) is None
    assert at_once(a.ormap("m").value) == {"f": 2}
    assert at_once(a.read("n")).value == 4
    at_once(a.merge("hi", annapy.lattice.MaxInt().observe(3)))
    assert at_once(a.evict("none")) == 0
    assert at_once(a.popitem())[0] in {"k", "n", "x", "m", "hi"}
    at_once(a.clear())
    assert at_once(a.items()) == at_once(a.values()) == []
    assert at_once(a.conflicts()) == []
    with pytest.raises(KeyError):
        at_once(a.pop("none"))
    with pytest.raises(TypeError):
        a["k"]  # type: ignore[index]


def test_both_ways_to_open(mode: Any) -> None:
    target = mode.path if mode.durable else "mem://"

    async def main() -> None:
        async with aio.open(target, capacity="8MiB") as a:
            await a.set("k", 1)
            assert await a.get("k") == 1
        assert a.closed
        b = await aio.open(target)
        assert await b.get("k") == (1 if mode.durable else None)
        assert repr(b).startswith("<async")
        await b.close()
        with pytest.raises(annapy.StoreClosed):
            await b.get("k")
        with pytest.raises(annapy.NodeUnavailable):
            await aio.connect("anna://localhost:1")

    asyncio.run(main())


def test_waiting_for_the_disk_leaves_the_loop_free(mode: Any) -> None:
    if not mode.durable:
        pytest.skip("memory has no disk to wait for")
    a = aio.AsyncStore(mode.open())

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        await asyncio.gather(*(a.set(f"k{n}", n, ack="disk") for n in range(20)))
        await a.counter("n").add(1, ack="disk")
        durable = a.options(ack="disk")
        await durable.counter("n").add(1)
        await durable.update(x=1)
        async with a.batch(ack="disk") as b:
            b["y"] = 1
        await a.flush()
        ticker.cancel()
        assert ticks > 20
        assert await a.get("n") == 2
        assert await a.warm() == 23

    asyncio.run(main())


def test_scan_watch_lock_batch(a: aio.AsyncStore) -> None:
    async def main() -> None:
        await a.set_many({f"k{n:03}": n for n in range(600)})
        assert [k async for k, _ in a.scan(limit=3)] == ["k000", "k001", "k002"]
        assert len([k async for k, _ in a.scan()]) == 600
        assert len([k async for k in a]) == 600

        async def look() -> list[str]:
            async with a.watch("w:", timeout=5) as events:
                started.set()
                return [(await events.__anext__()).key or "" for _ in range(2)]

        started = asyncio.Event()
        task = asyncio.create_task(look())
        await started.wait()
        await asyncio.sleep(0.01)
        await a.set("w:1", 1)
        await a.set("w:2", 1)
        assert await task == ["w:1", "w:2"]
        async with a.watch(timeout=0.02) as events:
            assert [e async for e in events] == []
        async with a.batch() as b:
            b["w:3"] = 1
            b.counter("c").add(2)
        assert await a.get("c") == 2
        with pytest.raises(LookupError):
            async with a.batch() as b:
                b["gone"] = 1
                raise LookupError
        assert await a.get("gone") is None
        inside = most = 0

        async def work() -> None:
            nonlocal inside, most
            for _ in range(5):
                async with a.lock("l"):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.001)
                    inside -= 1

        await asyncio.gather(*(work() for _ in range(4)))
        assert most == 1
        with pytest.raises(RuntimeError, match="twice"):
            async with a.lock("l"), a.lock("l"):
                pass

    asyncio.run(main())


def test_a_watch_wakes_when_a_key_expires() -> None:
    async def main() -> list[str]:
        async with annapy.aio.open() as s, s.watch(timeout=5) as events:
            await s.set("k", 1, ttl=0.05)
            return [(await anext_of(events)).kind for _ in range(2)]

    async def anext_of(events: Any) -> Any:
        return await events.__anext__()

    assert asyncio.run(main()) == ["set", "expire"]
