# cython: language_level=3
"""One shard's hash table: one writer, readers that take no lock, in any process that maps it.

Owns    ShardHeader, the directory, segments and records, all in the arena, addressed by offset.
Writer  the shard's owner alone.    Readers  any thread of any process, at any time.

    ShardHeader.directory --> [ segment offset ] * 2**depth     index: low bits of the fingerprint
    segment   64 KiB = header line, then 1,023 buckets of one cache line
    bucket    7 slot words, then `passed`: how many keys went by because the bucket was full
    slot      bits 0..35   record offset / 16                      0: empty
              bits 36..38  displacement from the home bucket, 0..7
              bits 39..63  fingerprint: the low 25 bits of the key's hash
    record    offset size
              0      8    version     the ticket of the change that wrote it; 0: being written
              8      4    cell_len
              12     2    key_len
              14     2    cell_off    from the record's start, a multiple of 8
              16     4    namespace
              20     4    flags       REC_*
              24     4    visited     access hint, for eviction
              28     4    kid         the owner's number for the key
              32     ..   key, (at cell_off) the cell, (REC_TRAILER) the previous record's offset

Why no lock is needed
    A slot changes by one 8-byte store. A record never changes once published, but for `visited`,
    and for REC_BATCH being cleared; an update writes a fresh record and stores the slot.
    A reader loads a slot, then the record's version, copies what it needs, and then looks again:
    the same slot word and the same version mean that the record was alive all along. The writer
    zeroes `version` before it writes anything into re-used memory, and never uses a version twice.
    Lengths read before that check are clamped to the arena: a stale one costs a retry, no fault.
    A key never moves while it is present: a reader that does not find it did see a moment without
    it, unless its segment was replaced meanwhile; then the segment's version is odd or another, and
    it starts again. Segments are re-used only as segments, the directory only grows, in place.
    So a writer that stops at any instruction leaves the old record or the new one in reach.

A batch     its records carry REC_BATCH and the offset of the record before. While Root.batch is not
            zero, readers use the latter. One store of zero makes all of them visible; then the
            flags are cleared, and only then may the next batch begin.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.arena cimport Arena, Heap
from annapy._core.atomics cimport (
    fence_acquire, load32_relaxed, load_acquire, load_relaxed, prefetch, words_equal,
)
from annapy._core.codec cimport OK, likely, unlikely

cdef enum:
    SEGMENT_SIZE = 65536
    BUCKETS = 1023
    SLOTS = 7
    DISPLACEMENT_MAX = 7
    SEGMENT_FULL = 6000          # of 7,161 slots: past this the segment splits
    DEPTH_MAX = 20
    RECORD_HEADER = 32
    READ_RETRIES = 1000
    FINGERPRINT_SHIFT = 39
    FINGERPRINT_MASK = 0x1FFFFFF
    COPIED_MAX = 4096            # larger cells are pinned, not copied under validation

cdef enum:
    REC_BATCH = 1 << 0           # written by a batch; the previous record's offset follows the cell
    REC_TTL = 1 << 1             # the cell has a deadline: look at the clock
    REC_TOMBSTONE = 1 << 2       # deleted, kept until that is durable
    REC_DIRTY = 1 << 3           # changed since the last cut
    REC_COMMITTING = 1 << 4      # in the cut that is being committed
    REC_PLAIN = 1 << 5           # an LWW cell with a bare header: the value starts at a fixed place
    REC_TREE = 1 << 6            # the state is a tree: the cell's state is its root's offset
    REC_EXTERNAL = 1 << 7        # the payload lives elsewhere (device tier)
    REC_TRAILER = 1 << 8         # room for a previous record's offset follows the cell


cdef struct Root:                # one a store, in the arena
    uint64_t batch               # id of the batch being applied, 0: none
    uint64_t shards
    uint64_t reserved[6]

cdef struct ShardHeader:         # in the arena, after Root; written by the owner, read by all
    uint64_t depth
    uint64_t directory           # offset
    uint64_t applied             # the last ticket
    uint64_t durable             # the last ticket that a commit covers
    uint64_t live                # live keys, cold ones included
    uint64_t reserved[11]

cdef struct Segment:
    uint64_t version             # even: live; odd: retired, maybe being cleared for re-use
    uint32_t depth
    uint32_t prefix              # what the low `depth` bits of its keys' fingerprints are
    uint64_t count
    uint64_t reserved[5]

cdef struct Bucket:
    uint64_t slot[SLOTS]
    uint64_t passed

cdef struct Record:
    uint64_t version
    uint32_t cell_len
    uint16_t key_len
    uint16_t cell_off
    uint32_t namespace
    uint32_t flags
    uint32_t visited
    uint32_t kid

cdef struct View:                # what a reader needs of one shard; constant while attached
    uint8_t* base
    uint64_t capacity
    ShardHeader* header
    uint64_t* directory
    const uint64_t* batch        # Root.batch
    uint64_t mask                # of the directory, maybe outdated: a segment tells (table_find)

cdef struct Found:               # a record that was alive when table_find returned
    const uint64_t* slot
    uint64_t word
    Record* record               # whose cell is to be used
    Record* batch                # NULL, or the record that hides it for the time of a batch
    uint64_t version
    uint32_t flags
    uint32_t cell_len
    const uint8_t* cell

cdef struct Table:               # the owner's side
    View view
    Heap* heap
    uint64_t* spare              # segments to re-use
    uint32_t spare_len
    uint32_t spare_cap
    uint64_t index_bytes
    uint64_t segments

cdef struct Place:               # where a key is, or would go (owner only; void after any change)
    Segment* segment
    uint64_t* slot               # NULL: absent
    Record* record               # NULL: absent
    uint32_t home
    uint32_t displacement
    uint64_t hash
    const uint8_t* key
    size_t key_len
    uint32_t namespace

cdef int table_find_slow(const View* view, const uint8_t* key, size_t key_len, uint32_t namespace,
                         uint64_t hash, Found* found) noexcept nogil
# table_find without a shortcut: displaced keys, batches, absent keys, retries.

cdef extern from *:
    """
    #define annapy_ctz32(x) __builtin_ctz(x)
    """
    int ctz32 "annapy_ctz32"(uint32_t x) noexcept nogil

cdef inline uint64_t fingerprint(uint64_t hash) noexcept nogil:
    return hash & FINGERPRINT_MASK

cdef inline uint32_t home_of(uint64_t hash) noexcept nogil:
    """From the upper half of the hash: independent of the fingerprint."""
    return <uint32_t>(((hash >> 32) * BUCKETS) >> 32)

cdef inline Bucket* bucket_at(Segment* segment, uint32_t index) noexcept nogil:
    return <Bucket*>(<uint8_t*>segment + 64) + index

cdef inline Record* record_of(const View* view, uint64_t word) noexcept nogil:
    return <Record*>(view.base + ((word & 0xFFFFFFFFFULL) << 4))

cdef inline Segment* segment_hint(const View* view, uint64_t hash) noexcept nogil:
    """By the mask of some time ago, without waiting for the depth: the right one, or another."""
    return <Segment*>(view.base + load_acquire(&view.directory[hash & load_relaxed(&view.mask)]))

cdef inline Segment* segment_for(const View* view, uint64_t hash) noexcept nogil:
    cdef uint64_t depth = load_acquire(&view.header.depth)
    cdef uint64_t mask = (<uint64_t>1 << depth) - 1
    return <Segment*>(view.base + load_acquire(&view.directory[hash & mask]))

cdef inline uint32_t bucket_matches(const Bucket* bucket, uint64_t wanted) noexcept nogil:
    """A bit for each slot with that fingerprint; no branch, since none could be predicted."""
    cdef const uint64_t* slot = bucket.slot
    return (
        <uint32_t>(load_relaxed(&slot[0]) >> FINGERPRINT_SHIFT == wanted)
        | <uint32_t>(load_relaxed(&slot[1]) >> FINGERPRINT_SHIFT == wanted) << 1
        | <uint32_t>(load_relaxed(&slot[2]) >> FINGERPRINT_SHIFT == wanted) << 2
        | <uint32_t>(load_relaxed(&slot[3]) >> FINGERPRINT_SHIFT == wanted) << 3
        | <uint32_t>(load_relaxed(&slot[4]) >> FINGERPRINT_SHIFT == wanted) << 4
        | <uint32_t>(load_relaxed(&slot[5]) >> FINGERPRINT_SHIFT == wanted) << 5
        | <uint32_t>(load_relaxed(&slot[6]) >> FINGERPRINT_SHIFT == wanted) << 6
    )

cdef inline int table_find(const View* view, const uint8_t* key, size_t key_len,
                           uint32_t namespace, uint64_t hash, Found* found) noexcept nogil:
    """OK, MISSING, or BUSY (the key kept changing for READ_RETRIES rounds: ask the owner).

    Here is the way that almost every look-up takes, without a call: the key is in its home bucket,
    alone with its fingerprint, and no batch hides it.
    """
    cdef Segment* segment = segment_hint(view, hash)
    cdef Bucket* bucket = bucket_at(segment, home_of(hash))
    cdef uint32_t matches
    cdef uint64_t version, mark, sizes, end
    cdef Record* record
    prefetch(bucket)
    mark = load_relaxed(<const uint64_t*>&segment.depth)
    if unlikely((hash ^ (mark >> 32)) & ((<uint64_t>1 << <uint32_t>mark) - 1)):
        return table_find_slow(view, key, key_len, namespace, hash, found)
    matches = bucket_matches(bucket, fingerprint(hash))
    if unlikely(matches == 0 or matches & (matches - 1)):
        return table_find_slow(view, key, key_len, namespace, hash, found)
    found.slot = &bucket.slot[ctz32(matches)]
    found.word = load_acquire(found.slot)
    record = record_of(view, found.word)
    end = <uint64_t>(<uint8_t*>record - view.base)
    prefetch(<uint8_t*>record + 64)
    prefetch(<uint8_t*>record + 128)
    if unlikely(end + RECORD_HEADER > view.capacity):
        return table_find_slow(view, key, key_len, namespace, hash, found)
    version = load_acquire(&record.version)
    sizes = load_relaxed(<const uint64_t*>&record.cell_len)
    mark = load_relaxed(<const uint64_t*>&record.namespace)
    end += (sizes >> 48) + <uint32_t>sizes
    if unlikely(version == 0 or <uint16_t>(sizes >> 32) != key_len or <uint32_t>mark != namespace
                or end > view.capacity or (sizes >> 48) < RECORD_HEADER + key_len
                or mark >> 32 & REC_BATCH
                or not words_equal(<uint8_t*>record + RECORD_HEADER, key, key_len)):
        return table_find_slow(view, key, key_len, namespace, hash, found)
    found.record = record
    found.batch = NULL
    found.version = version
    found.flags = <uint32_t>(mark >> 32)
    found.cell_len = <uint32_t>sizes
    found.cell = <uint8_t*>record + (sizes >> 48)
    return OK

cdef inline bint table_still(const View* view, const Found* found) noexcept nogil:
    """After copying: whether what was copied is whole."""
    fence_acquire()
    return likely(
        load_relaxed(&found.record.version) == found.version
        and load_relaxed(found.slot) == found.word
        and (found.batch == NULL
             or (load32_relaxed(&found.batch.flags) & REC_BATCH and load_relaxed(view.batch) != 0))
    )

cdef int table_init(Table* table, Heap* heap, ShardHeader* header,
                    const uint64_t* batch) noexcept nogil
cdef int table_view(View* view, Arena* arena, uint32_t shard) noexcept nogil
# For a process that attached: CORRUPT where the arena's headers make no sense.
cdef void table_close(Table* table) noexcept nogil
cdef bint table_locate(const Table* table, const uint8_t* key, size_t key_len, uint32_t namespace,
                       uint64_t hash, Place* place) noexcept nogil
cdef int table_make_room(Table* table, Place* place) noexcept nogil
# Before inserting at `place`: a free slot, splitting the segment if need be. NO_MEMORY without one.
cdef void table_insert(Table* table, Place* place, Record* record) noexcept nogil
# After table_make_room; the record is complete.
cdef void table_replace(Table* table, Place* place, Record* record) noexcept nogil
cdef void table_remove(Table* table, Place* place) noexcept nogil
