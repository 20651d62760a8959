"""Locks by name, among the threads of one process.

Owns    the table of locks of one store, and Lock, the context manager.
Threads any. A lock dies with its process, and so does its table.

Invariants
    at most one holder whose ttl has not run out
    entries exist only while a lock is held or waited for
"""
from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from annapy.hub import Hub

__all__ = ["Lock", "LockTable"]


class _Held:
    __slots__ = ("holder", "until", "waiters")

    def __init__(self) -> None:
        self.holder: object = None
        self.until: float | None = None
        self.waiters = 0


class LockTable:
    """name: who holds it, until when. One condition for all: locks are few and held long."""

    __slots__ = ("_condition", "_held")

    def __init__(self) -> None:
        from threading import Condition
        self._condition = Condition()
        self._held: dict[bytes, _Held] = {}

    def acquire(self, name: bytes, holder: object, ttl: float | None,
                timeout: float | None) -> bool:
        """Take the lock, waiting at most `timeout`. RuntimeError if `holder` has it."""
        deadline = None if timeout is None else monotonic() + timeout
        with self._condition:
            entry = self._held.setdefault(name, _Held())
            entry.waiters += 1
            try:
                while True:
                    now = monotonic()
                    free = entry.holder is None or (entry.until is not None and entry.until <= now)
                    if free:
                        entry.holder = holder
                        entry.until = None if ttl is None else now + ttl
                        return True
                    if entry.holder == holder:
                        raise RuntimeError(f"lock {name.decode('utf-8', 'replace')!r} is already "
                                           "held here: a lock is not entered twice")
                    ends = [t for t in (deadline, entry.until) if t is not None]
                    if deadline is not None and deadline <= now:
                        return False
                    self._condition.wait(min(ends) - now if ends else None)
            finally:
                entry.waiters -= 1
                self._drop(name, entry)

    def release(self, name: bytes, holder: object) -> bool:
        """Give the lock back; False if it had run out and somebody else has taken it."""
        with self._condition:
            entry = self._held.get(name)
            if entry is None or entry.holder != holder:
                return False
            entry.holder = entry.until = None
            self._drop(name, entry)
            self._condition.notify_all()
            return True

    def _drop(self, name: bytes, entry: _Held) -> None:
        if entry.waiters == 0 and entry.holder is None:
            self._held.pop(name, None)


class Lock:
    """`with s.lock("nightly", ttl="10m"): …`. One holder at a time; not re-entrant."""

    __slots__ = ("_held_by", "_hub", "_name", "_timeout", "_ttl")

    def __init__(self, hub: Hub, name: bytes, ttl: float | None, timeout: float | None) -> None:
        self._hub = hub
        self._name = name
        self._ttl = ttl
        self._timeout = timeout
        self._held_by: Any = None

    def acquire(self, holder: object = None) -> None:
        """Take it. TimeoutError after `timeout`, RuntimeError if this thread (or holder) has it."""
        from _thread import get_ident
        who = get_ident() if holder is None else holder
        if not self._hub.locks().acquire(self._name, who, self._ttl, self._timeout):
            raise TimeoutError(f"lock {self._shown()} was not free within {self._timeout}s: wait "
                               "longer, or give the holder a ttl")
        self._held_by = who

    def try_acquire(self, holder: object) -> bool:
        """Take it if it is free now."""
        if not self._hub.locks().acquire(self._name, holder, self._ttl, 0.0):
            return False
        self._held_by = holder
        return True

    def release(self) -> None:
        """Give it back. AnnapyError if its ttl had run out and another has taken it since."""
        who, self._held_by = self._held_by, None
        if not self._hub.locks().release(self._name, who):
            from annapy.errors import AnnapyError
            raise AnnapyError(f"lock {self._shown()} outlasted its ttl of {self._ttl}s and was "
                              "taken by another: what ran under it may have overlapped")

    def _shown(self) -> str:
        return repr(self._name.decode("utf-8", "replace"))

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.release()
        else:
            self._hub.locks().release(self._name, self._held_by)
            self._held_by = None

    def __repr__(self) -> str:
        return f"<lock {self._shown()}>"
