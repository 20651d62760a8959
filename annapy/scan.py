"""Looking over many keys: resident ones from the engine, cold ones from the disk tier, merged.

Owns    iteration, sorted scans, search by label, warming.
Threads any; nothing is locked between two keys.

Invariants
    a key that is live throughout is yielded exactly once: it is resident when the snapshot of
    resident keys is taken, or it is on disk then, and what is on disk stays there until deleted
    sorted means by the bytes of the key
"""
from __future__ import annotations

from heapq import merge as merge_sorted

from annapy._arguments import utf8
from annapy._codes import NAMESPACE_USER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from annapy.store import Store

__all__ = ["keys_with_label", "live_keys", "sorted_keys", "warm"]


def live_keys(store: Store, prefix: bytes) -> Iterator[bytes]:
    """Full keys that begin with `prefix`, in no order; each was live when it was yielded."""
    engine = store.engine
    resident = engine.keys(prefix)
    if store._hub.persister is None:
        yield from resident
        return
    yield from resident
    seen = set(resident)
    for key in _on_disk(store, prefix, None, None, False):
        if key not in seen and store._read(key) is not None:
            yield key


def sorted_keys(store: Store, prefix: bytes, start: bytes | None, stop: bytes | None,
                reverse: bool) -> Iterator[bytes]:
    """Full keys in order, with start <= key < stop. Some may be gone: look before using one."""
    low = prefix if start is None or start < prefix else start
    resident = [key for key in store.engine.keys(prefix)
                if key >= low and (stop is None or key < stop)]
    resident.sort(reverse=reverse)
    if store._hub.persister is None:
        yield from resident
        return
    last = None
    cold = _on_disk(store, prefix, low, stop, reverse)
    for key in merge_sorted(resident, cold, reverse=reverse):
        if key != last:
            yield key
        last = key


def _on_disk(store: Store, prefix: bytes, start: bytes | None, stop: bytes | None, reverse: bool,
             ) -> Iterator[bytes]:
    """Full keys that the last commit has, in order."""
    rows = store._hub.persister.scan(prefix, start, stop, namespace=NAMESPACE_USER,
                                     reverse=reverse)
    for key, _ in rows:
        yield key


def keys_with_label(store: Store, prefix: bytes, label: bytes) -> Iterator[bytes]:
    """Full keys whose latest write carried the label."""
    resident = store.engine.keys(prefix, label=label)
    yield from resident
    if store._hub.persister is None:
        return
    seen = set(resident)
    for key in _on_disk(store, prefix, None, None, False):
        if key not in seen:
            info = store.engine.info(key)
            if info is not None and info["label"] == label:
                yield key


def warm(store: Store, source: Any, limit: int | None) -> int:
    """See Store.warm."""
    if isinstance(source, str) and "://" in source:
        return _warm_from(store, source, limit)
    keys: Iterable[Any]
    if isinstance(source, (str, bytes)):
        prefix = store._prefix + utf8(source)
        keys = sorted_keys(store, prefix, None, None, False)
    else:
        keys = (store._key(k) for k in source)
    count = 0
    for key in keys:
        if limit is not None and count >= limit:
            break
        count += store._read(key) is not None
    return count


def _warm_from(store: Store, url: str, limit: int | None) -> int:
    """Join the cells of another store into this one."""
    from annapy.hub import open_store
    count = 0
    with open_store(url, readonly=None if url.startswith("mem:") else True) as other:
        for key in other:
            if limit is not None and count >= limit:
                break
            value = other.read(key)
            if value is not None:
                store.merge(key, value)
                count += 1
    return count
