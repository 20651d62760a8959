"""memoize: keep a function's results in a store.

Owns    the decorator, the keys it makes, and the leases of one process: who computes, who waits.
Threads and tasks any; calls for one key meet in a table of leases while it is being computed.

Invariants
    exceptions are not kept, and are raised to the caller whose call it was
    lease=True  =>  at most one call per key computes at a time in this process; the others wait for
    its result, or compute themselves if it raised
    a result is stored under a key that does not depend on the process (no hash() in it)
"""
from __future__ import annotations

from time import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta
    from typing import Any

    from annapy.store import Store

    Duration = float | str | timedelta

__all__ = ["memoize"]

_ABSENT: Any = object()


def memoize(store: Store, ttl: Duration | None = None, key: str | None = None, *,
            lease: bool = False, stale: Duration | None = None, ignore: Iterable[str] = (),
            ) -> Callable[[Any], Any]:
    """Decorate a plain or async function so that its results are kept in `store`.

    ttl     how long a result is fresh; None: for ever
    key     a template over the parameters, "user:{uid}"; without one, the function's name and a
            digest of its arguments
    lease   let one call per key compute while the others wait for it (no stampede)
    stale   serve a result for that long after `ttl` while one call computes the next
    ignore  names of parameters that do not make a difference

    The function gains `key(…)` (the key of a call), `invalidate(…)` (forget it; whether it was
    there) and `__wrapped__`. Results must be values that the store can keep.

    >>> import annapy
    >>> s = annapy.open()
    >>> @s.memoize("10m", key="square:{n}")
    ... def square(n): return n * n
    >>> square(4), square.key(4), "square:4" in s
    (16, 'square:4', True)
    """
    from annapy.options import duration
    if callable(ttl):
        raise TypeError("memoize takes options: write @s.memoize(), with parentheses")
    if stale is not None and ttl is None:
        raise ValueError("stale= needs a ttl: without one nothing gets stale")
    fresh_s = None if ttl is None else duration(ttl, "ttl")
    stale_s = None if stale is None else duration(stale, "stale")
    ignored = (ignore,) if isinstance(ignore, str) else tuple(ignore)

    def decorate(function: Any) -> Any:
        return _decorated(function, _Memo(store, function, fresh_s, stale_s, key, ignored), lease)

    return decorate


def _decorated(function: Any, memo: _Memo, lease: bool) -> Any:
    from functools import wraps
    from inspect import iscoroutinefunction
    wrapper: Any
    if iscoroutinefunction(function):
        tasks = _TaskLeases()

        @wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            at = memo.key(*args, **kwargs)
            value, fresh = memo.look(at)
            if fresh or (value is not _ABSENT and tasks.busy(at)):
                return value

            async def compute() -> Any:
                again, is_fresh = memo.look(at)
                return again if is_fresh else memo.keep(at, await function(*args, **kwargs))

            return await (tasks.run(at, compute) if lease or memo.stale_s else compute())
    else:
        leases = _ThreadLeases()

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            at = memo.key(*args, **kwargs)
            value, fresh = memo.look(at)
            if fresh or (value is not _ABSENT and leases.busy(at)):
                return value

            def compute() -> Any:
                again, is_fresh = memo.look(at)
                return again if is_fresh else memo.keep(at, function(*args, **kwargs))

            return leases.run(at, compute) if lease or memo.stale_s else compute()

    wrapper.key = memo.key
    wrapper.invalidate = memo.invalidate
    return wrapper


class _Memo:
    """One function's place in a store."""

    __slots__ = ("fresh_s", "ignored", "name", "signature", "stale_s", "store", "template")

    def __init__(self, store: Store, function: Any, fresh_s: float | None, stale_s: float | None,
                 template: str | None, ignored: tuple[str, ...]) -> None:
        from inspect import signature
        self.store = store
        self.fresh_s = fresh_s
        self.stale_s = stale_s
        self.template = template
        self.ignored = ignored
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.signature = signature(function)
        unknown = [name for name in ignored if name not in self.signature.parameters]
        if unknown:
            raise ValueError(f"ignore={unknown} names no parameter of {self.name}"
                             f"{self.signature}")
        if template is not None:
            self._check_template(template)

    def _check_template(self, template: str) -> None:
        from string import Formatter
        for _, field, _, _ in Formatter().parse(template):
            name = "" if field is None else field.split(".")[0].split("[")[0]
            if field is not None and name not in self.signature.parameters:
                raise ValueError(f"key={template!r} names {field!r}, which is no parameter of "
                                 f"{self.name}{self.signature}")

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The store's key for the result of a call with these arguments."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {name: value for name, value in bound.arguments.items()
                     if name not in self.ignored}
        if self.template is not None:
            return self.template.format(**bound.arguments)
        from hashlib import blake2b
        try:
            encoded = self.store._encode(list(arguments.items()))
        except TypeError as error:
            raise TypeError(f"{self.name}: these arguments have no canonical encoding to make a "
                            f"key of ({error}); give key=, or name them in ignore=") from None
        return f"memo:{self.name}:{blake2b(encoded, digest_size=16).hexdigest()}"

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Forget the result for these arguments; whether there was one."""
        return self.store.delete(self.key(*args, **kwargs))

    def look(self, at: str) -> tuple[Any, bool]:
        """(value, whether it is fresh); (_ABSENT, False) if there is none."""
        kept = self.store.get(at, _ABSENT)
        if kept is _ABSENT or self.stale_s is None:
            return kept, kept is not _ABSENT
        if not (isinstance(kept, tuple) and len(kept) == 2):
            return _ABSENT, False
        until, value = kept
        return value, time() < until

    def keep(self, at: str, value: Any) -> Any:
        """Store a result and return it."""
        if self.stale_s is None or self.fresh_s is None:
            self.store.set(at, value, ttl=self.fresh_s)
        else:
            self.store.set(at, (time() + self.fresh_s, value), ttl=self.fresh_s + self.stale_s)
        return value


class _ThreadLeases:
    """Who computes which key. A thread that computes one may ask for another, not for its own."""

    __slots__ = ("_lock", "_running")

    def __init__(self) -> None:
        from _thread import allocate_lock
        self._lock = allocate_lock()
        self._running: dict[str, tuple[int, Any]] = {}

    def busy(self, at: str) -> bool:
        return at in self._running

    def run(self, at: str, compute: Callable[[], Any]) -> Any:
        from _thread import get_ident
        from threading import Event
        me = get_ident()
        while True:
            with self._lock:
                running = self._running.get(at)
                if running is None:
                    mine = self._running[at] = (me, Event())
            if running is None:
                try:
                    return compute()
                finally:
                    with self._lock:
                        del self._running[at]
                    mine[1].set()
            if running[0] == me:     # a recursive function: waiting for itself would be for ever
                return compute()
            running[1].wait()        # then look again: the result is there, or it raised


class _TaskLeases:
    """The same for tasks: a future per key and event loop."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[tuple[int, str], Any] = {}

    def busy(self, at: str) -> bool:
        from asyncio import get_running_loop
        return (id(get_running_loop()), at) in self._running

    async def run(self, at: str, compute: Callable[[], Any]) -> Any:
        from asyncio import current_task, get_running_loop
        loop = get_running_loop()
        slot = (id(loop), at)
        while True:
            running = self._running.get(slot)
            if running is None:
                future = loop.create_future()
                self._running[slot] = (current_task(), future)
                try:
                    return await compute()
                finally:
                    del self._running[slot]
                    if not future.done():
                        future.set_result(None)
            if running[0] is current_task():
                return await compute()
            await running[1]
