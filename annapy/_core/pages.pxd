# cython: language_level=3
"""Runs of pages: what a heap's spans and large slabs are made of.

Owns    the bookkeeping of the pages that one heap has taken from the arena, in private memory.
        It writes nothing into the pages themselves, so a late reader of a freed slab sees old
        bytes and the bookkeeping cannot be damaged through shared memory.
Callers the owner of the heap, and no one else: no locks, no atomics.

Every page belongs to exactly one run; `map` finds the run of a page. For spans each page is
entered, for other runs only the first and the last one (that is all that joining neighbours needs).
Free runs hang in bins by length: exact up to 15 pages, then eight to a doubling, as in TLSF
(Masmano et al. 2004): the fitting bin is looked through for the best run (up to FIT_LOOKS), else
the next bin that has anything serves.

Invariants
    two neighbouring runs are never both free
    free_pages = sum of pages of free runs; dirty_pages <= free_pages (whose memory is resident)
    a bin's bit in `filled` is set  <=>  its list is not empty
    run 0 means "none"; page 0 of an arena is its header and is never in a run
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    PAGE_BINS = 256
    FIT_LOOKS = 32              # runs looked at in the first bin

cdef enum RunState:
    RUN_NONE = 0                # an unused row of the table
    RUN_FREE = 1
    RUN_SPAN = 2                # cut into slabs of one class
    RUN_LARGE = 3               # one slab

cdef struct Run:
    uint32_t page               # the first one
    uint32_t pages
    uint32_t next               # in its bin, in its class's list, or in the list of unused rows
    uint32_t prev
    uint8_t state
    uint8_t size_class          # of a span
    bint dirty                  # free, and its memory may be resident
    bint linked                 # a span that stands in its class's list
    uint32_t slabs              # of a span: how many it has,
    uint32_t free               # how many of them are marked in `bits`,
    uint32_t hint               # and the first word of `bits` that may be non-zero
    uint64_t inline_bits        # `bits` of a span of at most 64 slabs
    uint64_t* bits              # 1: free; NULL: inline_bits

cdef struct Pages:
    uint32_t* map               # page -> run, 0: not ours
    uint32_t map_len
    Run* runs
    uint32_t runs_len
    uint32_t runs_cap
    uint32_t unused             # list of unused rows
    uint64_t free_pages
    uint64_t dirty_pages
    uint64_t filled[4]          # PAGE_BINS bits
    uint32_t bin[PAGE_BINS]

cdef int pages_open(Pages* p, uint64_t capacity) noexcept nogil
# OK, NO_MEMORY (private memory), OVER_LIMIT.
cdef void pages_close(Pages* p) noexcept nogil
cdef bint pages_add(Pages* p, uint32_t page, uint32_t pages) noexcept nogil
# New clean pages. False: no private memory for the bookkeeping; nothing is added.
cdef uint32_t pages_take(Pages* p, uint32_t pages) noexcept nogil
# A run of exactly `pages`, state RUN_LARGE; 0: none is long enough.
cdef void pages_give(Pages* p, uint32_t run) noexcept nogil
# The run is free and resident; joined with free neighbours.
cdef void pages_clean(Pages* p, uint32_t run) noexcept nogil
# Its memory has been given back.
