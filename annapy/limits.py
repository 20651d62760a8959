"""The documented limits, in one place. Past one of them there is an error, never a surprise.

Invariants
    units come last in a name; a `_max` is inclusive
    values that also stand in a .pxd are equal to those there (a test compares them)
"""

from __future__ import annotations

__all__ = [
    "ARRAY_DIMENSIONS_MAX",
    "CELL_SIZE_MAX_BYTES",
    "CLOCK_SKEW_MAX_MS",
    "COLLECTION_FLAT_MAX_BYTES",
    "KEY_SIZE_MAX_BYTES",
    "LABEL_SIZE_MAX_BYTES",
    "NESTING_MAX",
    "OP_ID_SIZE_MAX_BYTES",
    "USER_NAME_SIZE_MAX_BYTES",
    "USER_SIBLINGS_MAX",
    "USER_STATE_MAX_BYTES",
    "VALUE_DEPTH_MAX",
    "WRITE_TIMEOUT_S",
]

KEY_SIZE_MAX_BYTES = 4096
"""A key, in UTF-8."""

CELL_SIZE_MAX_BYTES = 1 << 30
"""A whole cell: header, fields and state."""

NESTING_MAX = 8
"""Maps within maps."""

VALUE_DEPTH_MAX = 64
"""Containers within containers inside one plain value."""

ARRAY_DIMENSIONS_MAX = 32
"""Dimensions of an array."""

COLLECTION_FLAT_MAX_BYTES = 16 * 1024
"""A collection larger than this is kept as a path-copied tree; its canonical bytes are the same."""

USER_SIBLINGS_MAX = 32
"""Unjoined states of a user-defined lattice under one key; past it a writer must read and join."""

USER_STATE_MAX_BYTES = 1 << 20
"""All unjoined states of a user-defined lattice under one key, together."""

USER_NAME_SIZE_MAX_BYTES = 255
"""The registered name of a user-defined lattice, in UTF-8."""

LABEL_SIZE_MAX_BYTES = 255
"""A label given with `tag=`, in UTF-8."""

OP_ID_SIZE_MAX_BYTES = 255
"""An `op_id=`, in UTF-8."""

CLOCK_SKEW_MAX_MS = 60_000
"""How far a clock may be ahead of this one before an operation or a peer is refused."""

WRITE_TIMEOUT_S = 1.0
"""How long a write waits for room in a full ring before `Backpressure`."""
