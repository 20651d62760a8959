"""Records: the code; records.pxd has the contract."""
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from annapy._core.arena cimport heap_alloc, heap_free, heap_settle
from annapy._core.atomics cimport (
    fence_release, fence_seq, load32_acquire, load_acquire, store32_relaxed, store32_release,
    store_relaxed, store_release, words_in,
)
from annapy._core.cell cimport STAMP_SIZE, TAG_LWW, TAG_MAXARRAY, TAG_SUMARRAY, Cell, cell_parse
from annapy._core.codec cimport BUSY, NO_MEMORY, OK, likely, span, unlikely
from annapy._core.events cimport EVENT_DELETE, EVENT_EVICT, EVENT_SET, events_post
from annapy._core.hashing cimport hash64
from annapy._core.ledger cimport (
    NO_KID, cold_add, Deadline, Ledger, ledger_deadline, ledger_dirty, ledger_drop, ledger_number,
)
from annapy._core.large cimport large_root, large_release
from annapy._core.shard cimport Hazards, Shard
from annapy._core.table cimport (
    COPIED_MAX, REC_BATCH, REC_COMMITTING, REC_DIRTY, REC_TOMBSTONE, REC_TRAILER, REC_TREE,
    REC_TTL, RECORD_HEADER, Place, Record, ShardHeader, table_insert, table_locate,
    table_make_room, table_remove, table_replace,
)

cdef enum:
    EVICTION_ROUNDS = 1 << 20
    INDEX_ROUNDS = 256
    INDEX_EVICTIONS = 64
    ARRAY_CODE = 0x30            # of annapy.values: an array's code and zeros, then its header
    ARRAY_HEAD = 4


cdef uint64_t _size(const Record* record) noexcept nogil:
    cdef uint64_t size = <uint64_t>record.cell_off + record.cell_len
    if record.flags & REC_TRAILER:
        size = ((size + 7) & ~<uint64_t>7) + 8
    return size


cdef bint _hazarded(Shard* shard, uint64_t offset) noexcept nogil:
    cdef Hazards* hazards = shard.hazards
    cdef uint32_t i
    for i in range(load32_acquire(&hazards.high)):
        if load_acquire(&hazards.slot[i]) == offset:
            return True
    return False


cdef inline void _let_go(Shard* shard, uint64_t offset, uint64_t size) noexcept nogil:
    """size 0: the root of a tree."""
    if size:
        heap_free(&shard.heap, offset, size)
    else:
        large_release(shard, offset)


cdef void _sweep_limbo(Shard* shard) noexcept nogil:
    cdef uint32_t i, kept = 0
    fence_seq()
    for i in range(shard.limbo_len):
        if _hazarded(shard, shard.limbo[2 * i]):
            shard.limbo[2 * kept] = shard.limbo[2 * i]
            shard.limbo[2 * kept + 1] = shard.limbo[2 * i + 1]
            kept += 1
        else:
            _let_go(shard, shard.limbo[2 * i], shard.limbo[2 * i + 1])
    shard.limbo_len = kept


cdef void _free(Shard* shard, uint64_t offset, uint64_t size) noexcept nogil:
    """Small slabs are re-used at once (readers validate); large ones, and roots of trees (size 0),
    when no hazard names them."""
    cdef uint64_t* grown
    cdef uint32_t cap
    if likely(size <= COPIED_MAX and size != 0):
        heap_free(&shard.heap, offset, size)
        return
    if shard.limbo_len == shard.limbo_cap:
        cap = shard.limbo_cap * 2 + 16
        grown = <uint64_t*>realloc(shard.limbo, <size_t>cap * 16)
        if grown == NULL:
            fence_seq()
            if not _hazarded(shard, offset):
                _let_go(shard, offset, size)
            return                       # else: lost to re-use until the store is closed
        shard.limbo = grown
        shard.limbo_cap = cap
    shard.limbo[2 * shard.limbo_len] = offset
    shard.limbo[2 * shard.limbo_len + 1] = size
    shard.limbo_len += 1
    _sweep_limbo(shard)


cdef void _free_record(Shard* shard, Record* record) noexcept nogil:
    """A record that no slot names any more, and its tree, if it has one."""
    cdef Cell cell
    cdef uint64_t root = 0
    if unlikely(record.flags & REC_TREE):
        cell_parse(span(<uint8_t*>record + record.cell_off, record.cell_len), &cell)
        root = large_root(&cell)
    _free(shard, _offset(shard, record), _size(record))
    if unlikely(root != 0):
        _free(shard, root, 0)


cdef inline uint8_t* _base(Shard* shard) noexcept nogil:
    return shard.arena.base


