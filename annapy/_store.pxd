# cython: language_level=3
"""The compiled core of a Store and of its handles; _store.pyx has the rules."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from annapy._core.cell cimport Cell
from annapy._core.codec cimport Buf
from annapy._core.engine cimport Engine


cdef class StoreCore:
    cdef object __weakref__
    cdef object _engine          # an Engine, or what stands in its place once closed
    cdef Engine fast             # the same if it is an Engine, else None
    cdef public object _hub
    cdef bytes prefix
    cdef object ack
    cdef bint quick              # nothing waits for the disk unless asked to
    cdef public int64_t _ttl_ms
    cdef public bint _allow_pickle
    cdef Buf scratch
    cdef uint64_t scratch_taken

    cdef int refuse(self) except -1
    cdef object look(self, object k)
    cdef object look_on_disk(self, const uint8_t* key, size_t n, uint64_t hash)
    cdef object show(self, const uint8_t* key, size_t n, Cell* cell)
    cdef object look_further(self, const uint8_t* key, size_t n, uint64_t hash)
    cdef int store(self, object k, object v, int64_t ttl_ms) except -1


cdef class HandleCore:
    cdef object __weakref__
    cdef public object _scope
    cdef public bytes _at


cdef class CounterCore(HandleCore):
    cdef int plain(self, int64_t n) except -1
