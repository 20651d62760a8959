"""The same store for asyncio: every named method is a coroutine.

Owns    AsyncStore and what it hands out, each a thin cover of its plain counterpart.
Threads the plain store is safe from any thread; an AsyncStore may be used from any event loop.

Invariants
    what is local completes without suspending: no executor, no task, no sleep
    what waits for a disk or another thread (ack="disk", flush, backup, close, lock) waits in the
    loop's executor, never in the loop
"""
from __future__ import annotations

from annapy.factories import Factories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from datetime import timedelta
    from os import PathLike
    from typing import Any

    from typing_extensions import Self

    from annapy.batch import Batch
    from annapy.lattice.base import Lattice
    from annapy.locks import Lock
    from annapy.store import Store
    from annapy.watch import Event, Watch

    Key = str | bytes
    Ack = str | int
    OpId = str | bytes
    Duration = float | str | timedelta

__all__ = ["AsyncHandle", "AsyncStore", "connect", "open"]

_ABSENT: Any = object()
_SCAN_SLICE = 256


async def _in_thread(call: Callable[..., Any], *args: Any, **how: Any) -> Any:
    from asyncio import get_running_loop
    from functools import partial
    return await get_running_loop().run_in_executor(None, partial(call, *args, **how))


class _Opening:
    """What `open` returns: await it, or enter it with `async with`."""

    __slots__ = ("_open", "_store")

    def __init__(self, open_plain: Callable[[], Store]) -> None:
        self._open = open_plain
        self._store: AsyncStore | None = None

    async def _now(self) -> AsyncStore:
        return AsyncStore(await _in_thread(self._open))

    def __await__(self) -> Any:
        return self._now().__await__()

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._now()
        return self._store

    async def __aexit__(self, *exc: object) -> None:
        if self._store is not None:
            await self._store.close()


def open(target: str | PathLike[str] | None = None, **options: Any) -> _Opening:
    """Open a store as `annapy.open` does; to await, or to enter with `async with`."""
    from annapy.hub import open_store
    return _Opening(lambda: open_store(target, **options))


def connect(url: str, **options: Any) -> _Opening:
    """Connect as `annapy.connect` does; to await, or to enter with `async with`."""
    from annapy.hub import connect as connect_plain
    return _Opening(lambda: connect_plain(url, **options))