cdef inline uint64_t _offset(Shard* shard, const void* p) noexcept nogil:
    return <uint64_t>(<const uint8_t*>p - shard.arena.base)


cdef void record_forget(Shard* shard, Place* place) noexcept nogil:
    cdef Record* record = place.record
    table_remove(&shard.table, place)
    ledger_drop(&shard.ledger, record.kid)
    _free_record(shard, record)


cdef uint64_t record_hash(Shard* shard, const Record* record) noexcept nogil:
    return hash64(<const uint8_t*>record + RECORD_HEADER, record.key_len,
                  shard.arena.header.hash_seed)


cdef bint _place_of(Shard* shard, Record* record, Place* place) noexcept nogil:
    return table_locate(&shard.table, <uint8_t*>record + RECORD_HEADER, record.key_len,
                        record.namespace, record_hash(shard, record), place)


cdef void record_post(Shard* shard, uint8_t kind, const Record* record) noexcept nogil:
    if unlikely(shard.events != NULL) and record.namespace != 0:
        events_post(shard.events, kind, 0, record.namespace,
                    <const uint8_t*>record + RECORD_HEADER, record.key_len)


cdef int _evict_one(Shard* shard, uint32_t protect) noexcept nogil:
    """SIEVE: the hand goes from old to new, sparing once what was read since it last came by."""
    cdef uint64_t steps = 2 * <uint64_t>shard.ledger.records_len + 2
    cdef uint32_t waiting = 0
    cdef uint32_t kid
    cdef Record* record
    cdef Place place
    while steps:
        steps -= 1
        if shard.ledger.hand >= shard.ledger.records_len:
            shard.ledger.hand = 0
            if shard.ledger.records_len == 0:
                break
        kid = shard.ledger.hand
        shard.ledger.hand += 1
        if shard.ledger.records[kid] == 0 or kid == protect:
            continue
        record = <Record*>(_base(shard) + shard.ledger.records[kid])
        if shard.backed and record.flags & (REC_DIRTY | REC_COMMITTING):
            waiting += 1
            continue
        if record.flags & REC_BATCH or record.namespace == 0 and not shard.backed:
            continue
        if record.visited:
            store32_relaxed(&record.visited, 0)
            continue
        if not _place_of(shard, record, &place):
            continue
        if shard.backed:
            cold_add(&shard.ledger, place.hash)
            shard.demotions += 1
        else:
            shard.table.view.header.live -= 1
            shard.evicted += 1
            record_post(shard, EVENT_EVICT, record)
        record_forget(shard, &place)
        return OK
    return BUSY if waiting else NO_MEMORY


cdef inline bint _over_budget(Shard* shard, uint64_t size) noexcept nogil:
    return shard.heap.used + shard.table.index_bytes + size > shard.budget


cdef int _room(Shard* shard, uint64_t size, uint32_t protect) noexcept nogil:
    cdef int status, rounds
    if size > shard.budget:
        return NO_MEMORY
    if shard.limbo_len:
        _sweep_limbo(shard)
    for rounds in range(EVICTION_ROUNDS):
        if not _over_budget(shard, size):
            return OK
        if not shard.backed and not shard.evicts:
            return NO_MEMORY
        status = _evict_one(shard, protect)
        if status != OK:
            return status
    return NO_MEMORY


cdef uint64_t _alloc(Shard* shard, uint64_t size, uint32_t protect, int* status) noexcept nogil:
    cdef uint64_t offset = 0
    cdef int rounds
    if likely(not _over_budget(shard, size)):
        offset = heap_alloc(&shard.heap, size)
        if likely(offset):
            return offset
    status[0] = _room(shard, size, protect)
    for rounds in range(EVICTION_ROUNDS):
        if status[0] != OK:
            return 0
        offset = heap_alloc(&shard.heap, size)
        if offset:
            return offset
        if not shard.backed and not shard.evicts:
            status[0] = NO_MEMORY
        else:
            status[0] = _evict_one(shard, protect)
    return 0


# --- writing a record ---------------------------------------------------------------------------

cdef uint32_t _array_offset(const uint8_t* cell, size_t cell_len) noexcept nogil:
    """Where an array's data starts in its cell, to put it on a 64-byte boundary; or 0."""
    cdef Cell parsed
    cdef uint64_t at
    if cell_parse(span(cell, cell_len), &parsed) != OK:
        return 0
    at = <uint64_t>(parsed.state.ptr - cell)
    if parsed.tag == TAG_LWW:
        if parsed.state.len < STAMP_SIZE + ARRAY_HEAD + 8 or cell[at + STAMP_SIZE] != ARRAY_CODE:
            return 0
        at += STAMP_SIZE + ARRAY_HEAD
    elif parsed.tag != TAG_MAXARRAY and parsed.tag != TAG_SUMARRAY or parsed.state.len < 8:
        return 0
    return <uint32_t>(at + 8 + 8 * <uint64_t>cell[at + 4])


