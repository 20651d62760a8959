# The compiled core of a Store and of its handles; _store.pyx has the rules.
from datetime import timedelta
from typing import Any

from typing_extensions import Self

__all__ = ["CounterCore", "HandleCore", "StoreCore"]

class StoreCore:
    engine: Any
    _prefix: bytes
    _ack: str | int
    _hub: Any
    _ttl_ms: int
    _allow_pickle: bool
    def __new__(cls, *args: Any, **how: Any) -> Self: ...
    def __getitem__(self, k: str | bytes, /) -> Any: ...
    def __setitem__(self, k: str | bytes, v: Any, /) -> None: ...
    def __delitem__(self, k: str | bytes, /) -> None: ...
    def __contains__(self, k: object, /) -> bool: ...
    def get(
        self,
        k: str | bytes,
        default: Any = None,
        *,
        copy: bool = False,
        device: str | None = None,
        stream: Any = None,
    ) -> Any: ...
    def set(
        self,
        k: str | bytes,
        v: Any,
        *,
        ttl: float | str | timedelta | None = None,
        tag: str | None = None,
        ack: str | int | None = None,
        op_id: str | bytes | None = None,
    ) -> None: ...
    def _present(self, key: bytes, tag: int, state: bytes) -> Any: ...
    def _set_pairs(self, pairs: Any, ttl_ms: int) -> None: ...

class HandleCore:
    _scope: Any
    _at: bytes
    def __init__(self, scope: Any, at: bytes) -> None: ...

class CounterCore(HandleCore):
    def add(
        self, n: int = 1, *, ack: str | int | None = None, op_id: str | bytes | None = None
    ) -> None: ...
    def sub(
        self, n: int = 1, *, ack: str | int | None = None, op_id: str | bytes | None = None
    ) -> None: ...
