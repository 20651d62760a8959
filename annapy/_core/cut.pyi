# What has changed since the last cut; cut.pyx has the invariants.

from typing_extensions import Self

from annapy._core.engine import Engine

class Cut:
    puts: list[tuple[bytes, bytes]]
    deletes: list[bytes]
    deadlines: list[tuple[bytes, int]]
    live: int
    hlc: int
    applied: list[int]
    def __new__(cls, engine: Engine) -> Self: ...
    def __len__(self) -> int: ...
    def done(self, ok: bool) -> None: ...
