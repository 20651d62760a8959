# cython: language_level=3
"""Requests on their way to a shard, and to the disk and back where the shard asks for it.

Owns    how a request is prepared, handed in, retried and refused.
Threads any; a request lives on its caller's stack until it is done.

Invariants
    COLD   =>  the disk is read and the request handed in again, COLD_ROUNDS times at most
    BUSY   =>  a commit is made and the request handed in again
    what a shard refuses becomes an exception that names the key, and nothing has changed
    what waits for a commit is bounded: past dirty_max bytes a shard's writer commits itself
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from annapy._core.memory cimport Memory
from annapy._core.shard cimport Request, Shard


cdef class Requests(Memory):
    cdef uint64_t dirty_max       # past it, a writer commits
    cdef uint64_t commit_at
    cdef bint woken               # the persister knows that there is dirt

    cdef void name(self, Request* request, const uint8_t* key, size_t key_len, uint32_t namespace,
                   uint64_t hash) noexcept nogil
    cdef void prepare(self, Request* request, const uint8_t* key, size_t key_len,
                      uint32_t namespace) noexcept nogil
    cdef int submit(self, Request* request) except -1
    cdef int try_submit(self, Request* request) except -1
    cdef int after_write(self, Shard* shard) except -1
    cdef object load(self, Request* request)
    cdef object bring_in(self, Shard* shard, Request* request)
    cdef int verify_record(self, bytes stored, bytes record) except -1

cpdef str kind_name(int tag)
cdef int raise_status(int status, Request* request) except -1
cdef int strip_header(Request* request) except -1
