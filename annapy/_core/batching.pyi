# Operations that apply as one; batching.pyx has the invariants.
from typing import Any

from typing_extensions import Self

from annapy._core.engine import Engine

class Batch:
    def __new__(
        cls, engine: Engine, operations: list[tuple[Any, ...]], note: bytes | None = None
    ) -> Self: ...
    def run(self) -> list[tuple[bool, bytes | None, int]] | None: ...

def outcome_of(packed: bytes) -> tuple[bool, bytes | None, int]: ...
