# cython: language_level=3
"""What the memory layer needs of POSIX and Linux, as it is declared in the system's headers.

Owns    nothing: declarations, and a 0 or -1 for what a system does not have. A caller tests
        HAVE_MEMFD, HAVE_EVENTFD, HAVE_FUTEX, HAVE_FALLOCATE (compile-time 0 or 1) before it relies
        on one of them; where the constant is 0 the function fails with errno = ENOSYS.
Source  memfd_create(2), fcntl(2), eventfd(2), futex(2), madvise(2), fallocate(2).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <sched.h>
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/types.h>
    #if defined(__linux__)
    #include <linux/futex.h>
    #include <sys/eventfd.h>
    #include <sys/syscall.h>
    #define ANNAPY_HAVE_FALLOCATE 1
    #define ANNAPY_HAVE_EVENTFD 1
    #else
    #define ANNAPY_HAVE_FALLOCATE 0
    #define ANNAPY_HAVE_EVENTFD 0
    #endif
    #if defined(__linux__) && defined(SYS_memfd_create)
    #define ANNAPY_HAVE_MEMFD 1
    #else
    #define ANNAPY_HAVE_MEMFD 0
    #endif
    #if defined(__linux__) && defined(SYS_futex)
    #define ANNAPY_HAVE_FUTEX 1
    #else
    #define ANNAPY_HAVE_FUTEX 0
    #endif

    /* Constants that older headers lack; the numbers are the kernel's. */
    #ifndef MFD_CLOEXEC
    #define MFD_CLOEXEC 0x0001U
    #endif
    #ifndef MFD_ALLOW_SEALING
    #define MFD_ALLOW_SEALING 0x0002U
    #endif
    #ifndef MFD_NOEXEC_SEAL
    #define MFD_NOEXEC_SEAL 0x0008U
    #endif
    #ifndef F_ADD_SEALS
    #define F_ADD_SEALS 1033
    #define F_GET_SEALS 1034
    #endif
    #ifndef F_SEAL_SEAL
    #define F_SEAL_SEAL 0x0001
    #define F_SEAL_SHRINK 0x0002
    #define F_SEAL_GROW 0x0004
    #define F_SEAL_WRITE 0x0008
    #endif
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    #ifndef MADV_HUGEPAGE
    #define MADV_HUGEPAGE (-1)
    #endif
    #ifndef FALLOC_FL_KEEP_SIZE
    #define FALLOC_FL_KEEP_SIZE 1
    #define FALLOC_FL_PUNCH_HOLE 2
    #endif
    #ifndef EFD_CLOEXEC
    #define EFD_CLOEXEC 0
    #define EFD_NONBLOCK 0
    #endif

    static inline int annapy_memfd(const char *name, unsigned flags) {
    #if ANNAPY_HAVE_MEMFD
        return (int)syscall(SYS_memfd_create, name, flags);
    #else
        (void)name; (void)flags; errno = ENOSYS; return -1;
    #endif
    }
    static inline int annapy_fallocate(int fd, int mode, int64_t at, int64_t size) {
    #if ANNAPY_HAVE_FALLOCATE
        return fallocate(fd, mode, (off_t)at, (off_t)size);
    #else
        (void)fd; (void)mode; (void)at; (void)size; errno = ENOSYS; return -1;
    #endif
    }
    /* Real blocks behind a range of a file, so that touching it cannot raise SIGBUS. */
    static inline int annapy_file_reserve(int fd, int64_t at, int64_t size) {
    #if ANNAPY_HAVE_FALLOCATE
        if (fallocate(fd, 0, (off_t)at, (off_t)size) == 0) return 0;
        if (errno != EOPNOTSUPP) return -1;
        return posix_fallocate(fd, (off_t)at, (off_t)size) == 0 ? 0 : -1;
    #elif defined(F_PREALLOCATE)
        fstore_t f = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, (off_t)size, 0};
        (void)at;
        return fcntl(fd, F_PREALLOCATE, &f) == -1 ? -1 : 0;
    #else
        return posix_fallocate(fd, (off_t)at, (off_t)size) == 0 ? 0 : -1;
    #endif
    }
    static inline int annapy_eventfd(unsigned initial, int flags) {
    #if ANNAPY_HAVE_EVENTFD
        return eventfd(initial, flags);
    #else
        (void)initial; (void)flags; errno = ENOSYS; return -1;
    #endif
    }
    /* Shared between processes: no FUTEX_PRIVATE_FLAG. */
    static inline int annapy_futex_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    #if ANNAPY_HAVE_FUTEX
        struct timespec t;
        t.tv_sec = (time_t)(timeout_ns / 1000000000);
        t.tv_nsec = (long)(timeout_ns % 1000000000);
        return (int)syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns < 0 ? NULL : &t,
                            NULL, 0);
    #else
        (void)word; (void)expected; (void)timeout_ns; errno = ENOSYS; return -1;
    #endif
    }
    static inline int annapy_futex_wake(uint32_t *word, int count) {
    #if ANNAPY_HAVE_FUTEX
        return (int)syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    #else
        (void)word; (void)count; errno = ENOSYS; return -1;
    #endif
    }
    """
    enum:
        HAVE_MEMFD "ANNAPY_HAVE_MEMFD"
        HAVE_EVENTFD "ANNAPY_HAVE_EVENTFD"
        HAVE_FUTEX "ANNAPY_HAVE_FUTEX"
        HAVE_FALLOCATE "ANNAPY_HAVE_FALLOCATE"
        MFD_CLOEXEC
        MFD_ALLOW_SEALING
        MFD_NOEXEC_SEAL
        F_ADD_SEALS
        F_GET_SEALS
        F_SEAL_SEAL
        F_SEAL_SHRINK
        F_SEAL_GROW
        F_SEAL_WRITE
        F_GETLK
        F_SETLK
        F_WRLCK
        F_UNLCK
        O_RDONLY
        O_RDWR
        O_CREAT
        O_EXCL
        O_CLOEXEC
        O_NOFOLLOW
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_NORESERVE
        MADV_DONTNEED
        MADV_HUGEPAGE
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
        EFD_CLOEXEC
        EFD_NONBLOCK
        POLLIN
        ENOSYS
        EAGAIN
        EACCES
        EINTR
        EINVAL
        EOPNOTSUPP
        SEEK_SET
        CLOCK_MONOTONIC

    int errno
    void* MAP_FAILED

    struct stat_t "stat":
        int64_t st_size
        uint64_t st_dev
        uint64_t st_ino

    struct flock_t "flock":
        short l_type
        short l_whence
        int64_t l_start
        int64_t l_len
        int l_pid

    struct pollfd_t "pollfd":
        int fd
        short events
        short revents

    struct timespec_t "timespec":
        int64_t tv_sec
        long tv_nsec

    int memfd_create "annapy_memfd"(const char* name, unsigned int flags) noexcept nogil
    int fallocate "annapy_fallocate"(int fd, int mode, int64_t at, int64_t size) noexcept nogil
    int file_reserve "annapy_file_reserve"(int fd, int64_t at, int64_t size) noexcept nogil
    int eventfd "annapy_eventfd"(unsigned int initial, int flags) noexcept nogil
    int futex_wait "annapy_futex_wait"(uint32_t* word, uint32_t expected,
                                       int64_t timeout_ns) noexcept nogil
    int futex_wake "annapy_futex_wake"(uint32_t* word, int count) noexcept nogil
    int fcntl(int fd, int command, ...) noexcept nogil
    int open(const char* path, int flags, ...) noexcept nogil
    int close(int fd) noexcept nogil
    int unlink(const char* path) noexcept nogil
    int ftruncate(int fd, int64_t size) noexcept nogil
    int fchmod(int fd, unsigned int mode) noexcept nogil
    int fstat(int fd, stat_t* out) noexcept nogil
    ssize_t read(int fd, void* to, size_t n) noexcept nogil
    ssize_t write(int fd, const void* data, size_t n) noexcept nogil
    int poll(pollfd_t* fds, unsigned long n, int timeout_ms) noexcept nogil
    int clock_gettime(int clock, timespec_t* out) noexcept nogil
    int sched_yield() noexcept nogil
    void* mmap(void* at, size_t n, int protection, int flags, int fd, int64_t offset) noexcept nogil
    int munmap(void* at, size_t n) noexcept nogil
    int madvise(void* at, size_t n, int advice) noexcept nogil
