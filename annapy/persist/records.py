"""How things are spelled on disk: stored keys, cell records, manifests, deadlines, meta rows.

Owns     every byte layout of the disk tier (docs/internals/persist.md draws them). Pure functions.
Callers  the other modules of annapy.persist.

Invariants
    len(fold(key)) <= FOLDED_SIZE = 480           LMDB takes keys up to 511 bytes; suffixes need 9
    len(key) <= KEY_MAX  <=>  fold(key) == key    and then key order is LMDB's order
    len(fold(key)) == FOLDED_SIZE <=> folded      nobody can choose a key that looks like another
    a folded key's record holds the whole key     a digest is never trusted to be the key
    a value of CHUNKED_SIZE announces chunks      CHUNKED_SIZE < RECORD_SIZE_MIN
    every meta row carries a checksum             cells carry the engine's own
"""
from __future__ import annotations

from binascii import crc32
from struct import Struct
from struct import error as struct_error

from annapy.errors import CorruptCellError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CHUNKED_SIZE",
    "CHUNK_SIZE",
    "FOLDED_SIZE",
    "HEAD_SIZE",
    "KEY_MAX",
    "PLAIN_MAX",
    "PREFIX_SIZE",
    "Manifest",
    "chunk_key",
    "chunked_size",
    "due_key",
    "encode_chunked",
    "encode_record",
    "fold",
    "pack_deadline",
    "pack_u64s",
    "parse_due_key",
    "record_body",
    "seal",
    "ttl_key",
    "unpack_deadline",
    "unpack_u64s",
    "unseal",
    "whole_key",
]

NAMESPACE_SIZE = 4
KEY_MAX = 479                  # stored keys up to here are LMDB's keys as they are
PREFIX_SIZE = 448              # of a longer one this much, then a digest
DIGEST_SIZE = 32
FOLDED_SIZE = PREFIX_SIZE + DIGEST_SIZE

CHUNKED_SIZE = 8               # a record is never that short: it is the u64 size of one in chunks
RECORD_SIZE_MIN = 12           # checksum and cell header

PAGE_SIZE = 4096
CHUNK_SIZE = 16 * PAGE_SIZE - 16   # fills 16 pages exactly, LMDB's 16-byte page header included
PLAIN_MAX = 2 * CHUNK_SIZE         # records above are chunked
HEAD_SIZE = 64                 # crc, cell header, stamps: what always changes is not in chunks

_u16 = Struct("<H")
_u32_be = Struct(">I")
_u64 = Struct("<Q")
_u64_be = Struct(">Q")
_manifest = Struct("<QIIB")    # record size, next chunk id, chunks, bytes of head
_entry = Struct("<II")         # chunk id, its length
MANIFEST_ID = b"\0\0\0\0"      # chunk ids begin at 1; row 0 is the manifest


def fold(key: bytes) -> bytes:
    """The LMDB key of a stored key: itself, or 448 bytes of it and a 32-byte digest."""
    if len(key) <= KEY_MAX:
        return key
    from hashlib import blake2b

    return key[:PREFIX_SIZE] + blake2b(key, digest_size=DIGEST_SIZE).digest()


def encode_record(key: bytes, record: bytes) -> bytes:
    """The value in `cells` of a key whose record is not chunked: that record, for most keys."""
    if len(key) <= KEY_MAX:
        return record
    return _u16.pack(len(key)) + key + record


def encode_chunked(key: bytes, size: int) -> bytes:
    """The value in `cells` of a key whose record of `size` bytes lies in `chunks`."""
    return encode_record(key, _u64.pack(size))


def whole_key(row: bytes, value: bytes) -> bytes:
    """The stored key of a row of `cells`: the row's own, unless that is folded."""
    if len(row) != FOLDED_SIZE:
        return row
    end = 2 + _u16.unpack_from(value)[0] if len(value) > 2 else 0
    if end <= 2 + KEY_MAX or end > len(value):
        raise CorruptCellError("a record in cells ends before its key does; restore a backup")
    return value[2:end]


def record_body(row: bytes, value: bytes) -> bytes:
    """What lies in `cells` behind the key: the record, or CHUNKED_SIZE bytes that announce it."""
    if len(row) != FOLDED_SIZE:
        return value
    return value[2 + len(whole_key(row, value)):]


