# cython: language_level=3
"""Records: writing, hiding, freeing and evicting them, with a shard taken.

Owns    the memory side of a change: a fresh slab filled, published by one store, the old one freed.
Callers shard.pyx and cut.pyx, while they have the shard.

Invariants
    a record is complete before the store that makes it visible; its version is the ticket
    a failure leaves the table, the books and the memory as they were
    a slab over COPIED_MAX is re-used only when no hazard names it; until then it is in limbo
    REC_DIRTY, REC_COMMITTING, REC_BATCH => not evicted
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from annapy._core.shard cimport Shard
from annapy._core.table cimport Place, Record

cdef int record_publish(Shard* shard, Place* place, const uint8_t* cell, size_t cell_len,
                        uint32_t flags, uint64_t deadline_ms, bint batch, bint clean) noexcept nogil
# A fresh record for the key at `place`; OK, NO_MEMORY, or BUSY: a commit would make room.
cdef int record_room(Shard* shard, uint64_t size, const Record* protect) noexcept nogil
# Evict or demote until `size` more bytes fit, sparing one key: OK, BUSY (everything left is waiting
# for a commit) or NO_MEMORY.
cdef void record_forget(Shard* shard, Place* place) noexcept nogil
# Take a key out of the table, its books and memory; no event, no count.
cdef void record_post(Shard* shard, uint8_t kind, const Record* record) noexcept nogil
cdef uint64_t record_hash(Shard* shard, const Record* record) noexcept nogil
cdef uint64_t record_deadline(const Record* record) noexcept nogil
cdef void batch_end(Shard* shard, bint keep) noexcept nogil
# keep: after Root.batch went to zero; else before it does: undo everything.