class AsyncStore:
    """A Store whose named methods are coroutines; `get_nowait` is plain, and there is no `s[k]`.

    Methods take and do what those of `Store` do. Handles (`s.counter(k)`, …) are made without
    waiting; their operations are coroutines.
    """

    __slots__ = ("__dict__", "_plain")

    def __init__(self, plain: Store) -> None:
        self._plain = plain

    async def _write(self, name: str, ack: Ack | None, *args: Any, **how: Any) -> Any:
        """Call a writing method: here if it is acknowledged from memory, else in a thread."""
        method = getattr(self._plain, name)
        if self._plain._durable(ack):
            return await _in_thread(method, *args, ack=ack, **how)
        return method(*args, ack=ack, **how)

    # --- single keys ------------------------------------------------------------------------------

    def get_nowait(self, k: Key, default: Any = None) -> Any:
        """As `Store.get`, plain: for code that cannot wait."""
        return self._plain.get(k, default)

    async def get(self, k: Key, default: Any = None, *, copy: bool = False,
                  device: str | None = None, stream: Any = None) -> Any:
        """As `Store.get`."""
        return self._plain.get(k, default, copy=copy, device=device, stream=stream)

    async def set(self, k: Key, v: Any, *, ttl: Duration | None = None, tag: str | None = None,
                  ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """As `Store.set`."""
        await self._write("set", ack, k, v, ttl=ttl, tag=tag, op_id=op_id)

    async def add(self, k: Key, v: Any, *, ttl: Duration | None = None, tag: str | None = None,
                  ack: Ack | None = None, op_id: OpId | None = None) -> bool:
        """As `Store.add`."""
        return bool(await self._write("add", ack, k, v, ttl=ttl, tag=tag, op_id=op_id))

    async def cas(self, k: Key, old: Any, new: Any, *, ttl: Duration | None = None,
                  ack: Ack | None = None) -> bool:
        """As `Store.cas`."""
        return bool(await self._write("cas", ack, k, old, new, ttl=ttl))

    async def delete(self, k: Key, *, ack: Ack | None = None, op_id: OpId | None = None) -> bool:
        """As `Store.delete`."""
        return bool(await self._write("delete", ack, k, op_id=op_id))

    async def pop(self, k: Key, default: Any = _ABSENT, /, *, ack: Ack | None = None) -> Any:
        """As `Store.pop`."""
        given = () if default is _ABSENT else (default,)
        return await self._write("pop", ack, k, *given)

    async def popitem(self) -> tuple[str, Any]:
        """As `Store.popitem`."""
        if self._plain._durable(None):
            return await _in_thread(self._plain.popitem)  # type: ignore[no-any-return]
        return self._plain.popitem()

    async def setdefault(self, k: Key, default: Any = None, /, *, ttl: Duration | None = None,
                         ack: Ack | None = None) -> Any:
        """As `Store.setdefault`."""
        return await self._write("setdefault", ack, k, default, ttl=ttl)

    async def incr(self, k: Key, n: int = 1, *, ack: Ack | None = None,
                   op_id: OpId | None = None) -> int:
        """As `Store.incr`."""
        return int(await self._write("incr", ack, k, n, op_id=op_id))

    async def touch(self, k: Key, ttl: Duration | None = None, *, ack: Ack | None = None) -> bool:
        """As `Store.touch`."""
        return bool(await self._write("touch", ack, k, ttl))

    async def ttl(self, k: Key) -> float | None:
        """As `Store.ttl`."""
        return self._plain.ttl(k)

    async def kind(self, k: Key) -> str | None:
        """As `Store.kind`."""
        return self._plain.kind(k)

    async def read(self, k: Key) -> Lattice | None:
        """As `Store.read`."""
        return self._plain.read(k)

    async def merge(self, k: Key, lattice_value: Lattice, *, ack: Ack | None = None,
                    op_id: OpId | None = None) -> None:
        """As `Store.merge`."""
        await self._write("merge", ack, k, lattice_value, op_id=op_id)

    async def info(self, k: Key) -> dict[str, Any]:
        """As `Store.info`."""
        return self._plain.info(k)

    def pin(self, k: Key) -> _AsyncPin:
        """As `Store.pin`, with `async with`."""
        return _AsyncPin(self._plain.pin(k))

    # --- many keys --------------------------------------------------------------------------------

    async def get_many(self, keys: Iterable[Key], *, out: dict[Any, Any] | None = None,
                       snapshot: bool = False) -> dict[Any, Any]:
        """As `Store.get_many`."""
        return self._plain.get_many(keys, out=out, snapshot=snapshot)

    async def set_many(self, mapping: Mapping[Key, Any] | Iterable[tuple[Key, Any]], *,
                       ttl: Duration | None = None, tag: str | None = None,
                       ack: Ack | None = None, op_id: OpId | None = None) -> None:
        """As `Store.set_many`."""
        await self._write("set_many", ack, mapping, ttl=ttl, tag=tag, op_id=op_id)

    async def delete_many(self, keys: Iterable[Key], *, ack: Ack | None = None) -> int:
        """As `Store.delete_many`."""
        return int(await self._write("delete_many", ack, keys))

    async def update(self, other: Any = (), /, **items: Any) -> None:
        """As `Store.update`."""
        if self._plain._durable(None):
            await _in_thread(self._plain.update, other, **items)
        else:
            self._plain.update(other, **items)

    async def clear(self, prefix: Key = "", *, ack: Ack | None = None) -> None:
        """As `Store.clear`."""
        await self._write("clear", ack, prefix)

    async def evict(self, tag: str) -> int:
        """As `Store.evict`."""
        if self._plain._durable(None):
            return int(await _in_thread(self._plain.evict, tag))
        return self._plain.evict(tag)

    async def keys(self, prefix: Key = "") -> list[str]:
        """The live keys that begin with `prefix`, as a list."""
        return list(self._plain.keys(prefix))

    async def values(self) -> list[Any]:
        """The values, as a list."""
        return list(self._plain.values())

    async def items(self) -> list[tuple[str, Any]]:
        """The items, as a list."""
        return list(self._plain.items())

    async def scan(self, prefix: Key = "", *, start: Key | None = None, stop: Key | None = None,
                   reverse: bool = False, limit: int | None = None,
                   ) -> AsyncIterator[tuple[str, Any]]:
        """As `Store.scan`; lets other tasks run every few hundred items."""
        from asyncio import sleep
        items = self._plain.scan(prefix, start=start, stop=stop, reverse=reverse, limit=limit)
        for count, item in enumerate(items, 1):
            yield item
            if count % _SCAN_SLICE == 0:
                await sleep(0)

    # --- views of the store -----------------------------------------------------------------------

    def namespace(self, prefix: Key) -> AsyncStore:
        """As `Store.namespace`; plain, for it touches nothing."""
        return AsyncStore(self._plain.namespace(prefix))

    def options(self, *, ack: Ack | None = None, ttl: Duration | None = None,
                errors: str | None = None) -> AsyncStore:
        """As `Store.options`; plain, for it touches nothing."""
        return AsyncStore(self._plain.options(ack=ack, ttl=ttl, errors=errors))

    # --- what reaches further than one key --------------------------------------------------------

    async def conflicts(self, prefix: Key = "") -> list[tuple[str, Lattice]]:
        """As `Store.conflicts`."""
        return self._plain.conflicts(prefix)

    def watch(self, prefix: Key = "", timeout: Duration | None = None) -> AsyncWatch:
        """`async with s.watch("user:") as events: async for event in events: …`."""
        return AsyncWatch(self._plain.watch(prefix, timeout))

    def batch(self, ack: Ack | None = None) -> AsyncBatch:
        """`async with s.batch() as b: b["k"] = v`: inside, the plain Batch."""
        return AsyncBatch(self._plain, self._plain.batch(ack), ack)

    def lock(self, name: str, *, ttl: Duration | None = None,
             timeout: Duration | None = None) -> AsyncLock:
        """As `Store.lock`, with `async with`; the holder is the task."""
        return AsyncLock(self._plain.lock(name, ttl=ttl, timeout=timeout))

    def memoize(self, ttl: Duration | None = None, key: str | None = None, *, lease: bool = False,
                stale: Duration | None = None, ignore: Iterable[str] = (),
                ) -> Callable[[Any], Any]:
        """As `Store.memoize`."""
        return self._plain.memoize(ttl, key, lease=lease, stale=stale, ignore=ignore)

    async def warm(self, source: Key | Iterable[Key] = "", *, limit: int | None = None) -> int:
        """As `Store.warm`, in a thread."""
        return int(await _in_thread(self._plain.warm, source, limit=limit))

    async def flush(self, timeout: Duration | None = None) -> None:
        """As `Store.flush`, in a thread."""
        await _in_thread(self._plain.flush, timeout)

    async def stats(self) -> dict[str, Any]:
        """As `Store.stats`."""
        return self._plain.stats()

    async def backup(self, path: str | PathLike[str]) -> None:
        """As `Store.backup`, in a thread."""
        await _in_thread(self._plain.backup, path)

    async def close(self) -> None:
        """As `Store.close`, in a thread."""
        await _in_thread(self._plain.close)

    @property
    def closed(self) -> bool:
        """As `Store.closed`."""
        return self._plain.closed

    @property
    def url(self) -> str | None:
        """As `Store.url`."""
        return self._plain.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[str]:
        return _each(iter(self._plain))

    def __repr__(self) -> str:
        return f"<async {self._plain!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncStore, (self._plain,)


async def _each(plain: Any) -> AsyncIterator[Any]:
    for item in plain:
        yield item


def _factory(name: str) -> Any:
    def make(self: AsyncStore, k: Key, *how: Any, **more: Any) -> AsyncHandle:
        return AsyncHandle(getattr(self._plain, name)(k, *how, **more))
    make.__name__ = name
    make.__qualname__ = f"AsyncStore.{name}"
    make.__doc__ = f"As `Store.{name}`: made without waiting; its operations are coroutines."
    return make


for _name in [name for name in vars(Factories) if not name.startswith("_")]:
    setattr(AsyncStore, _name, _factory(_name))


class AsyncHandle:
    """A typed handle whose operations are coroutines.

    `await h.add(3)`, `await h.value`, `h.key`, `h.kind`; a field of a map as `h.counter("f")`,
    reading one as `await h.get(field)`.
    """

    __slots__ = ("_plain",)

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    @property
    def key(self) -> Any:
        """The key."""
        return self._plain.key

    @property
    def kind(self) -> str:
        """The kind of lattice."""
        return self._plain.kind  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if isinstance(getattr(type(self._plain), name, None), property):
            return _later(getattr, self._plain, name)
        found = getattr(self._plain, name)
        if name in vars(Factories):
            return lambda *args, **how: AsyncHandle(found(*args, **how))

        async def operation(*args: Any, **how: Any) -> Any:
            scope = self._plain._scope
            durable = getattr(scope, "_durable", None)
            if how.get("ack") is not None or (durable is not None and durable(None)):
                return await _in_thread(found, *args, **how)
            return found(*args, **how)

        return operation

    def __repr__(self) -> str:
        return f"<async {self._plain!r}>"


async def _later(call: Callable[..., Any], *args: Any) -> Any:
    return call(*args)


class AsyncWatch:
    """`async with` and `async for` over events; a task waits, no thread does."""

    __slots__ = ("_plain",)

    def __init__(self, plain: Watch) -> None:
        self._plain = plain

    async def __aenter__(self) -> Self:
        self._plain.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._plain.close()

    def __aiter__(self) -> AsyncWatch:
        self._plain.open()
        return self

    async def __anext__(self) -> Event:
        from asyncio import Event as Signal
        from asyncio import TimeoutError as TimedOut
        from asyncio import get_running_loop, wait_for
        plain = self._plain
        switchboard = plain._switchboard
        if switchboard is None:
            raise RuntimeError("watch inside its `async with` block, or iterate over it")
        loop = get_running_loop()
        signal = Signal()

        def ring() -> None:
            loop.call_soon_threadsafe(signal.set)

        end = None if plain.timeout is None else loop.time() + plain.timeout
        switchboard.listen(ring)
        try:
            while not plain.over:
                switchboard.look()
                event = plain._take()
                if event is not None:
                    return event
                pause, expiry = plain._pause(None if end is None else end - loop.time())
                try:
                    await wait_for(signal.wait(), pause)
                except TimedOut:
                    if expiry:
                        plain._store.engine.expire()
                        continue
                    event = plain._take()
                    if event is None:
                        break
                    return event
                signal.clear()
        finally:
            switchboard.unlisten(ring)
        raise StopAsyncIteration


class AsyncBatch:
    """`async with s.batch() as b`: b is the plain Batch; leaving the block commits it."""

    __slots__ = ("_ack", "_batch", "_plain")

    def __init__(self, plain: Store, batch: Batch, ack: Ack | None) -> None:
        self._plain = plain
        self._batch = batch
        self._ack = ack

    async def __aenter__(self) -> Batch:
        return self._batch.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        if exc[0] is None and self._plain._durable(self._ack):
            await _in_thread(self._batch.__exit__, *exc)
        else:
            self._batch.__exit__(*exc)  # type: ignore[arg-type]


class AsyncLock:
    """`async with s.lock("nightly")`: waits in the executor only if the lock is taken."""

    __slots__ = ("_plain",)

    def __init__(self, plain: Lock) -> None:
        self._plain = plain

    async def __aenter__(self) -> Self:
        from asyncio import current_task
        task = current_task()
        if not self._plain.try_acquire(task):
            await _in_thread(self._plain.acquire, task)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._plain.__exit__(*exc)  # type: ignore[arg-type]


class _AsyncPin:
    __slots__ = ("_plain",)

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    async def __aenter__(self) -> memoryview:
        return self._plain.__enter__()  # type: ignore[no-any-return]

    async def __aexit__(self, *exc: object) -> None:
        return None
