# cython: language_level=3
"""The engine: a store's shards behind one Python object; bytes in, bytes out.

Built in four: Memory (arena, shards, hazards, fork), Requests (to a shard and back), Reading, and
this, which has what Python calls: operations, batches, expiry, lists, watchers, cuts.

Threads every method may be called from any thread.

Invariants
    closed  =>  every method raises StoreClosed; memory goes when the last Pin does
    a watcher that is too slow loses events and is told so; it never holds up a writer
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from annapy._core.reading cimport Reading


cdef class Engine(Reading):
    cdef long watcher_id

    cdef object apply_once(self, bytes key, int code, int tag, arg, uint32_t ns, int64_t ttl_ms,
                           bytes label, uint32_t flags, uint64_t expect, bytes op_id)