def chunked_size(body: bytes) -> int:
    """The size of the record that a body of CHUNKED_SIZE bytes announces."""
    return int(_u64.unpack(body)[0])


# --- large cells ----------------------------------------------------------------------------

def chunk_key(folded: bytes, number: int) -> bytes:
    """Where chunk `number` of a cell lies in `chunks`; number 0 is the manifest."""
    return folded + _u32_be.pack(number)


class Manifest:
    """The list of chunks that make up one record: ids and lengths, in order.

    An id says nothing about the position, so chunks may be of any length, stay where they are when
    others come in between, and be shared between successive versions of one record.
    """

    __slots__ = ("chunks", "head", "next_id", "size")

    def __init__(
        self, size: int, next_id: int, head: bytes, chunks: list[tuple[int, int]]
    ) -> None:
        self.size = size           # of the whole record
        self.next_id = next_id     # never given to a chunk of this cell yet
        self.head = head           # the record's first bytes
        self.chunks = chunks

    def encode(self) -> bytes:
        """The row that lies before the chunks."""
        rows = b"".join([_entry.pack(number, length) for number, length in self.chunks])
        fixed = _manifest.pack(self.size, self.next_id, len(self.chunks), len(self.head))
        return seal(MANIFEST_ID, fixed + self.head + rows)

    @classmethod
    def decode(cls, value: bytes) -> Manifest:
        """CorruptCellError unless the row is whole and its lengths add up."""
        row = unseal(MANIFEST_ID, value, "a chunk manifest")
        try:
            size, next_id, count, head_len = _manifest.unpack_from(row)
        except struct_error:
            raise CorruptCellError("a chunk manifest is too short; restore a backup") from None
        at = _manifest.size + head_len
        if len(row) != at + count * _entry.size:
            raise CorruptCellError("a chunk manifest has the wrong length; restore a backup")
        chunks = [(number, length) for number, length in _entry.iter_unpack(row[at:])]
        if size != head_len + sum(length for _, length in chunks):
            raise CorruptCellError("a chunk manifest does not add up; restore a backup")
        return cls(size, next_id, row[_manifest.size:at], chunks)


# --- deadlines ------------------------------------------------------------------------------

def due_key(deadline_ms: int, folded: bytes) -> bytes:
    """The row that puts a key in the order of deadlines."""
    return b"\0" + _u64_be.pack(deadline_ms) + folded


def parse_due_key(row: bytes) -> tuple[int, bytes]:
    """(deadline in ms, LMDB key), or CorruptCellError."""
    if len(row) < 9 or row[0] != 0:
        raise CorruptCellError("a row of the deadline index is too short; run `annapy check`")
    return int(_u64_be.unpack_from(row, 1)[0]), row[9:]


def ttl_key(folded: bytes) -> bytes:
    """The row that holds a key's deadline, so that the other can be found when it changes."""
    return b"\1" + folded


def pack_deadline(deadline_ms: int) -> bytes:
    """The value of a row by key."""
    return _u64_be.pack(deadline_ms)


def unpack_deadline(value: bytes) -> int:
    """The deadline in a row by key; CorruptCellError if it has another length."""
    if len(value) != 8:
        raise CorruptCellError("a deadline has the wrong length; run `annapy check`")
    return int(_u64_be.unpack(value)[0])


# --- meta rows ------------------------------------------------------------------------------

def seal(name: bytes, row: bytes) -> bytes:
    """The row with a checksum over its name and itself."""
    return row + crc32(row, crc32(name)).to_bytes(4, "little")


def unseal(name: bytes, value: bytes, what: str) -> bytes:
    """The row without its checksum. CorruptCellError, naming `what`, if it does not match."""
    row = value[:-4]
    if len(value) < 4 or crc32(row, crc32(name)).to_bytes(4, "little") != value[-4:]:
        raise CorruptCellError(f"{what} is damaged: its checksum is wrong; restore a backup")
    return row


def pack_u64s(numbers: Iterable[int]) -> bytes:
    """Little-endian, one after the other."""
    return b"".join([_u64.pack(number) for number in numbers])


def unpack_u64s(row: bytes) -> list[int]:
    """The numbers in a row whose length is a multiple of 8."""
    return [number for (number,) in _u64.iter_unpack(row)]
