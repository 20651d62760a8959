# Arena, shards and hazards of an engine; memory.pxd says what they are.
from collections.abc import Callable

from typing_extensions import Self

class Pin:
    nbytes: int
    version: int
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Memory:
    actor: int
    client: int
    closed: bool
    on_event: Callable[[], object] | None
    def __new__(
        cls,
        capacity: int,
        shards: int = 1,
        *,
        actor: int,
        client: int = 0,
        evict: bool = False,
        hash_seed: int = 0,
        arena_kind: int = 0,
        path: bytes | None = None,
    ) -> Self: ...
    def close(self) -> None: ...
    def hold_still(self) -> None: ...
    def go_on(self) -> None: ...
    def become_child(self) -> None: ...
