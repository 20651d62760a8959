"""What a Store does most often, in Python: the same interface as the compiled core.

Owns    StoreCore: the engine, the key prefix, and the defaults of one Store object.
Threads any number.

Invariants
    a full key is prefix + the caller's key in UTF-8, at most KEY_SIZE_MAX_BYTES
    engine is closed  =>  every method raises StoreClosed
"""
from __future__ import annotations

from annapy import values
from annapy._codes import (
    OP_SET,
    REQ_DELETE,
    STAMP_SIZE,
    TAG_LWW,
    TTL_NONE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["StoreCore"]


class StoreCore:
    """get, set, and the mapping's item access."""

    __slots__ = ("__weakref__", "_ack", "_allow_pickle", "_hub", "_prefix", "_ttl_ms", "engine")

    def get(self, k, default=None, *, copy=False, device=None, stream=None):
        found = self.engine.read(self._key(k))
        if found is None:
            return default
        value = self._present(self._key(k), found[0], found[1])
        if copy or device is not None:
            return self._placed(value, copy, device, stream)
        return value

    def __getitem__(self, k):
        key = self._key(k)
        found = self.engine.read(key)
        if found is None:
            raise KeyError(k)
        return self._present(key, found[0], found[1])

    def __contains__(self, k):
        return self.engine.read(self._key(k)) is not None

    def set(self, k, v, *, ttl=None, tag=None, ack=None, op_id=None):
        self._set_slow(k, v, ttl, tag, ack, op_id)

    def __setitem__(self, k, v):
        self._set_slow(k, v, None, None, None, None)

    def __delitem__(self, k):
        applied, _, _ = self._apply(self._key(k), 0, 0, flags=REQ_DELETE)
        if not applied:
            raise KeyError(k)

    def _present(self, key, tag, state):
        if tag == TAG_LWW:
            return values.decode(state[STAMP_SIZE:], self._allow_pickle)
        return self._present_other(key, tag, state)
