# cython: language_level=3
"""What lies on disk for a key: a checksum over stored key and cell, then the cell.

    offset  size
    0       4     crc      CRC32C of the stored key (namespace u32 big-endian, key), then the cell
    4       ..    cell     see cell.pxd

Owns    that frame, as Python sees it: sealing one, and looking into one. Pure functions.
Callers the disk tier (its checks; the engine seals and opens records itself), tests.
"""
from annapy._core.cell cimport Cell, cell_parse, cell_verify
from annapy._core.codec cimport OK, Span, load_u32, span, store_u32
from annapy._core.hashing cimport crc32c
from annapy._core.registry cimport LatticeType, lattice_of
from libc.stdint cimport uint8_t, uint32_t

__all__ = ["DAMAGED", "NOT_CANONICAL", "WHOLE", "inspect", "seal"]

WHOLE = 0                      # checksum and cell are right
DAMAGED = 1                    # the checksum is wrong, or there is none
NOT_CANONICAL = 2              # the checksum is right, the cell is not one

cdef enum:
    CRC_SIZE = 4


cdef uint32_t _checksum(bytes stored_key, const uint8_t* cell, size_t size) noexcept:
    cdef const char* key = stored_key
    return crc32c(crc32c(0, key, len(stored_key)), cell, size)


def seal(bytes stored_key not None, bytes cell not None) -> bytes:
    """The record of a cell: its checksum, then itself."""
    cdef const char* at = cell
    cdef uint8_t crc[CRC_SIZE]
    store_u32(crc, _checksum(stored_key, <const uint8_t*>at, len(cell)))
    return (<const char*>crc)[:CRC_SIZE] + cell


def inspect(bytes stored_key not None, bytes record not None) -> tuple:
    """(state, tag, deadline in ms or 0, empty): state is WHOLE, DAMAGED or NOT_CANONICAL.

    `empty` says that nothing observable is left in the cell (a tombstone). Of a record that is not
    whole the rest is (0, 0, False).
    """
    cdef const char* at = record
    cdef const uint8_t* p = <const uint8_t*>at
    cdef size_t size = len(record)
    cdef Cell cell
    cdef Span bytes_of_cell
    cdef const LatticeType* lattice
    cdef bint empty = False
    if size < CRC_SIZE:
        return (DAMAGED, 0, 0, False)
    if load_u32(p) != _checksum(stored_key, p + CRC_SIZE, size - CRC_SIZE):
        return (DAMAGED, 0, 0, False)
    bytes_of_cell = span(p + CRC_SIZE, size - CRC_SIZE)
    if cell_verify(bytes_of_cell) != OK or cell_parse(bytes_of_cell, &cell) != OK:
        return (NOT_CANONICAL, 0, 0, False)
    lattice = lattice_of(cell.tag)
    if lattice != NULL and lattice.is_empty != NULL:
        empty = lattice.is_empty(cell.state)
    return (WHOLE, cell.tag, cell.deadline_ms, empty)
