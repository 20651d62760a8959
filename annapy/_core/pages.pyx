"""Runs of pages; pages.pxd has the contract."""
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from annapy._core.codec cimport NO_MEMORY, OK, OVER_LIMIT

cdef extern from *:
    """
    #define annapy_log2_32(x) (31 - __builtin_clz(x))
    #define annapy_ctz64(x) __builtin_ctzll(x)
    """
    uint32_t log2_32 "annapy_log2_32"(uint32_t x) noexcept nogil
    uint32_t ctz64 "annapy_ctz64"(uint64_t x) noexcept nogil


cdef int pages_open(Pages* p, uint64_t capacity) noexcept nogil:
    memset(p, 0, sizeof(Pages))
    if capacity >> 12 > 0xFFFFFFF0u:
        return OVER_LIMIT
    p.map_len = <uint32_t>(capacity >> 12) + 1      # the last page has a neighbour, too
    p.map = <uint32_t*>calloc(p.map_len, sizeof(uint32_t))
    if p.map == NULL:
        return NO_MEMORY
    return OK


cdef void pages_close(Pages* p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.runs_len):
        if p.runs[i].bits != NULL:
            free(p.runs[i].bits)
    free(p.runs)
    free(p.map)
    memset(p, 0, sizeof(Pages))


# --- rows of the table ----------------------------------------------------------------------

cdef uint32_t row_new(Pages* p) noexcept nogil:
    cdef uint32_t run = p.unused, cap
    cdef Run* runs
    if run:
        p.unused = p.runs[run].next
    else:
        if p.runs_len == p.runs_cap:
            cap = p.runs_cap * 2 if p.runs_cap else 64
            runs = <Run*>realloc(p.runs, cap * sizeof(Run))
            if runs == NULL:
                return 0
            p.runs = runs
            p.runs_cap = cap
        if p.runs_len == 0:                          # row 0 means "none"
            memset(&p.runs[0], 0, sizeof(Run))
            p.runs_len = 1
        run = p.runs_len
        p.runs_len += 1
    memset(&p.runs[run], 0, sizeof(Run))
    return run


cdef void row_drop(Pages* p, uint32_t run) noexcept nogil:
    p.runs[run].state = RUN_NONE
    p.runs[run].next = p.unused
    p.unused = run


cdef inline void enter(Pages* p, uint32_t run) noexcept nogil:
    """First and last page of a run point to it."""
    cdef Run* r = &p.runs[run]
    p.map[r.page] = run
    p.map[r.page + r.pages - 1] = run


# --- bins -----------------------------------------------------------------------------------

cdef uint32_t pages_bin(uint32_t pages) noexcept nogil:
    cdef uint32_t log
    if pages < 16:
        return pages
    log = log2_32(pages)
    return 16 + (log - 4) * 8 + ((pages >> (log - 3)) & 7)


cdef void bin_link(Pages* p, uint32_t run) noexcept nogil:
    cdef Run* r = &p.runs[run]
    cdef uint32_t b = pages_bin(r.pages)
    r.state = RUN_FREE
    r.prev = 0
    r.next = p.bin[b]
    if r.next:
        p.runs[r.next].prev = run
    p.bin[b] = run
    p.filled[b >> 6] |= <uint64_t>1 << (b & 63)
    p.free_pages += r.pages
    if r.dirty:
        p.dirty_pages += r.pages


cdef void bin_unlink(Pages* p, uint32_t run) noexcept nogil:
    cdef Run* r = &p.runs[run]
    cdef uint32_t b = pages_bin(r.pages)
    if r.prev:
        p.runs[r.prev].next = r.next
    else:
        p.bin[b] = r.next
        if r.next == 0:
            p.filled[b >> 6] &= ~(<uint64_t>1 << (b & 63))
    if r.next:
        p.runs[r.next].prev = r.prev
    p.free_pages -= r.pages
    if r.dirty:
        p.dirty_pages -= r.pages


cdef uint32_t bin_next(Pages* p, uint32_t b) noexcept nogil:
    """The first bin from `b` on that has a run, or PAGE_BINS."""
    cdef uint32_t word = b >> 6
    cdef uint64_t bits
    if b >= PAGE_BINS:
        return PAGE_BINS
    bits = p.filled[word] & (~<uint64_t>0 << (b & 63))
    while bits == 0:
        word += 1
        if word == PAGE_BINS // 64:
            return PAGE_BINS
        bits = p.filled[word]
    return word * 64 + ctz64(bits)


cdef uint32_t best_fit(Pages* p, uint32_t pages) noexcept nogil:
    cdef uint32_t b = pages_bin(pages)
    cdef uint32_t run = p.bin[b], best = 0, looks = 0
    while run and looks < FIT_LOOKS:
        if p.runs[run].pages >= pages:
            if best == 0 or p.runs[run].pages < p.runs[best].pages:
                best = run
                if p.runs[run].pages == pages:
                    return best
        run = p.runs[run].next
        looks += 1
    if best:
        return best
    b = bin_next(p, b + 1)
    return p.bin[b] if b < PAGE_BINS else 0


# --- runs -----------------------------------------------------------------------------------

cdef void join_neighbours(Pages* p, uint32_t run) noexcept nogil:
    """`run` is in no list; what it grows by leaves the table."""
    cdef Run* r = &p.runs[run]
    cdef uint32_t other = p.map[r.page - 1] if r.page else 0
    if other and p.runs[other].state == RUN_FREE:
        bin_unlink(p, other)
        r.page = p.runs[other].page
        r.pages += p.runs[other].pages
        r.dirty = r.dirty or p.runs[other].dirty
        row_drop(p, other)
    other = p.map[r.page + r.pages] if r.page + r.pages < p.map_len else 0
    if other and p.runs[other].state == RUN_FREE:
        bin_unlink(p, other)
        r.pages += p.runs[other].pages
        r.dirty = r.dirty or p.runs[other].dirty
        row_drop(p, other)
    enter(p, run)


cdef bint pages_add(Pages* p, uint32_t page, uint32_t pages) noexcept nogil:
    cdef uint32_t run = row_new(p)
    if run == 0:
        return False
    p.runs[run].page = page
    p.runs[run].pages = pages
    join_neighbours(p, run)
    bin_link(p, run)
    return True


cdef uint32_t pages_take(Pages* p, uint32_t pages) noexcept nogil:
    cdef uint32_t run, rest
    cdef Run* r
    if pages == 0:
        return 0
    run = best_fit(p, pages)
    if run == 0:
        return 0
    rest = 0
    if p.runs[run].pages > pages:
        rest = row_new(p)
        if rest == 0:
            return 0
    bin_unlink(p, run)
    r = &p.runs[run]
    if rest:
        p.runs[rest].page = r.page + pages
        p.runs[rest].pages = r.pages - pages
        p.runs[rest].dirty = r.dirty
        r.pages = pages
        enter(p, rest)
        bin_link(p, rest)
        enter(p, run)
    r.state = RUN_LARGE
    r.dirty = False
    r.next = 0
    r.prev = 0
    return run


cdef void pages_give(Pages* p, uint32_t run) noexcept nogil:
    cdef Run* r = &p.runs[run]
    if r.bits != NULL:
        free(r.bits)
        r.bits = NULL
    r.dirty = True
    join_neighbours(p, run)
    bin_link(p, run)


cdef void pages_clean(Pages* p, uint32_t run) noexcept nogil:
    if p.runs[run].dirty:
        p.runs[run].dirty = False
        p.dirty_pages -= p.runs[run].pages
