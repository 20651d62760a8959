"""Peers inside one process: each is (get, set) over str keys and bytes values."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Peer = tuple[Callable[[str], Any], Callable[[str, bytes], Any], Callable[[], Any]]

__all__ = ["PEERS", "open_peer"]


def _dict(_: Path) -> Peer:
    d: dict[str, bytes] = {}
    return d.get, d.__setitem__, d.clear


def _cachetools(_: Path) -> Peer:
    import cachetools

    cache: Any = cachetools.LRUCache(maxsize=1 << 20)
    return cache.get, cache.__setitem__, cache.clear


def _cachebox(_: Path) -> Peer:
    import cachebox

    cache: Any = cachebox.LRUCache(1 << 20)
    return cache.get, cache.__setitem__, cache.clear


def _diskcache(where: Path) -> Peer:
    import diskcache

    cache: Any = diskcache.Cache(str(where / "diskcache"))
    return cache.get, cache.set, cache.close


def _lmdb(where: Path) -> Peer:
    """One transaction an operation, no sync on commit: as fast as it goes for such a use."""
    import lmdb

    env = lmdb.open(str(where / "lmdb"), map_size=1 << 32, sync=False, writemap=False)

    def get(key: str) -> bytes | None:
        with env.begin() as transaction:
            return transaction.get(key.encode())  # type: ignore[no-any-return]

    def put(key: str, value: bytes) -> None:
        with env.begin(write=True) as transaction:
            transaction.put(key.encode(), value)

    return get, put, env.close


PEERS = {"dict": _dict, "cachetools": _cachetools, "cachebox": _cachebox,
         "diskcache": _diskcache, "py-lmdb": _lmdb}


def open_peer(name: str, where: Path) -> Peer:
    """The peer's get, set and close; skips by name where it is not installed."""
    import pytest

    try:
        return PEERS[name](where)
    except ImportError:
        pytest.skip(f"{name} is not installed: pip install '.[bench]'")
