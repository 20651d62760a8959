# cython: language_level=3
"""The engine: a store's arena and shards behind one Python object; bytes in, bytes out.

Owns    the arena, the shards, the hazards, the watchers' ring; references to the disk tier.
Threads every method may be called from any thread. Nobody waits for a shard while holding the GIL:
        whoever has the shard may be about to fork, with the GIL its next step.

Invariants
    the arena outlives every Pin: a Pin holds its Engine
    hazards.slot[i] != 0  <=>  some Pin or copy in progress uses the record at that offset
    after a fork the child's engine refuses to write to a disk that its parent owns
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from annapy._core.arena cimport Arena
from annapy._core.codec cimport Buf, Span, likely
from annapy._core.events cimport EventRing
from annapy._core.shard cimport Hazards, Request, Shard, shard_index
from annapy._core.table cimport Found, Root, View


cdef class Engine:
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
    cdef uint64_t dirty_max       # past it, a writer commits
    cdef uint64_t commit_at
    cdef bint woken               # the persister knows that there is dirt
    cdef uint64_t batch_id
    cdef object backing
    cdef object loader           # backing.load
    cdef object wake
    cdef public object on_event
    cdef dict watchers
    cdef long watcher_id
    cdef object cut               # the cut in flight, or None
    cdef object __weakref__

    cdef inline Shard* shard_of(self, uint64_t hash) noexcept nogil:
        if likely(self.shard_count == 1):      # a branch costs less than the address it waits for
            return self.shards
        return &self.shards[shard_index(hash, self.shard_count)]

    cdef int check(self) except -1
    cdef void prepare(self, Request* request, const uint8_t* key, size_t key_len,
                      uint32_t namespace) noexcept nogil
    cdef int submit(self, Request* request) except -1
    cdef int try_submit(self, Request* request) except -1
    cdef int after_write(self, Shard* shard) except -1
    cdef object load(self, Request* request)
    cdef object bring_in(self, Shard* shard, Request* request)
    cdef int verify_record(self, bytes stored, bytes record) except -1
    cdef int64_t pin_tree(self, Shard* shard, Found* found, uint8_t* cell) except -2
    cdef bint copy_tree(self, Shard* shard, Found* found, Buf* out) except -1
    cdef object look_inside(self, bytes key, bytes member, uint32_t ns)
    cdef bint expired(self, Buf* whole) noexcept nogil
    cdef object apply_once(self, bytes key, int code, int tag, arg, uint32_t ns, int64_t ttl_ms,
                           bytes label, uint32_t flags, uint64_t expect, bytes op_id)
    cdef int copy_cell(self, const uint8_t* key, size_t key_len, uint32_t namespace, uint64_t hash,
                       Buf* out, uint64_t* version) except -1
    cdef object pin_cell(self, const uint8_t* key, size_t key_len, uint32_t namespace, uint64_t hash)
    cdef int64_t hazard_set(self, uint64_t offset) noexcept nogil
    cdef void hazard_clear(self, int64_t at) noexcept nogil


cdef class Pin:
    """A large slab kept as it is for as long as this object lives: read-only bytes of one cell."""
    cdef Engine engine
    cdef int64_t hazard
    cdef const uint8_t* cell
    cdef readonly size_t nbytes
    cdef readonly uint64_t version
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

cdef int raise_status(int status, Request* request) except -1
cdef int strip_header(Request* request) except -1
