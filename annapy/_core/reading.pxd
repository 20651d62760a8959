# cython: language_level=3
"""Reading cells: copied under validation, pinned, or flattened from a tree; never with a lock.

Owns    nothing but its moment: a copy, or a hazard while it looks.
Threads any. A reader waits for nobody, unless the key is on disk only, or for read_many's moment.

Invariants
    what is returned was the key's live cell at some moment of the call
    retries are bounded: a key that changes faster than it can be copied is an error, not a hang
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from annapy._core.codec cimport Buf
from annapy._core.requests cimport Requests
from annapy._core.shard cimport Shard
from annapy._core.table cimport Found


cdef class Reading(Requests):
    cdef int copy_cell(self, const uint8_t* key, size_t key_len, uint32_t namespace, uint64_t hash,
                       Buf* out, uint64_t* version) except -1
    cdef object pin_cell(self, const uint8_t* key, size_t key_len, uint32_t namespace,
                         uint64_t hash)
    cdef int64_t pin_tree(self, Shard* shard, Found* found, uint8_t* cell) except -2
    cdef bint copy_tree(self, Shard* shard, Found* found, Buf* out) except -1
    cdef object look_inside(self, bytes key, bytes member, uint32_t ns)
    cdef bint expired(self, Buf* whole) noexcept nogil
