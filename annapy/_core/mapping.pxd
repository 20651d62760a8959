# cython: language_level=3
"""Mapped memory of three kinds, and the rules under which another process may see it.

Owns    the mapping and, for MEMFD and FILE, the descriptor.
Callers arena (the store's memory) and ring (a client's mail). No locks: creating and closing are
        the business of one thread; commit and discard may run in any thread for ranges it owns.

    kind        memory                        others see it by            given back by
    ANONYMOUS   private, taken as touched     not at all                  madvise(MADV_DONTNEED)
    MEMFD       memfd, mode 0400, sealed      an O_RDONLY re-open of      fallocate(PUNCH_HOLE)
                against shrinking             /proc/self/fd/N
    FILE        a file in a directory of      opening it O_RDONLY         fallocate(PUNCH_HOLE), or
                the caller's, mode 0400                                   not at all

Invariants
    a mapping's size never changes; a descriptor that was mapped is at least that long, and a memfd
    can never become shorter (F_SEAL_SHRINK): a reader of a mapped byte gets a byte, not SIGBUS
    a committed range has memory or blocks behind it until it is discarded
    a discarded range reads as zeros (or, where holes cannot be punched, as it was)
"""
from libc.stdint cimport uint8_t, uint64_t

cdef enum MappingKind:
    MAPPING_ANONYMOUS = 0
    MAPPING_MEMFD = 1
    MAPPING_FILE = 2

cdef enum:
    PAGE_SIZE = 4096
    HUGE_FROM = 0x1000000       # the first 16 MiB stay small pages: an empty store stays small
    MAPPING_SIZE_MAX = 0x100000000000   # 16 TiB

cdef struct Mapping:
    uint8_t* base
    uint64_t size
    int fd                      # -1: anonymous
    int kind
    bint writable

cdef int mapping_create(Mapping* m, uint64_t size, int kind, const char* name,
                        unsigned int mode) noexcept nogil
# Zeroed memory of `size` bytes (rounded up to pages). name: for MEMFD a label, for FILE the path; a
# file that was there is unlinked first, never truncated (who maps it keeps it). mode: what others
# may do, 0400 or 0600. OK, NO_MEMORY, OVER_LIMIT, or BAD_OPERATION: this kind is refused here.
cdef int mapping_attach(Mapping* m, int fd, bint writable) noexcept nogil
# Maps all of another process's memory; the descriptor stays the caller's (m.fd is -1).
# OK, NO_MEMORY, or CORRUPT: empty, or a memfd that may still shrink.
cdef void mapping_close(Mapping* m) noexcept nogil
cdef int mapping_commit(Mapping* m, uint64_t at, uint64_t size) noexcept nogil
# After OK, touching the range cannot raise SIGBUS. NO_MEMORY: no memory or no disk for it.
cdef void mapping_discard(Mapping* m, uint64_t at, uint64_t size) noexcept nogil
# Gives whole pages back to the system. The range must be committed again before it is written.
cdef int mapping_reader_fd(Mapping* m) noexcept nogil
# A new O_RDONLY descriptor of the same memory, for others; -1 with errno.
cdef int mapping_seals(int fd) noexcept nogil
# F_SEAL_* of a memfd; -1 where there are none.