cdef uint32_t _cell_offset(size_t key_len, const uint8_t* cell, size_t cell_len) noexcept nogil:
    cdef uint32_t at = <uint32_t>((RECORD_HEADER + key_len + 7) & ~<size_t>7)
    if cell_len > COPIED_MAX:
        at += (64 - ((at + _array_offset(cell, cell_len)) & 63)) & 63
    return at


cdef void _fill(Record* record, const Place* place, uint32_t cell_off, const uint8_t* cell,
                size_t cell_len, uint32_t flags, uint32_t kid, uint32_t visited) noexcept nogil:
    """Into memory that a late reader may still be looking at: version first, then word by word."""
    cdef uint8_t* to = <uint8_t*>record
    store_relaxed(&record.version, 0)
    fence_release()
    store_relaxed(<uint64_t*>&record.cell_len,
                  <uint64_t>cell_len | <uint64_t>place.key_len << 32 | <uint64_t>cell_off << 48)
    store_relaxed(<uint64_t*>&record.namespace, <uint64_t>place.namespace | <uint64_t>flags << 32)
    store_relaxed(<uint64_t*>&record.visited, <uint64_t>visited | <uint64_t>kid << 32)
    words_in(to + RECORD_HEADER, place.key, place.key_len)
    if cell_off & 7:
        memcpy(to + cell_off, cell, cell_len)      # large: pinned, never read while it is re-used
    else:
        words_in(to + cell_off, cell, cell_len)


cdef int _batch_note(Shard* shard, uint32_t kid, uint64_t before) noexcept nogil:
    cdef uint32_t cap
    cdef uint32_t* kids
    cdef uint64_t* befores
    if shard.batched_len == shard.batched_cap:
        cap = shard.batched_cap * 2 + 64
        kids = <uint32_t*>realloc(shard.batched, <size_t>cap * 4)
        if kids == NULL:
            return NO_MEMORY
        shard.batched = kids
        befores = <uint64_t*>realloc(shard.batched_before, <size_t>cap * 8)
        if befores == NULL:
            return NO_MEMORY
        shard.batched_before = befores
        shard.batched_cap = cap
    shard.batched[shard.batched_len] = kid
    shard.batched_before[shard.batched_len] = before
    shard.batched_len += 1
    return OK


cdef uint64_t record_deadline(const Record* record) noexcept nogil:
    cdef Cell cell
    if cell_parse(span(<const uint8_t*>record + record.cell_off, record.cell_len), &cell) != OK:
        return 0
    return cell.deadline_ms


cdef void _trim_deadlines(Shard* shard) noexcept nogil:
    """Drop the heap's entries that no longer say when their key expires."""
    cdef Ledger* ledger = &shard.ledger
    cdef Deadline* entries = ledger.deadlines
    cdef uint32_t i, n = ledger.deadlines_len
    cdef uint64_t at
    ledger.deadlines = NULL
    ledger.deadlines_len = ledger.deadlines_cap = 0
    for i in range(n):
        at = ledger.records[entries[i].kid] if entries[i].kid < ledger.records_len else 0
        if at and record_deadline(<Record*>(_base(shard) + at)) == entries[i].at_ms:
            if ledger_deadline(ledger, entries[i].at_ms, entries[i].kid) != OK:
                free(ledger.deadlines)   # out of memory: keep them all
                ledger.deadlines = entries
                ledger.deadlines_len = ledger.deadlines_cap = n
                return
    free(entries)


cdef int _note_deadline(Shard* shard, const Record* old, uint32_t kid,
                        uint64_t deadline_ms) noexcept nogil:
    """One entry a key will do while its deadline only moves on: it is put back when it comes up."""
    cdef uint64_t before
    if old != NULL and old.flags & REC_TTL and not old.flags & REC_TOMBSTONE:
        before = record_deadline(old)
        if before and before <= deadline_ms:
            return OK
    if shard.ledger.deadlines_len > 2 * <uint64_t>shard.ledger.records_len + 1024:
        _trim_deadlines(shard)
    return ledger_deadline(&shard.ledger, deadline_ms, kid)


cdef int _make_room(Shard* shard, Place* place, uint32_t kid) noexcept nogil:
    """A slot for a new key; where the index cannot grow, keys go until it can or a slot is free."""
    cdef int status = table_make_room(&shard.table, place)
    cdef int rounds, i
    if likely(status == OK) or not shard.backed and not shard.evicts:
        return status
    for rounds in range(INDEX_ROUNDS):
        for i in range(INDEX_EVICTIONS):
            status = _evict_one(shard, kid)
            if status != OK:
                return status
        heap_settle(&shard.heap)
        if table_make_room(&shard.table, place) == OK:
            return OK
    return NO_MEMORY


