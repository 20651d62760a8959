"""The numbers that the Python face and the core agree on: tags, operation codes, request flags.

Owns    copies of the C enums of cell.pxd, registry.pxd and shard.pxd, which Python cannot see
        (a cpdef enum would load `enum`, and with it five milliseconds, at import).

Invariants
    each name here has the value that the .pxd gives it (a test reads both)
"""
from __future__ import annotations

__all__ = [
    "NAMESPACE_SYSTEM",
    "NAMESPACE_USER",
    "OP_ADD",
    "OP_CLEAR",
    "OP_ENABLE",
    "OP_MERGE",
    "OP_NONE",
    "OP_OBSERVE",
    "OP_OFFER",
    "OP_REMOVE",
    "OP_SET",
    "OP_UPDATE",
    "REQ_DELETE",
    "REQ_IF_ABSENT",
    "REQ_IF_PRESENT",
    "REQ_IF_VERSION",
    "REQ_RETURN_NEW",
    "REQ_RETURN_OLD",
    "REQ_TOUCH",
    "STAMP_SIZE",
    "TAG_CAUSAL",
    "TAG_CLOCK",
    "TAG_FLAG",
    "TAG_GCOUNTER",
    "TAG_GSET",
    "TAG_HLL",
    "TAG_LWW",
    "TAG_MAP",
    "TAG_MAXARRAY",
    "TAG_MAXFLOAT",
    "TAG_MAXINT",
    "TAG_MINFLOAT",
    "TAG_MININT",
    "TAG_MULTICAUSAL",
    "TAG_MVREGISTER",
    "TAG_NONE",
    "TAG_ORDERED_SET",
    "TAG_ORMAP",
    "TAG_ORSET",
    "TAG_PNCOUNTER",
    "TAG_PRIORITY",
    "TAG_SUMARRAY",
    "TAG_USER",
    "TTL_KEEP",
    "TTL_NONE",
    "counted",
    "members",
    "varint",
]

TAG_NONE = 0
TAG_MAXINT = 1
TAG_MININT = 2
TAG_MAXFLOAT = 3
TAG_MINFLOAT = 4
TAG_FLAG = 5
TAG_LWW = 6
TAG_PRIORITY = 7
TAG_GCOUNTER = 8
TAG_PNCOUNTER = 9
TAG_GSET = 10
TAG_ORSET = 11
TAG_ORDERED_SET = 12
TAG_MAP = 13
TAG_ORMAP = 14
TAG_CLOCK = 15
TAG_MVREGISTER = 16
TAG_CAUSAL = 17
TAG_MULTICAUSAL = 18
TAG_MAXARRAY = 19
TAG_SUMARRAY = 20
TAG_HLL = 21
TAG_USER = 22

OP_NONE = 0
OP_SET = 1
OP_ADD = 2
OP_REMOVE = 3
OP_OBSERVE = 4
OP_ENABLE = 5
OP_OFFER = 6
OP_UPDATE = 7
OP_CLEAR = 8
OP_MERGE = 9

REQ_IF_ABSENT = 1
REQ_IF_PRESENT = 2
REQ_IF_VERSION = 4
REQ_RETURN_OLD = 8
REQ_RETURN_NEW = 16
REQ_DELETE = 32
REQ_TOUCH = 64

TTL_KEEP = -1
TTL_NONE = 0

NAMESPACE_SYSTEM = 0
NAMESPACE_USER = 1

STAMP_SIZE = 20


def varint(number: int) -> bytes:
    """LEB128, least significant group first: the spelling that the core reads."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def counted(data: bytes) -> bytes:
    """The length as a varint, then the bytes."""
    return varint(len(data)) + data


def members(encoded: list[bytes]) -> bytes:
    """The argument of the operations that take members: varint count, then each counted."""
    return varint(len(encoded)) + b"".join(counted(m) for m in encoded)
