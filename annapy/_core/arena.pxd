# cython: language_level=3
"""Memory addressed by offset: one Arena a store, one Heap a shard.

Owns    the mapping, its header page, the pages handed to heaps, the free slabs.
Callers arena_*: the owner process (pages are taken under an atomic cursor, so heaps of several
        owner threads may share an arena). heap_*: only the owner of that heap's shard.

    offset 0      ArenaHeader, one page
           4096   index memory and pages of heaps, interleaved as they are asked for
           cursor not asked for yet

Slabs. Up to SMALL_MAX a slab belongs to a size class: every 16 bytes up to 256, then eight to a
doubling, so at most 1/8 of a slab over 128 bytes is padding. Slabs of a class are cut from spans
(runs of 1 to 32 pages, see pages.pxd); a span knows its free slabs by a bitmap, and a span that is
wholly free becomes pages again, for whichever class or large slab needs them next. Above that a
slab is a run of pages of its own. In front of the bitmaps each class has a magazine of recently
freed slabs, used last in, first out: what was just freed is still in the cache, and the usual alloc
or free is a push or a pop in private memory (inline, below). All bookkeeping is private memory of
the owner: a damaged or hostile reader cannot reach it.

Invariants
    offset 0 is never allocated: it means "nothing"
    a slab's bytes stay mapped and readable for as long as the arena is: a late reader sees other
    bytes, never a fault; index memory (arena_reserve) is never re-used as payload
    every slab is 16-byte aligned; slabs over 1 KiB are 64-byte aligned, those over SMALL_MAX (and
    so all over 64 KiB) page-aligned
    heap.used = sum over live slabs of heap_rounded(size); used <= held; sum of held <= cursor
    cursor <= reserved <= capacity; reserved (what is backed by memory) grows by RESERVE_STEP
    slabs in a magazine are marked as taken in their span's bitmap and are not counted in `used`
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.codec cimport likely
from annapy._core.mapping cimport Mapping
from annapy._core.pages cimport Pages

cdef enum ArenaKind:             # the same numbers as MappingKind
    ARENA_ANONYMOUS = 0
    ARENA_MEMFD = 1
    ARENA_FILE = 2

cdef enum:
    ARENA_HEADER_SIZE = 4096
    ARENA_LAYOUT = 1
    RESERVE_STEP = 0x1000000     # 16 MiB
    HEAP_CLASSES = 72
    HEAP_MAGAZINE = 29           # slabs: a magazine is 256 bytes
    SLAB_ALIGN = 16
    SMALL_MAX = 32768

cdef struct ArenaHeader:         # at offset 0; written once at creation but for the last three
    uint64_t magic
    uint32_t layout
    uint32_t features
    uint64_t capacity
    uint64_t hash_seed
    uint64_t actor
    uint8_t boot_id[16]
    uint64_t shards
    uint64_t root                # offset of the shards' headers
    uint64_t cursor              # next unreserved byte (atomic)
    uint64_t superseded          # non-zero: a newer arena has taken over (atomic)
    uint64_t reserved            # bytes that have memory behind them (atomic, grows)

cdef struct Arena:               # this process's view
    uint8_t* base
    ArenaHeader* header
    uint64_t capacity
    Mapping map

cdef struct Magazine:            # free slabs of one class, the next one last
    uint16_t len
    uint16_t limit               # at most this many, at least 2
    uint32_t slabs               # how many the class has in its spans, free or not
    uint64_t size                # of the class
    uint32_t partial             # list of spans with a marked slab (Pages.runs)
    uint32_t spare               # a wholly free span that is kept, or 0; it stands in the list too
    uint64_t slot[HEAP_MAGAZINE]

cdef struct Heap:                # owner-private
    Arena* arena
    uint64_t used                # bytes in live slabs, rounded up to their class
    uint64_t held                # bytes of pages taken from the arena
    uint64_t faults              # frees of what was not allocated (ignored); 0 in a sound program
    uint64_t dirty_max           # resident free bytes before they are given back,
    uint64_t dirty_floor         # beyond those that were too scattered last time
    uint32_t step                # pages taken from the arena at a time
    bint punched                 # something was given back: commit pages before re-use
    bint settled                 # nothing was freed since the magazines were last emptied
    Pages pages
    Magazine magazine[HEAP_CLASSES]

cdef int arena_create(Arena* arena, uint64_t capacity, int kind, const char* path,
                      uint64_t hash_seed, uint64_t actor) noexcept nogil
# Maps `capacity` bytes of address space (memory is taken as it is touched), writes the header. OK,
# NO_MEMORY, OVER_LIMIT, BAD_OPERATION: this kind is refused here. path: for ARENA_FILE, and for
# ARENA_MEMFD where to go if memfds are refused (arena.map.kind says what it became).
cdef int arena_attach(Arena* arena, int fd) noexcept nogil
# Maps another process's arena read-only; the descriptor stays the caller's. CORRUPT: not an arena,
# or another layout.
cdef void arena_close(Arena* arena) noexcept nogil
# Unmaps. The file of an ARENA_FILE is the caller's to unlink.
cdef uint64_t arena_reserve(Arena* arena, uint64_t size) noexcept nogil
# `size` bytes of zeroed index memory, page-aligned, for ever. 0: capacity exhausted.
cdef uint64_t arena_take(Arena* arena, uint64_t want, uint64_t least,
                         uint64_t* got) noexcept nogil
# Between `least` and `want` bytes of new pages, zeroed; 0: capacity exhausted. Any thread.

cdef int heap_init(Heap* heap, Arena* arena) noexcept nogil
# OK or NO_MEMORY. Takes nothing from the arena yet.
cdef void heap_close(Heap* heap) noexcept nogil
# Frees the bookkeeping; the heap's pages are lost to the arena.
cdef uint64_t heap_reserve(Heap* heap, uint64_t size) noexcept nogil
# arena_reserve, or else from the heap's free pages: zeroed, page-aligned, never to be freed.
cdef uint64_t heap_alloc_slow(Heap* heap, uint64_t size) noexcept nogil
cdef void heap_free_slow(Heap* heap, uint64_t offset, uint64_t size) noexcept nogil
cdef void heap_settle(Heap* heap) noexcept nogil
# Empties the magazines and drops spare spans: what can become pages does.
cdef void heap_trim(Heap* heap) noexcept nogil
# heap_settle, and gives the memory of all free pages back to the system.
cdef uint64_t heap_rounded(uint64_t size) noexcept nogil
# What a slab of `size` really takes.

cdef extern from *:
    """
    #define annapy_log2_64(x) (63 - __builtin_clzll(x))
    """
    uint32_t log2_64 "annapy_log2_64"(uint64_t x) noexcept nogil

cdef inline uint32_t class_of(uint64_t size) noexcept nogil:
    """The smallest class that holds `size` <= SMALL_MAX."""
    cdef uint32_t log
    if size <= 256:
        return <uint32_t>((size - (size != 0)) >> 4)
    size -= 1
    log = log2_64(size)
    return 16 + (log - 8) * 8 + <uint32_t>((size >> (log - 3)) & 7)

cdef inline uint64_t heap_alloc(Heap* heap, uint64_t size) noexcept nogil:
    """Offset of at least `size` bytes, contents undefined; 0: capacity exhausted."""
    cdef Magazine* m
    if likely(size <= SMALL_MAX):
        m = &heap.magazine[class_of(size)]
        if likely(m.len != 0):
            m.len -= 1
            heap.used += m.size
            return m.slot[m.len]
    return heap_alloc_slow(heap, size)

cdef inline void heap_free(Heap* heap, uint64_t offset, uint64_t size) noexcept nogil:
    """`size` as it was asked for; offset 0 is ignored. Memory of large slabs goes back to the
    system in time (see heap_trim)."""
    cdef Magazine* m
    if likely(size <= SMALL_MAX and offset != 0):
        m = &heap.magazine[class_of(size)]
        if likely(m.len < m.limit):
            m.slot[m.len] = offset
            m.len += 1
            heap.used -= m.size
            heap.settled = False
            return
    heap_free_slow(heap, offset, size)

cdef inline uint64_t heap_free_bytes(const Heap* heap) noexcept nogil:
    """Taken from the arena and in no live slab."""
    return heap.held - heap.used