cdef int record_room(Shard* shard, uint64_t size, const Record* protect) noexcept nogil:
    return _room(shard, size, protect.kid if protect != NULL else NO_KID)


cdef int record_publish(Shard* shard, Place* place, const uint8_t* cell, size_t cell_len,
                        uint32_t flags, uint64_t deadline_ms, bint batch,
                        bint clean) noexcept nogil:
    """A fresh record for the key at `place`, made visible by one store; the old one is freed."""
    cdef Record* old = place.record
    cdef Record* record
    cdef ShardHeader* header = shard.table.view.header
    cdef uint32_t cell_off = _cell_offset(place.key_len, cell, cell_len)
    cdef uint64_t size = cell_off + cell_len
    cdef uint64_t offset, before = 0
    cdef uint32_t kid = old.kid if old != NULL else NO_KID
    cdef bint in_batch = old != NULL and old.flags & REC_BATCH
    cdef int status = NO_MEMORY
    if batch:
        size = ((size + 7) & ~<uint64_t>7) + 8
        flags |= REC_BATCH | REC_TRAILER
    offset = _alloc(shard, size, kid, &status)
    if unlikely(offset == 0):
        return status
    record = <Record*>(_base(shard) + offset)
    if old == NULL:
        kid = ledger_number(&shard.ledger, _base(shard), offset)
        if kid == NO_KID:
            heap_free(&shard.heap, offset, size)
            return NO_MEMORY
        status = _make_room(shard, place, kid)
        if unlikely(status != OK):
            ledger_drop(&shard.ledger, kid)
            heap_free(&shard.heap, offset, size)
            return status
    elif batch:
        before = (<uint64_t*>(<uint8_t*>old + _size(old) - 8))[0] if in_batch else (
            _offset(shard, old))
    status = OK
    if shard.backed and not clean:
        flags |= REC_DIRTY
        shard.dirty_bytes += cell_len
        if old == NULL or not old.flags & REC_DIRTY:
            status = ledger_dirty(&shard.ledger, kid)
    if flags & REC_TTL and status == OK:
        status = _note_deadline(shard, old, kid, deadline_ms)
    if batch and not in_batch and status == OK:
        status = _batch_note(shard, kid, before)
    if unlikely(status != OK):
        if old == NULL:
            ledger_drop(&shard.ledger, kid)
        heap_free(&shard.heap, offset, size)
        return status
    _fill(record, place, cell_off, cell, cell_len, flags, kid, old.visited if old != NULL else 0)
    if batch:
        store_relaxed(<uint64_t*>(<uint8_t*>record + size - 8), before)
    shard.ticket += 1
    store_release(&record.version, shard.ticket)
    if not clean and place.namespace != 0:      # the system's keys are not counted
        if old == NULL or old.flags & REC_TOMBSTONE:
            header.live += not flags & REC_TOMBSTONE
        else:
            header.live -= (flags & REC_TOMBSTONE) != 0
    if old == NULL:
        table_insert(&shard.table, place, record)
    else:
        shard.ledger.records[kid] = offset
        table_replace(&shard.table, place, record)
        if not batch or in_batch:
            _free_record(shard, old)
    store_release(&header.applied, shard.ticket)
    return OK


cdef void batch_end(Shard* shard, bint keep) noexcept nogil:
    cdef uint32_t i, flags
    cdef uint64_t before
    cdef Record* record
    cdef Record* previous
    cdef Place place
    cdef ShardHeader* header = shard.table.view.header
    for i in range(shard.batched_len):
        before = shard.batched_before[i]
        record = <Record*>(_base(shard) + shard.ledger.records[shard.batched[i]])
        previous = <Record*>(_base(shard) + before)
        _place_of(shard, record, &place)
        if keep:
            store32_release(&record.flags, record.flags & ~<uint32_t>REC_BATCH)
            record_post(shard, EVENT_DELETE if record.flags & REC_TOMBSTONE else EVENT_SET, record)
            if before:
                _free_record(shard, previous)
            if record.flags & REC_TOMBSTONE and not shard.backed:
                record_forget(shard, &place)
            continue
        if record.namespace != 0:
            header.live -= not record.flags & REC_TOMBSTONE
        if before == 0:
            record_forget(shard, &place)
            continue
        if record.namespace != 0:
            header.live += not previous.flags & REC_TOMBSTONE
        shard.ledger.records[record.kid] = before
        previous.kid = record.kid
        table_replace(&shard.table, &place, previous)
        _free_record(shard, record)
    shard.batched_len = 0


