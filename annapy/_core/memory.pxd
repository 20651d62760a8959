# cython: language_level=3
"""The engine's memory: arena, shards and hazards behind one Python object, from birth to fork.

Owns    the arena, the shards, the hazards, the HLC word, the watchers' ring.
Threads any. Nobody waits for a shard while holding the GIL: whoever has the shard may be about to
        fork, with the GIL its next step.

Invariants
    the arena outlives every Pin: a Pin holds its Memory
    hazards.slot[i] != 0  <=>  some Pin or copy in progress uses the slab at that offset
    after a fork the child mints under another actor, and has none of its parent's waiting mail
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from annapy._core.arena cimport Arena
from annapy._core.codec cimport likely
from annapy._core.events cimport EventRing
from annapy._core.shard cimport Hazards, Shard, shard_index
from annapy._core.table cimport Root


cdef class Memory:
    cdef Arena arena
    cdef Root* root
    cdef Shard* shards
    cdef uint32_t shard_count
    cdef uint64_t seed
    cdef uint64_t clock
    cdef readonly uint64_t actor
    cdef readonly uint32_t client
    cdef Hazards hazards
    cdef uint32_t hazard_hint
    cdef uint64_t pinned_bytes
    cdef uint64_t pinned_bytes_max
    cdef EventRing events
    cdef bint watched
    cdef bint marks               # readers leave access hints
    cdef readonly bint closed
    cdef bint foreign             # a forked child of the process that owns the directory
    cdef bint backed
    cdef object backing           # the disk tier, or None
    cdef object loader            # backing.load
    cdef object wake              # backing.wake
    cdef public object on_event
    cdef dict watchers
    cdef object cut               # the cut in flight, or None
    cdef object __weakref__

    cdef inline Shard* shard_of(self, uint64_t hash) noexcept nogil:
        if likely(self.shard_count == 1):      # a branch costs less than the address it waits for
            return self.shards
        return &self.shards[shard_index(hash, self.shard_count)]

    cdef int check(self) except -1
    cdef int64_t hazard_set(self, uint64_t offset) noexcept nogil
    cdef void hazard_clear(self, int64_t at) noexcept nogil


cdef class Pin:
    """A large slab kept as it is for as long as this object lives: read-only bytes of one cell."""
    cdef Memory memory
    cdef int64_t hazard
    cdef const uint8_t* cell
    cdef readonly size_t nbytes
    cdef readonly uint64_t version
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
