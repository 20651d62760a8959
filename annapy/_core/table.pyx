"""The table's code; table.pxd has the layout and the argument why readers need no lock."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from annapy._core.arena cimport ARENA_HEADER_SIZE, Arena, Heap, arena_reserve, heap_reserve
from annapy._core.atomics cimport (
    cpu_pause, fence_acquire, load32_relaxed, load_acquire, load_relaxed, prefetch, store_relaxed,
    store_release, words_equal,
)
from annapy._core.codec cimport BUSY, CORRUPT, MISSING, NO_MEMORY, OK, likely, unlikely

assert sizeof(Root) == 64 and sizeof(ShardHeader) == 128, "layout of the headers"
assert sizeof(Segment) == 64 and sizeof(Bucket) == 64, "layout of the index"
assert sizeof(Record) == RECORD_HEADER, "layout of a record"
assert (BUCKETS + 1) * 64 == SEGMENT_SIZE, "layout of a segment"


# --- where things are -----------------------------------------------------------------------

cdef inline uint64_t slot_word(const View* view, const Record* record, uint64_t displacement,
                               uint64_t hash) noexcept nogil:
    return (
        (<uint64_t>(<const uint8_t*>record - view.base) >> 4)
        | displacement << 36
        | fingerprint(hash) << FINGERPRINT_SHIFT
    )

# --- readers --------------------------------------------------------------------------------

cdef inline int _match(const View* view, const uint64_t* slot, uint64_t word, const uint8_t* key,
                       size_t key_len, uint32_t namespace, Found* found) noexcept nogil:
    """OK: this is the key. MISSING: another key. BUSY: the record is being re-used, start again."""
    cdef Record* record = record_of(view, word)
    cdef uint64_t version, sizes, marks, end
    prefetch(<uint8_t*>record + 64)
    prefetch(<uint8_t*>record + 128)
    if unlikely(<uint64_t>(<uint8_t*>record - view.base) + RECORD_HEADER > view.capacity):
        return BUSY
    version = load_acquire(&record.version)
    if unlikely(version == 0):
        return BUSY
    sizes = load_relaxed(<const uint64_t*>&record.cell_len)
    marks = load_relaxed(<const uint64_t*>&record.namespace)
    if <uint16_t>(sizes >> 32) != key_len or <uint32_t>marks != namespace:
        return MISSING
    end = <uint64_t>(<uint8_t*>record - view.base) + (sizes >> 48) + <uint32_t>sizes
    if unlikely(end > view.capacity or (sizes >> 48) < RECORD_HEADER + key_len):
        return BUSY
    if not words_equal(<uint8_t*>record + RECORD_HEADER, key, key_len):
        return MISSING
    found.slot = slot
    found.word = word
    found.record = record
    found.batch = NULL
    found.version = version
    found.flags = <uint32_t>(marks >> 32)
    found.cell_len = <uint32_t>sizes
    found.cell = <uint8_t*>record + (sizes >> 48)
    return OK


cdef int _behind_batch(const View* view, const uint8_t* key, size_t key_len, uint32_t namespace,
                       Found* found) noexcept nogil:
    """A batch is being applied: the record that this one replaces. MISSING: there was none."""
    cdef Record* hiding = found.record
    cdef const uint64_t* slot = found.slot
    cdef uint64_t word = found.word
    cdef uint64_t at = found.cell_len
    cdef uint64_t previous
    cdef int status
    at = (<uint64_t>(found.cell - view.base) + at + 7) & ~<uint64_t>7
    if unlikely(at + 8 > view.capacity):
        return BUSY
    previous = load_relaxed(<uint64_t*>(view.base + at))
    if unlikely(not table_still(view, found)):
        return BUSY
    if previous == 0:
        return MISSING
    status = _match(view, slot, previous >> 4, key, key_len, namespace, found)
    if unlikely(status != OK):
        return BUSY
    found.word = word
    found.batch = hiding
    return OK


cdef int _look(const View* view, Segment* segment, const uint8_t* key, size_t key_len,
               uint32_t namespace, uint64_t hash, Found* found) noexcept nogil:
    cdef uint32_t index = home_of(hash)
    cdef uint64_t wanted = fingerprint(hash)
    cdef uint64_t word
    cdef uint32_t matches
    cdef Bucket* bucket
    cdef int i, displacement, status
    for displacement in range(DISPLACEMENT_MAX + 1):
        bucket = bucket_at(segment, index)
        matches = bucket_matches(bucket, wanted)
        while matches:
            i = ctz32(matches)
            matches &= matches - 1
            word = load_acquire(&bucket.slot[i])
            if unlikely(word >> FINGERPRINT_SHIFT != wanted or word == 0):
                continue
            status = _match(view, &bucket.slot[i], word, key, key_len, namespace, found)
            if status == MISSING:
                continue
            if status == OK and unlikely(found.flags & REC_BATCH) and load_acquire(view.batch):
                status = _behind_batch(view, key, key_len, namespace, found)
            return status
        if load_acquire(&bucket.passed) == 0:
            return MISSING
        index = index + 1 if index + 1 < BUCKETS else 0
    return MISSING


cdef int table_find_slow(const View* view, const uint8_t* key, size_t key_len, uint32_t namespace,
                    uint64_t hash, Found* found) noexcept nogil:
    cdef Segment* segment
    cdef uint64_t version
    cdef uint64_t mark
    cdef int status, tries
    for tries in range(READ_RETRIES):
        mark = (<uint64_t>1 << load_acquire(&view.header.depth)) - 1
        if load_relaxed(&view.mask) != mark:
            store_relaxed(<uint64_t*>&view.mask, mark)
        segment = segment_for(view, hash)
        prefetch(bucket_at(segment, home_of(hash)))
        version = load_acquire(&segment.version)
        if unlikely(version & 1):
            continue
        mark = load_relaxed(<const uint64_t*>&segment.depth)
        if likely(hash & ((<uint64_t>1 << <uint32_t>mark) - 1) & FINGERPRINT_MASK == mark >> 32):
            status = _look(view, segment, key, key_len, namespace, hash, found)
            if likely(status == OK):
                return OK
            if status == MISSING:
                fence_acquire()
                if likely(load_relaxed(&segment.version) == version):
                    return MISSING
        cpu_pause()
    return BUSY


cdef int table_view(View* view, Arena* arena, uint32_t shard) noexcept nogil:
    cdef uint64_t root = arena.header.root
    cdef Root* head
    if root < ARENA_HEADER_SIZE or root + sizeof(Root) > arena.capacity:
        return CORRUPT
    head = <Root*>(arena.base + root)
    if shard >= head.shards or head.shards > 4096:
        return CORRUPT
    view.base = arena.base
    view.capacity = arena.capacity
    view.header = <ShardHeader*>(arena.base + root + sizeof(Root)) + shard
    if view.header.directory + 8 > arena.capacity or view.header.depth > DEPTH_MAX:
        return CORRUPT
    view.directory = <uint64_t*>(arena.base + view.header.directory)
    view.batch = &head.batch
    return OK


# --- the owner ------------------------------------------------------------------------------

cdef Segment* _new_segment(Table* table, uint32_t depth, uint32_t prefix) noexcept nogil:
    cdef uint64_t offset
    cdef Segment* segment
    cdef uint64_t version = 1
    if table.spare_len:
        table.spare_len -= 1
        offset = table.spare[table.spare_len]
        segment = <Segment*>(table.view.base + offset)
        version = segment.version         # odd since it was retired
        _clear_buckets(segment)
    else:
        offset = heap_reserve(table.heap, SEGMENT_SIZE)
        if offset == 0:
            return NULL
        table.index_bytes += SEGMENT_SIZE
        segment = <Segment*>(table.view.base + offset)
    store_relaxed(<uint64_t*>&segment.depth, depth | <uint64_t>prefix << 32)
    segment.count = 0
    store_release(&segment.version, version + 1)
    return segment


cdef void _clear_buckets(Segment* segment) noexcept nogil:
    """Word by word: a reader may still be looking at what the segment was."""
    cdef uint64_t* word = <uint64_t*>(<uint8_t*>segment + 64)
    cdef uint32_t i
    for i in range(BUCKETS * 8):
        store_relaxed(&word[i], 0)


cdef int table_init(Table* table, Heap* heap, ShardHeader* header,
                    const uint64_t* batch) noexcept nogil:
    cdef Arena* arena = heap.arena
    cdef uint64_t depth_max = 4
    cdef uint64_t offset
    cdef Segment* segment
    memset(table, 0, sizeof(Table))
    while depth_max < DEPTH_MAX and (<uint64_t>SEGMENT_SIZE << depth_max) < arena.capacity:
        depth_max += 1
    offset = arena_reserve(arena, <uint64_t>8 << depth_max)
    if offset == 0:
        return NO_MEMORY
    table.heap = heap
    table.index_bytes = <uint64_t>8 << depth_max
    table.view.base = arena.base
    table.view.capacity = arena.capacity
    table.view.header = header
    table.view.directory = <uint64_t*>(arena.base + offset)
    table.view.batch = batch
    header.reserved[0] = depth_max
    header.directory = offset
    segment = _new_segment(table, 0, 0)
    if segment == NULL:
        return NO_MEMORY
    table.segments = 1
    table.view.directory[0] = <uint64_t>(<uint8_t*>segment - arena.base)
    store_release(&header.depth, 0)
    return OK


cdef void table_close(Table* table) noexcept nogil:
    free(table.spare)
    table.spare = NULL
    table.spare_len = table.spare_cap = 0


cdef bint table_locate(const Table* table, const uint8_t* key, size_t key_len, uint32_t namespace,
                       uint64_t hash, Place* place) noexcept nogil:
    cdef const View* view = &table.view
    cdef uint32_t index = home_of(hash)
    cdef uint64_t wanted = fingerprint(hash)
    cdef uint64_t word
    cdef Bucket* bucket
    cdef Record* record
    cdef int i, displacement
    place.segment = segment_for(view, hash)
    place.home = index
    place.hash = hash
    place.key = key
    place.key_len = key_len
    place.namespace = namespace
    for displacement in range(DISPLACEMENT_MAX + 1):
        bucket = bucket_at(place.segment, index)
        for i in range(SLOTS):
            word = bucket.slot[i]
            if word >> FINGERPRINT_SHIFT != wanted or word == 0:
                continue
            record = record_of(view, word)
            if (record.key_len == key_len and record.namespace == namespace
                    and words_equal(<uint8_t*>record + RECORD_HEADER, key, key_len)):
                place.slot = &bucket.slot[i]
                place.record = record
                place.displacement = displacement
                return True
        if bucket.passed == 0:
            break
        index = index + 1 if index + 1 < BUCKETS else 0
    place.slot = NULL
    place.record = NULL
    place.displacement = 0
    return False


cdef uint64_t* _free_slot(Segment* segment, uint32_t home, uint32_t* displacement) noexcept nogil:
    cdef uint32_t index = home
    cdef Bucket* bucket
    cdef uint32_t d
    cdef int i
    for d in range(DISPLACEMENT_MAX + 1):
        bucket = bucket_at(segment, index)
        for i in range(SLOTS):
            if bucket.slot[i] == 0:
                displacement[0] = d
                return &bucket.slot[i]
        index = index + 1 if index + 1 < BUCKETS else 0
    return NULL


cdef void _pass(Segment* segment, uint32_t home, uint32_t displacement, int64_t by) noexcept nogil:
    """Count a key in or out of the buckets that it passed; in before it can be found, out after."""
    cdef uint32_t index = home
    cdef uint32_t d
    cdef Bucket* bucket
    for d in range(displacement):
        bucket = bucket_at(segment, index)
        store_release(&bucket.passed, bucket.passed + <uint64_t>by)
        index = index + 1 if index + 1 < BUCKETS else 0


cdef int _copy_half(Segment* source, Segment* low, Segment* high, uint32_t bit) noexcept nogil:
    cdef Segment* target
    cdef uint32_t index, home, old_displacement, displacement
    cdef uint64_t word
    cdef uint64_t* slot
    cdef int i
    for index in range(BUCKETS):
        for i in range(SLOTS):
            word = bucket_at(source, index).slot[i]
            if word == 0:
                continue
            old_displacement = (word >> 36) & 7
            home = index - old_displacement if index >= old_displacement else (
                index + BUCKETS - old_displacement)
            target = high if (word >> (FINGERPRINT_SHIFT + bit)) & 1 else low
            slot = _free_slot(target, home, &displacement)
            if slot == NULL:
                return NO_MEMORY
            _pass(target, home, displacement, 1)
            word = (word & ~(<uint64_t>7 << 36)) | <uint64_t>displacement << 36
            store_relaxed(slot, word)
            target.count += 1
    return OK


cdef int _retire(Table* table, Segment* segment) noexcept nogil:
    """Nobody is to trust the segment any more; it may be used again."""
    cdef uint64_t* grown
    store_release(&segment.version, segment.version + 1)
    if table.spare_len == table.spare_cap:
        grown = <uint64_t*>realloc(table.spare, (table.spare_cap * 2 + 16) * 8)
        if grown == NULL:
            return NO_MEMORY          # the segment is lost to re-use, nothing else
        table.spare = grown
        table.spare_cap = table.spare_cap * 2 + 16
    table.spare[table.spare_len] = <uint64_t>(<uint8_t*>segment - table.view.base)
    table.spare_len += 1
    return OK


cdef int _split(Table* table, Segment* old) noexcept nogil:
    """Two segments for one: built aside, published entry by entry, then `old` is retired.

    A reader inside `old` sees the state of this moment until the version changes, which is before
    any later change; one that comes by a directory entry not yet rewritten does too.
    """
    cdef const View* view = &table.view
    cdef ShardHeader* header = view.header
    cdef uint32_t depth = old.depth
    cdef uint64_t prefix = old.prefix
    cdef uint64_t i, size
    cdef Segment* low
    cdef Segment* high
    if depth >= header.reserved[0]:
        return NO_MEMORY
    low = _new_segment(table, depth + 1, <uint32_t>prefix)
    if low == NULL:
        return NO_MEMORY
    high = _new_segment(table, depth + 1, <uint32_t>(prefix | <uint64_t>1 << depth))
    if high == NULL:
        _retire(table, low)
        return NO_MEMORY
    if _copy_half(old, low, high, depth) != OK:
        _retire(table, low)
        _retire(table, high)
        return NO_MEMORY
    size = <uint64_t>1 << header.depth
    if depth == header.depth:
        for i in range(size):
            store_relaxed(&view.directory[size + i], view.directory[i])
        store_release(&header.depth, header.depth + 1)
        size *= 2
    i = prefix
    while i < size:
        store_release(
            &view.directory[i],
            <uint64_t>(<uint8_t*>(high if (i >> depth) & 1 else low) - view.base),
        )
        i += <uint64_t>1 << depth
    table.segments += 1
    _retire(table, old)
    return OK


cdef int table_make_room(Table* table, Place* place) noexcept nogil:
    cdef int tries
    for tries in range(DEPTH_MAX + 1):
        if place.segment.count < SEGMENT_FULL:
            place.slot = _free_slot(place.segment, place.home, &place.displacement)
            if place.slot != NULL:
                return OK
        if _split(table, place.segment) != OK:
            # no memory to split: a fuller segment still serves while it has a slot in reach
            place.slot = _free_slot(place.segment, place.home, &place.displacement)
            return OK if place.slot != NULL else NO_MEMORY
        place.segment = segment_for(&table.view, place.hash)
    return NO_MEMORY


cdef void table_insert(Table* table, Place* place, Record* record) noexcept nogil:
    _pass(place.segment, place.home, place.displacement, 1)
    store_release(place.slot, slot_word(&table.view, record, place.displacement, place.hash))
    place.segment.count += 1
    place.record = record


cdef void table_replace(Table* table, Place* place, Record* record) noexcept nogil:
    store_release(place.slot, slot_word(&table.view, record, place.displacement, place.hash))
    place.record = record


cdef void table_remove(Table* table, Place* place) noexcept nogil:
    store_release(place.slot, 0)
    _pass(place.segment, place.home, place.displacement, -1)
    place.segment.count -= 1
    place.slot = NULL
    place.record = NULL
