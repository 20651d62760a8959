"""Watching: what changed, told to whoever asks, without stalling who writes.

Owns    Event, Watch (one cursor), and the switchboard that wakes the watchers of a store.
Threads the engine calls the switchboard from writing threads, outside any shard, at most once
        between two polls; a Watch belongs to one reader.

Invariants
    a watcher holds no more than EVENTS_MAX events; what the engine's ring overwrote before it was
    read is one Event(kind="gap")
    a watch sees every event after `with` began, in the order of each key's changes
"""
from __future__ import annotations

from time import monotonic, time

from annapy._arguments import utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

    from annapy.store import Store

__all__ = ["Event", "Watch"]

EVENTS_MAX = 4096
_CAUSES = {"expire": "ttl", "evict": "capacity"}    # where the engine names none


class Event:
    """One change of one key.

    kind    "set", "merge", "delete", "expire", "evict", or "gap": events were lost to slowness
    cause   "local", "ttl", "capacity" or "overrun": what brought it about
    key     None for a gap
    """

    __slots__ = ("cause", "key", "kind")
    __match_args__ = ("key", "kind", "cause")

    key: str | None
    kind: str
    cause: str | None

    def __init__(self, key: str | None = None, kind: str = "set", cause: str | None = None) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "cause", cause)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Event does not change")

    def _parts(self) -> tuple[str | None, str, str | None]:
        return (self.key, self.kind, self.cause)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        return f"Event(key={self.key!r}, kind={self.kind!r}, cause={self.cause!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Event, self._parts()


class Switchboard:
    """Wakes the watchers of one engine. Made with the first watch of a store."""

    __slots__ = ("_condition", "_engine", "_listeners", "_round", "_rung")

    def __init__(self, engine: Any) -> None:
        from threading import Condition
        self._engine = engine
        self._condition = Condition()
        self._round = 0
        self._rung = False
        self._listeners: list[Any] = []
        engine.on_event = self.changed

    def changed(self) -> None:
        """What the engine calls after each change: rings once between two looks, then is free."""
        if not self._rung:
            self._rung = True
            self.ring()

    def ring(self) -> None:
        """Something changed, or somebody is to stop waiting."""
        with self._condition:
            self._round += 1
            self._condition.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def look(self) -> int:
        """The number of the present round, from which a wait starts: call it before polling."""
        self._rung = False
        return self._round

    def wait(self, since: int, timeout: float | None) -> bool:
        """Until a later round than `since`; False if the time ran out."""
        with self._condition:
            return self._condition.wait_for(lambda: self._round != since, timeout)

    def listen(self, listener: Any) -> None:
        """Call `listener()` from the writing thread at each ring; it must not wait."""
        with self._condition:
            self._listeners.append(listener)

    def unlisten(self, listener: Any) -> None:
        """Take a listener back."""
        with self._condition:
            if listener in self._listeners:
                self._listeners.remove(listener)


class Watch:
    """The context manager and iterator that `s.watch` gives.

    Iteration waits for the next event, and ends when `timeout` passes without one or the watch or
    the store is closed.
    """

    __slots__ = ("_id", "_pending", "_prefix", "_store", "_switchboard", "timeout")

    def __init__(self, store: Store, prefix: str | bytes, timeout: float | None) -> None:
        self._store = store
        self._prefix = store._prefix + utf8(prefix)
        self.timeout = timeout
        self._id: int | None = None
        self._pending: list[Event] = []
        self._switchboard: Switchboard | None = None

    def open(self) -> None:
        """Begin to watch; `with` does this."""
        if self._id is None:
            self._store._check_open()
            self._switchboard = self._store._hub.switchboard()
            self._id = self._store.engine.watch_open(self._prefix)

    def close(self) -> None:
        """Stop; an iteration that waits in another thread ends."""
        ident, self._id = self._id, None
        if ident is not None and not self._store.closed:
            self._store.engine.watch_close(ident)
        if self._switchboard is not None:
            self._switchboard.ring()

    def poll(self) -> list[Event]:
        """What has happened since the last look, without waiting."""
        if self._id is None:
            return []
        raw, gap = self._store.engine.watch_poll(self._id, EVENTS_MAX)
        events = [Event(None, "gap", "overrun")] if gap else []
        events += [Event(self._store._user_key(key), kind, cause or _CAUSES.get(kind, "local"))
                   for key, kind, cause in raw]
        return events

    def _take(self) -> Event | None:
        """The next event if there is one now. Events are kept newest first, to pop from the end."""
        if not self._pending:
            self._pending = self.poll()[::-1]
        return self._pending.pop() if self._pending else None

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self._id is None or self._store.closed

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Watch:
        self.open()
        return self

    def __next__(self) -> Event:
        switchboard = self._switchboard
        if switchboard is None:
            raise RuntimeError("watch inside its `with` block, or iterate over it")
        while not self.over:
            since = switchboard.look()
            event = self._take()
            if event is not None:
                return event
            if not self._wait(switchboard, since):
                event = self._take()
                if event is None:
                    break
                return event
        raise StopIteration

    def _wait(self, switchboard: Switchboard, since: int) -> bool:
        """As `switchboard.wait`, but up at deadlines: nobody writes when a key expires."""
        end = None if self.timeout is None else monotonic() + self.timeout
        while not self.over:
            pause, expiry = self._pause(None if end is None else end - monotonic())
            if switchboard.wait(since, pause):
                return True
            if not expiry:
                return False
            self._store.engine.expire()
        return True

    def _pause(self, left: float | None) -> tuple[float | None, bool]:
        """How long to wait, and whether for a key's expiry: at most `left` seconds."""
        due = self._store.engine.next_deadline()
        if due is None:
            return left, False
        pause = max(0.0, due / 1000 - time()) + 0.005     # the coarse clock's step
        return (pause, True) if left is None or pause < left else (left, False)

    def __repr__(self) -> str:
        return f"<watch on {self._prefix.decode('utf-8', 'replace')!r} of {self._store!r}>"
