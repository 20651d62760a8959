"""A double of the engine, for tests of the disk tier alone: a dict of cells, dirty keys, cuts.

It stands in for annapy._core.engine only in what the tier sees of it: `collect()` gives a cut with
puts, deletes, deadlines, live, hlc, applied and done(); `wake` of the tier is called when the first
key becomes dirty. Values are framed as LWW-like cells that the real checker accepts.
"""
from __future__ import annotations

import struct
import threading

from annapy._core import stored

NS = b"\0\0\0\1"


def cell(value: bytes) -> bytes:
    """A canonical cell of an unknown tag: opaque state, which every check passes."""
    return struct.pack("<BBBBI", 1, 200, 0, 0, len(value)) + value


def cell_with_deadline(value: bytes, deadline_ms: int) -> bytes:
    stamp = struct.pack("<QQI", deadline_ms << 16, 7, 1)
    body = struct.pack("<Q", deadline_ms) + stamp + value
    return struct.pack("<BBBBI", 1, 200, 2, 0, len(body)) + body


def value_of(key: bytes, rec: bytes | None) -> bytes | None:
    """What was put, after the checks that the engine makes; None if nothing is there."""
    if rec is None:
        return None
    state, _, deadline_ms, _ = stored.inspect(key, rec)
    assert state == stored.WHOLE, (key, rec)
    return rec[4 + 8 + (28 if deadline_ms else 0):]


class CutDouble:
    def __init__(self, engine: EngineDouble, dirty: dict[bytes, tuple[bytes | None, int]]) -> None:
        self._engine = engine
        self._dirty = dirty
        self.puts = []
        self.deletes = []
        self.deadlines = []
        for key, (value, deadline_ms) in dirty.items():
            if value is None:
                self.deletes.append(key)
                continue
            whole = cell_with_deadline(value, deadline_ms) if deadline_ms else cell(value)
            self.puts.append((key, stored.seal(key, whole)))
            if deadline_ms:
                self.deadlines.append((key, deadline_ms))
        self.live = len(engine.cells)
        self.hlc = engine.hlc
        self.applied = [engine.ticket]
        self.outcome: bool | None = None

    def done(self, ok: bool) -> None:
        assert self.outcome is None, "a cut is settled once"
        self.outcome = ok
        if not ok:
            with self._engine.lock:
                self._engine.dirty = {**self._dirty, **self._engine.dirty}


class EngineDouble:
    def __init__(self, tier=None) -> None:
        self.lock = threading.Lock()
        self.cells: dict[bytes, bytes] = {}
        self.dirty: dict[bytes, tuple[bytes | None, int]] = {}
        self.hlc = 1 << 16
        self.ticket = 0
        self.cuts: list[CutDouble] = []
        self.wakes = 0
        self.tier = tier
        if tier is not None:
            self.ticket = sum(tier.state.applied)
            self.hlc = max(self.hlc, tier.state.hlc_bound)
            for key, rec in tier.scan(values=True):
                self.cells[NS + key] = value_of(NS + key, rec)
            tier.attach(self.collect)

    def put(self, key: bytes, value: bytes | None, deadline_ms: int = 0) -> None:
        with self.lock:
            first = not self.dirty
            if value is None:
                self.cells.pop(key, None)
            else:
                self.cells[key] = value
            self.dirty[key] = (value, deadline_ms)
            self.ticket += 1
            self.hlc += 1
        if first and self.tier is not None:
            self.wakes += 1
            self.tier.wake()

    def collect(self) -> CutDouble:
        with self.lock:
            dirty, self.dirty = self.dirty, {}
            cut = CutDouble(self, dirty)
        self.cuts = [*self.cuts[-3:], cut]
        return cut
