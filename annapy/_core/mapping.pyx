"""Mapped memory; mapping.pxd has the contract."""
from libc.stdio cimport snprintf
from libc.stdint cimport int64_t, uint64_t

from annapy._core.codec cimport BAD_OPERATION, CORRUPT, NO_MEMORY, OK, OVER_LIMIT
from bindings cimport linux


cdef void mapping_clear(Mapping* m) noexcept nogil:
    m.base = NULL
    m.size = 0
    m.fd = -1
    m.kind = MAPPING_ANONYMOUS
    m.writable = False


cdef int mapping_map(Mapping* m, int fd, int flags) noexcept nogil:
    cdef int protection = linux.PROT_READ | (linux.PROT_WRITE if m.writable else 0)
    cdef void* at = linux.mmap(NULL, m.size, protection, flags, fd, 0)
    if at == linux.MAP_FAILED:
        return NO_MEMORY
    m.base = <uint8_t*>at
    return OK


cdef int memfd_open(const char* name) noexcept nogil:
    """A memfd that is not executable where the kernel can promise that (6.3)."""
    cdef unsigned int flags = linux.MFD_CLOEXEC | linux.MFD_ALLOW_SEALING
    cdef int fd = linux.memfd_create(name, flags | linux.MFD_NOEXEC_SEAL)
    if fd < 0 and linux.errno == linux.EINVAL:
        fd = linux.memfd_create(name, flags)
    return fd


cdef int mapping_create(Mapping* m, uint64_t size, int kind, const char* name,
                        unsigned int mode) noexcept nogil:
    mapping_clear(m)
    if size == 0 or size > MAPPING_SIZE_MAX:
        return OVER_LIMIT
    m.size = (size + PAGE_SIZE - 1) & ~<uint64_t>(PAGE_SIZE - 1)
    m.kind = kind
    m.writable = True
    if kind == MAPPING_ANONYMOUS:
        return mapping_anonymous(m)
    if kind == MAPPING_MEMFD:
        m.fd = memfd_open(name)
    elif kind == MAPPING_FILE and name != NULL:
        linux.unlink(name)
        m.fd = linux.open(name, linux.O_RDWR | linux.O_CREAT | linux.O_EXCL | linux.O_CLOEXEC
                          | linux.O_NOFOLLOW, mode)
    if m.fd < 0:
        return BAD_OPERATION
    if linux.ftruncate(m.fd, <int64_t>m.size) or linux.fchmod(m.fd, mode):
        mapping_close(m)
        return NO_MEMORY
    if kind == MAPPING_MEMFD and linux.fcntl(m.fd, linux.F_ADD_SEALS, linux.F_SEAL_SHRINK):
        mapping_close(m)
        return BAD_OPERATION
    if mapping_map(m, m.fd, linux.MAP_SHARED) != OK:
        mapping_close(m)
        return NO_MEMORY
    return OK


cdef int mapping_anonymous(Mapping* m) noexcept nogil:
    cdef int status = mapping_map(
        m, -1, linux.MAP_PRIVATE | linux.MAP_ANONYMOUS | linux.MAP_NORESERVE)
    if status == OK and m.size > HUGE_FROM:
        # Advice only: random look-ups over many megabytes live on few translations.
        linux.madvise(m.base + HUGE_FROM, m.size - HUGE_FROM, linux.MADV_HUGEPAGE)
    return status


cdef int mapping_attach(Mapping* m, int fd, bint writable) noexcept nogil:
    cdef linux.stat_t st
    cdef int seals = mapping_seals(fd)
    mapping_clear(m)
    if linux.fstat(fd, &st) or st.st_size <= 0 or <uint64_t>st.st_size > <uint64_t>MAPPING_SIZE_MAX:
        return CORRUPT
    if st.st_size % PAGE_SIZE:
        return CORRUPT
    if seals >= 0 and not seals & linux.F_SEAL_SHRINK:
        return CORRUPT
    m.size = <uint64_t>st.st_size
    m.kind = MAPPING_MEMFD if seals >= 0 else MAPPING_FILE
    m.writable = writable
    return mapping_map(m, fd, linux.MAP_SHARED)


cdef void mapping_close(Mapping* m) noexcept nogil:
    if m.base != NULL:
        linux.munmap(m.base, m.size)
    if m.fd >= 0:
        linux.close(m.fd)
    mapping_clear(m)


cdef int mapping_commit(Mapping* m, uint64_t at, uint64_t size) noexcept nogil:
    if m.kind == MAPPING_ANONYMOUS or size == 0:
        return OK
    if linux.file_reserve(m.fd, <int64_t>at, <int64_t>size) == 0:
        return OK
    return NO_MEMORY


cdef void mapping_discard(Mapping* m, uint64_t at, uint64_t size) noexcept nogil:
    cdef uint64_t end = (at + size) & ~<uint64_t>(PAGE_SIZE - 1)
    at = (at + PAGE_SIZE - 1) & ~<uint64_t>(PAGE_SIZE - 1)
    if at >= end:
        return
    if m.kind == MAPPING_ANONYMOUS:
        linux.madvise(m.base + at, end - at, linux.MADV_DONTNEED)
    else:
        # Refused where the file system has no holes: the memory then stays, which is harmless.
        linux.fallocate(m.fd, linux.FALLOC_FL_PUNCH_HOLE | linux.FALLOC_FL_KEEP_SIZE,
                        <int64_t>at, <int64_t>(end - at))


cdef int mapping_reader_fd(Mapping* m) noexcept nogil:
    cdef char path[32]
    snprintf(path, sizeof(path), "/proc/self/fd/%d", m.fd)
    return linux.open(path, linux.O_RDONLY | linux.O_CLOEXEC)


cdef int mapping_seals(int fd) noexcept nogil:
    return linux.fcntl(fd, linux.F_GET_SEALS)
