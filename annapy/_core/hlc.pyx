"""Reading the clock and minting hybrid logical times: the one place of the core that does.

Source  Kulkarni, Demirbas, Madappa, Avva, Leone: Logical Physical Clocks, 2014.
"""
from libc.stdint cimport uint64_t

from annapy._core.atomics cimport cas64, load_relaxed

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts) noexcept
    int nanosleep(const timespec* ts, timespec* left) noexcept

cdef extern from *:
    """
    #ifdef CLOCK_REALTIME_COARSE
    #define ANNAPY_CLOCK CLOCK_REALTIME_COARSE
    #else
    #define ANNAPY_CLOCK CLOCK_REALTIME
    #endif
    """
    int ANNAPY_CLOCK


cdef uint64_t clock_ms() noexcept nogil:
    cdef timespec ts
    clock_gettime(ANNAPY_CLOCK, &ts)
    return <uint64_t>ts.tv_sec * 1000 + <uint64_t>ts.tv_nsec // 1000000


cdef uint64_t clock_stamp(uint64_t* clock) noexcept nogil:
    cdef uint64_t now = clock_ms() << 16
    cdef uint64_t last, fresh
    while True:
        last = load_relaxed(clock)
        fresh = now if now > last else last + 1
        if cas64(clock, last, fresh):
            return fresh


cdef void clock_observe(uint64_t* clock, uint64_t seen) noexcept nogil:
    cdef uint64_t last = load_relaxed(clock)
    while last < seen and not cas64(clock, last, seen):
        last = load_relaxed(clock)


cdef void clock_sleep_ns(long ns) noexcept nogil:
    cdef timespec ts
    ts.tv_sec = 0
    ts.tv_nsec = ns
    nanosleep(&ts, NULL)
