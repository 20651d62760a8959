# cython: language_level=3
"""The broadcast ring: what changed, for whoever watches; a slow watcher stalls nobody.

Owns     EventRing. Written by shard owners of one process, under a spin lock held for one copy.
Readers  any thread, without a lock: a cursor each; what was overwritten unread is a gap.

    record   u64 position · u32 size · u8 kind · u8 cause · u16 key_len · u32 namespace · key

Invariants
    head - tail <= size            tail: the oldest position that is still whole
    a reader's copy counts only if its position >= tail after the copy
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.codec cimport Buf

cdef enum EventKind:
    EVENT_SET = 1
    EVENT_MERGE = 2
    EVENT_DELETE = 3
    EVENT_EXPIRE = 4
    EVENT_EVICT = 5

cdef struct EventRing:
    uint64_t lock
    uint64_t head                # where the next record goes; only grows
    uint64_t tail
    uint64_t size                # a power of two
    uint8_t* data

cdef int events_init(EventRing* ring, uint64_t size) noexcept nogil
cdef void events_close(EventRing* ring) noexcept nogil
cdef void events_post(EventRing* ring, uint8_t kind, uint8_t cause, uint32_t namespace,
                      const uint8_t* key, size_t key_len) noexcept nogil
cdef bint events_take(EventRing* ring, uint64_t* cursor, Buf* out, bint* gap) noexcept nogil
# Copies the record at `cursor` to `out` (cleared first) and moves on; False: nothing new.
