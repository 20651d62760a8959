"""Types of the record frame; stored.pyx documents it."""

__all__ = ["DAMAGED", "NOT_CANONICAL", "WHOLE", "inspect", "seal"]

WHOLE: int
DAMAGED: int
NOT_CANONICAL: int

def seal(stored_key: bytes, cell: bytes) -> bytes: ...
def inspect(stored_key: bytes, record: bytes) -> tuple[int, int, int, bool]: ...
