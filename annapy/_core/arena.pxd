# cython: language_level=3
"""Memory addressed by offset: one Arena a store, one Heap a shard.

Owns    the mapping, its header page, the spans handed to heaps, the free lists.
Callers arena_*: the owner process (spans are taken under an atomic cursor, so heaps of several
        owner threads may share an arena). heap_*: only the owner of that heap's shard.

Invariants
    offset 0 is never allocated: it means "nothing"
    a slab's bytes stay mapped and readable for as long as the arena is: a late reader sees other
    bytes, never a fault; index memory (arena_reserve) is never re-used as payload
    every slab is 16-byte aligned; slabs over 1 KiB are 64-byte aligned, those over 64 KiB page-aligned
    used <= reserved <= capacity; reserved grows in steps of 16 MiB
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum ArenaKind:
    ARENA_ANONYMOUS = 0
    ARENA_MEMFD = 1
    ARENA_FILE = 2

cdef enum:
    ARENA_HEADER_SIZE = 4096
    HEAP_CLASSES = 64            # upper bound on the number of size classes
    SLAB_ALIGN = 16

cdef struct ArenaHeader:         # at offset 0; written once at creation but for the last two fields
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

cdef struct Arena:               # this process's view
    uint8_t* base
    ArenaHeader* header
    uint64_t capacity
    int fd                       # -1: anonymous
    int kind
    bint writable

cdef struct Heap:                # owner-private; see arena.pyx for the size classes
    Arena* arena
    uint64_t used                # bytes in live slabs, rounded up to their class
    uint64_t free_bytes          # bytes in free slabs
    uint64_t* free_list[HEAP_CLASSES]
    uint32_t free_len[HEAP_CLASSES]
    uint32_t free_cap[HEAP_CLASSES]
    uint64_t bump[HEAP_CLASSES]      # where the class's current span goes on
    uint64_t bump_end[HEAP_CLASSES]
    void* large                  # free page runs, see arena.pyx

cdef int arena_create(Arena* arena, uint64_t capacity, int kind, const char* path,
                      uint64_t hash_seed, uint64_t actor) noexcept nogil
# Maps `capacity` bytes of address space (memory is taken as it is touched), writes the header. A
# Status. path: only for ARENA_FILE.
cdef int arena_attach(Arena* arena, int fd) noexcept nogil
# Maps another process's arena read-only. CORRUPT: not an arena, or another layout.
cdef void arena_close(Arena* arena) noexcept nogil
cdef uint64_t arena_reserve(Arena* arena, uint64_t size) noexcept nogil
# `size` bytes of zeroed index memory, page-aligned, for ever. 0: capacity exhausted.

cdef void heap_init(Heap* heap, Arena* arena) noexcept nogil
cdef void heap_close(Heap* heap) noexcept nogil
cdef uint64_t heap_alloc(Heap* heap, uint64_t size) noexcept nogil
# Offset of at least `size` bytes, contents undefined; 0: capacity exhausted.
cdef void heap_free(Heap* heap, uint64_t offset, uint64_t size) noexcept nogil
# `size` as it was asked for. Memory of large slabs goes back to the system.
cdef uint64_t heap_rounded(uint64_t size) noexcept nogil
# What a slab of `size` really takes.
