"""The shard's code; shard.pxd has the contract."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from annapy._core.arena cimport Arena, heap_alloc, heap_close, heap_free, heap_init
from annapy._core.atomics cimport (
    cas64, cpu_pause, exchange, fence_release, fence_seq, load32_acquire, load_acquire, load_relaxed,
    store32_relaxed, store32_release, store_relaxed, store_release, words_in,
)
from annapy._core.cell cimport (
    CELL_FIELDS, FIELD_LABEL, HEADER_SIZE, STAMP_SIZE, TAG_LWW, TAG_MAXARRAY, TAG_SUMARRAY, Cell, Stamp,
    cell_parse, cell_write, cell_write_header, stamp_compare, stamp_is_zero,
)
from annapy._core.codec cimport (
    BAD_OPERATION, BUSY, COLD, CORRUPT, MISSING, NO_MEMORY, OK, OVER_LIMIT, WRONG_TYPE, Buf, Span,
    buf_clear, buf_free, buf_init, buf_put, buf_span, likely, load_u16, span, span_equal, unlikely,
)
from annapy._core.events cimport (
    EVENT_DELETE, EVENT_EVICT, EVENT_EXPIRE, EVENT_MERGE, EVENT_SET, events_post,
)
from annapy._core.hashing cimport hash64
from annapy._core.ledger cimport (
    NO_KID, Deadline, Ledger, cold_add, cold_maybe, ledger_close, ledger_deadline, ledger_dirty, ledger_drop,
    ledger_due, ledger_init, ledger_number,
)
from annapy._core.registry cimport (
    LATTICE_DOTTED, OP_CLEAR, OP_MERGE, OP_SET, LatticeType, Op, lattice_of,
)
from annapy._core.table cimport (
    COPIED_MAX, REC_BATCH, REC_COMMITTING, REC_DIRTY, REC_PLAIN, REC_TOMBSTONE, REC_TRAILER,
    REC_TREE, REC_TTL, RECORD_HEADER, Place, Record, Root, ShardHeader, table_close, table_init,
    table_insert, table_locate, table_make_room, table_remove, table_replace,
)

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

cdef enum:
    SPINS_BEFORE_SLEEP = 2000
    SLEEP_NS = 20000
    EVICTION_ROUNDS = 1 << 20
    ARRAY_CODE = 0x30            # of annapy.values: an array's code and zeros, then its header
    ARRAY_HEAD = 4
    EXPIRED_A_WRITE = 4          # deadlines that a write looks after


# --- time -------------------------------------------------------------------------------------

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


# --- taking turns -----------------------------------------------------------------------------

cdef int shard_init(Shard* shard, Arena* arena, Root* root, uint32_t index, Hazards* hazards,
                    uint64_t* clock, uint64_t actor, uint64_t budget) noexcept nogil:
    cdef ShardHeader* header = <ShardHeader*>(<uint8_t*>root + sizeof(Root)) + index
    memset(shard, 0, sizeof(Shard))
    shard.arena = arena
    shard.root = root
    shard.hazards = hazards
    shard.clock = clock
    shard.actor = actor
    shard.budget = budget
    if heap_init(&shard.heap, arena) != OK:
        return NO_MEMORY
    ledger_init(&shard.ledger)
    buf_init(&shard.delta)
    buf_init(&shard.state)
    buf_init(&shard.whole)
    return table_init(&shard.table, &shard.heap, header, &root.batch)


cdef void shard_close(Shard* shard) noexcept nogil:
    table_close(&shard.table)
    heap_close(&shard.heap)
    ledger_close(&shard.ledger)
    buf_free(&shard.delta)
    buf_free(&shard.state)
    buf_free(&shard.whole)
    free(shard.limbo)
    free(shard.batched)
    free(shard.batched_before)


cdef bint shard_try(Shard* shard) noexcept nogil:
    return load_relaxed(&shard.holder) == 0 and cas64(&shard.holder, 0, 1)


cdef inline void _wait_a_little(int tries) noexcept nogil:
    cdef timespec ts
    if tries < SPINS_BEFORE_SLEEP:
        cpu_pause()
        return
    ts.tv_sec = 0
    ts.tv_nsec = SLEEP_NS
    nanosleep(&ts, NULL)


cdef void shard_take(Shard* shard) noexcept nogil:
    cdef int tries = 0
    while not shard_try(shard):
        _wait_a_little(tries)
        tries += 1


cdef void _drain(Shard* shard) noexcept nogil:
    """Apply what others left, in the order in which they left it."""
    cdef Request* newest = <Request*>exchange(&shard.mail, 0)
    cdef Request* oldest = NULL
    cdef Request* following
    while newest != NULL:
        following = newest.next
        newest.next = oldest
        oldest = newest
        newest = following
    while oldest != NULL:
        following = oldest.next
        shard_apply(shard, oldest)
        store32_release(&oldest.done, 1)
        oldest = following


cdef void shard_release(Shard* shard) noexcept nogil:
    """Give the shard back; whoever left mail after the last look is served by looking once more."""
    while True:
        if load_relaxed(&shard.mail):
            _drain(shard)
        store_release(&shard.holder, 0)
        fence_seq()
        if likely(load_relaxed(&shard.mail) == 0) or not shard_try(shard):
            return


cdef void shard_submit(Shard* shard, Request* request) noexcept nogil:
    cdef int tries = 0
    if likely(shard_try(shard)):
        shard_apply(shard, request)
        shard_release(shard)
        return
    request.done = 0
    while True:
        request.next = <Request*>load_acquire(&shard.mail)
        if cas64(&shard.mail, <uint64_t>request.next, <uint64_t>request):
            break
    fence_seq()
    while not load32_acquire(&request.done):
        if shard_try(shard):
            shard_release(shard)
        else:
            _wait_a_little(tries)
            tries += 1


# --- memory -----------------------------------------------------------------------------------

cdef uint64_t record_size(const Record* record) noexcept nogil:
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


cdef void _sweep_limbo(Shard* shard) noexcept nogil:
    cdef uint32_t i, kept = 0
    fence_seq()
    for i in range(shard.limbo_len):
        if _hazarded(shard, shard.limbo[2 * i]):
            shard.limbo[2 * kept] = shard.limbo[2 * i]
            shard.limbo[2 * kept + 1] = shard.limbo[2 * i + 1]
            kept += 1
        else:
            heap_free(&shard.heap, shard.limbo[2 * i], shard.limbo[2 * i + 1])
    shard.limbo_len = kept


cdef void shard_free(Shard* shard, uint64_t offset, uint64_t size) noexcept nogil:
    """Small slabs are re-used at once (readers validate), large ones when no hazard names them."""
    cdef uint64_t* grown
    cdef uint32_t cap
    if likely(size <= COPIED_MAX):
        heap_free(&shard.heap, offset, size)
        return
    if shard.limbo_len == shard.limbo_cap:
        cap = shard.limbo_cap * 2 + 16
        grown = <uint64_t*>realloc(shard.limbo, <size_t>cap * 16)
        if grown == NULL:
            fence_seq()
            if not _hazarded(shard, offset):
                heap_free(&shard.heap, offset, size)
            return                       # else: lost to re-use until the store is closed
        shard.limbo = grown
        shard.limbo_cap = cap
    shard.limbo[2 * shard.limbo_len] = offset
    shard.limbo[2 * shard.limbo_len + 1] = size
    shard.limbo_len += 1
    _sweep_limbo(shard)


cdef inline uint8_t* _base(Shard* shard) noexcept nogil:
    return shard.arena.base


cdef inline uint64_t _offset(Shard* shard, const void* p) noexcept nogil:
    return <uint64_t>(<const uint8_t*>p - shard.arena.base)


cdef void shard_forget(Shard* shard, Place* place) noexcept nogil:
    cdef Record* record = place.record
    table_remove(&shard.table, place)
    ledger_drop(&shard.ledger, record.kid)
    shard_free(shard, _offset(shard, record), record_size(record))


cdef inline uint64_t _hash(Shard* shard, const Record* record) noexcept nogil:
    return hash64(<const uint8_t*>record + RECORD_HEADER, record.key_len,
                  shard.arena.header.hash_seed)


cdef bint _place_of(Shard* shard, Record* record, Place* place) noexcept nogil:
    return table_locate(&shard.table, <uint8_t*>record + RECORD_HEADER, record.key_len,
                        record.namespace, _hash(shard, record), place)


cdef inline void _post(Shard* shard, uint8_t kind, const Record* record) noexcept nogil:
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
        if record.flags & (REC_BATCH | REC_TREE) or record.namespace == 0 and not shard.backed:
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
            _post(shard, EVENT_EVICT, record)
        shard_forget(shard, &place)
        return OK
    return BUSY if waiting else NO_MEMORY


cdef inline bint _over_budget(Shard* shard, uint64_t size) noexcept nogil:
    return shard.heap.used + shard.table.index_bytes + size > shard.budget


cdef int shard_room(Shard* shard, uint64_t size, uint32_t protect) noexcept nogil:
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
    status[0] = shard_room(shard, size, protect)
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
    """Where an array's data starts in its cell, so that it can be put on a 64-byte boundary; or 0."""
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


cdef uint64_t _deadline_of(const Record* record) noexcept nogil:
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
        if at and _deadline_of(<Record*>(_base(shard) + at)) == entries[i].at_ms:
            if ledger_deadline(ledger, entries[i].at_ms, entries[i].kid) != OK:
                free(ledger.deadlines)   # out of memory: keep them all
                ledger.deadlines = entries
                ledger.deadlines_len = ledger.deadlines_cap = n
                return
    free(entries)


cdef int _note_deadline(Shard* shard, const Record* old, uint32_t kid,
                        uint64_t deadline_ms) noexcept nogil:
    """One entry a key is enough while its deadline only moves on: it is put back when it comes up."""
    cdef uint64_t before
    if old != NULL and old.flags & REC_TTL and not old.flags & REC_TOMBSTONE:
        before = _deadline_of(old)
        if before and before <= deadline_ms:
            return OK
    if shard.ledger.deadlines_len > 2 * <uint64_t>shard.ledger.records_len + 1024:
        _trim_deadlines(shard)
    return ledger_deadline(&shard.ledger, deadline_ms, kid)


cdef int _publish(Shard* shard, Place* place, const uint8_t* cell, size_t cell_len, uint32_t flags,
                  uint64_t deadline_ms, bint batch, bint clean) noexcept nogil:
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
        if unlikely(table_make_room(&shard.table, place) != OK):
            ledger_drop(&shard.ledger, kid)
            heap_free(&shard.heap, offset, size)
            return BUSY if shard.backed or shard.evicts else NO_MEMORY
    elif batch:
        before = (<uint64_t*>(<uint8_t*>old + record_size(old) - 8))[0] if in_batch else (
            _offset(shard, old))
    status = OK
    if shard.backed and not clean:
        flags |= REC_DIRTY
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
    if not clean:
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
            shard_free(shard, _offset(shard, old), record_size(old))
    store_release(&header.applied, shard.ticket)
    return OK


cdef void shard_batch_end(Shard* shard, bint keep) noexcept nogil:
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
            _post(shard, EVENT_DELETE if record.flags & REC_TOMBSTONE else EVENT_SET, record)
            if before:
                shard_free(shard, before, record_size(previous))
            if record.flags & REC_TOMBSTONE and not shard.backed:
                shard_forget(shard, &place)
            continue
        header.live -= not record.flags & REC_TOMBSTONE
        if before == 0:
            shard_forget(shard, &place)
            continue
        header.live += not previous.flags & REC_TOMBSTONE
        shard.ledger.records[record.kid] = before
        previous.kid = record.kid
        table_replace(&shard.table, &place, previous)
        shard_free(shard, _offset(shard, record), record_size(record))
    shard.batched_len = 0


# --- applying a request ---------------------------------------------------------------------------

cdef int _copy_cell(Request* request, const uint8_t* cell, size_t cell_len) noexcept nogil:
    if request.cell == NULL:
        return OK
    buf_clear(request.cell)
    buf_put(request.cell, cell, cell_len)
    return request.cell.status


cdef bint _is_plain(const Cell* cell) noexcept nogil:
    return cell.tag == TAG_LWW and cell.flags == 0


cdef void _deadline(Request* request, Cell* cell) noexcept nogil:
    if request.ttl_ms > 0:
        cell.deadline_ms = request.now_ms + <uint64_t>request.ttl_ms
        cell.expiry_stamp = request.op.stamp
    elif request.ttl_ms == TTL_NONE and not stamp_is_zero(&cell.expiry_stamp):
        if cell.deadline_ms:
            cell.deadline_ms = 0
            cell.expiry_stamp = request.op.stamp


cdef int _store_cell(Shard* shard, Request* request, Place* place, Cell* cell, uint32_t flags,
                     uint8_t event) noexcept nogil:
    """Write the cell out whole and publish it."""
    cdef int status
    buf_clear(&shard.whole)
    cell_write(&shard.whole, cell)
    if unlikely(shard.whole.status != OK):
        return shard.whole.status
    if cell.deadline_ms:
        flags |= REC_TTL
    if _is_plain(cell) and cell.deadline_ms == 0 and not flags & REC_TOMBSTONE:
        # what cell_write left out is absent: the header is bare
        if shard.whole.ptr[2] == 0:
            flags |= REC_PLAIN
    status = _publish(shard, place, shard.whole.ptr, shard.whole.len, flags, cell.deadline_ms,
                      request.flags & REQ_BATCH, False)
    if unlikely(status != OK):
        return status
    request.applied = True
    request.version = shard.ticket
    if not request.flags & REQ_BATCH:
        _post(shard, event, place.record)
    if request.flags & REQ_RETURN_NEW:
        return _copy_cell(request, shard.whole.ptr, shard.whole.len)
    return OK


cdef int _delete(Shard* shard, Request* request, Place* place, Cell* cell,
                 uint8_t event) noexcept nogil:
    """LWW: a tombstone. Dotted: observed-remove of everything. Else: a new generation, empty."""
    cdef const LatticeType* lattice = lattice_of(cell.tag)
    cdef Op clear
    cdef uint8_t bare[STAMP_SIZE]
    if not shard.backed and not request.flags & REQ_BATCH:
        request.applied = True
        shard.ticket += 1
        request.version = shard.ticket
        shard.table.view.header.live -= 1
        _post(shard, event, place.record)
        shard_forget(shard, place)
        return OK
    cell.fields = span(NULL, 0)
    cell.deadline_ms = 0
    if cell.tag == TAG_LWW:
        memcpy(bare, &request.op.stamp, STAMP_SIZE)
        cell.state = span(bare, STAMP_SIZE)
    elif lattice != NULL and lattice.flags & LATTICE_DOTTED:
        clear = request.op
        clear.code = OP_CLEAR
        clear.tag = cell.tag
        clear.arg = span(NULL, 0)
        if _mutate_and_join(shard, lattice, cell.state, &clear) != OK:
            return NO_MEMORY
        cell.state = span(shard.state.ptr, shard.state.len)
    else:
        cell.generation = request.op.stamp
        cell.state = span(NULL, 0)
    return _store_cell(shard, request, place, cell, REC_TOMBSTONE, event)


cdef int _mutate_and_join(Shard* shard, const LatticeType* lattice, Span old,
                          const Op* op) noexcept nogil:
    """shard.state = join(old, delta of op)."""
    cdef int status
    cdef Span delta
    buf_clear(&shard.state)
    if op.code == OP_MERGE:
        delta = op.arg
    else:
        buf_clear(&shard.delta)
        status = lattice.mutate(old, op, &shard.delta)
        if status == OK:
            status = shard.delta.status
        if status != OK:
            return status
        delta = span(shard.delta.ptr, shard.delta.len)
    if old.len == 0:
        buf_span(&shard.state, delta)
        return shard.state.status
    status = lattice.join(old, delta, &shard.state)
    return status if status != OK else shard.state.status


cdef int _meet(Shard* shard, Request* request, const LatticeType* lattice, Cell* cell, bint present,
               bint live) noexcept nogil:
    """What the operation starts from: the cell that is there, or an empty one of its own type."""
    cdef const LatticeType* there
    cdef Stamp seen
    if present and cell.tag == request.op.tag:
        if live or cell.tag == TAG_LWW or cell.state.len == 0:
            if not live:
                cell.deadline_ms = 0
                cell.fields = span(NULL, 0)
            return OK
        if lattice.flags & LATTICE_DOTTED and cell.deadline_ms == 0:
            return OK                    # an emptied dotted cell keeps its context
    elif live:
        there = lattice_of(cell.tag)
        if there == NULL or not there.is_empty(cell.state):
            request.found_tag = cell.tag
            return WRONG_TYPE
    if present:
        clock_observe(shard.clock, cell.generation.hlc)
        if stamp_compare(&request.op.stamp, &cell.generation) <= 0:
            request.op.stamp.hlc = clock_stamp(shard.clock)
        cell.generation = request.op.stamp
    else:
        memset(&cell.generation, 0, sizeof(Stamp))
    cell.tag = request.op.tag
    cell.flags = 0
    cell.deadline_ms = 0
    memset(&cell.expiry_stamp, 0, sizeof(Stamp))
    cell.fields = span(NULL, 0)
    cell.state = span(NULL, 0)
    return OK


cdef int _set_register(Shard* shard, Request* request, Place* place, Cell* cell) noexcept nogil:
    """LWW: the new stamp is later than the one that is there, by minting again if need be."""
    cdef Stamp there
    if cell.state.len >= STAMP_SIZE:
        memcpy(&there, cell.state.ptr, STAMP_SIZE)
        if unlikely(stamp_compare(&request.op.stamp, &there) <= 0):
            clock_observe(shard.clock, there.hlc)
            request.op.stamp.hlc = clock_stamp(shard.clock)
    buf_clear(&shard.state)
    buf_put(&shard.state, &request.op.stamp, STAMP_SIZE)
    buf_span(&shard.state, request.op.arg)
    return shard.state.status


cdef int _change(Shard* shard, Request* request, Place* place, Cell* cell, bint present,
                 bint live) noexcept nogil:
    cdef const LatticeType* lattice = lattice_of(request.op.tag)
    cdef Span old
    cdef uint64_t deadline
    cdef uint8_t label[STAMP_SIZE + 3 + 256]
    cdef int status
    if lattice == NULL:
        return BAD_OPERATION
    status = _meet(shard, request, lattice, cell, present, live)
    if status != OK:
        return status
    old = cell.state
    deadline = cell.deadline_ms
    if request.op.code == OP_SET and request.op.tag == TAG_LWW:
        status = _set_register(shard, request, place, cell)
        cell.fields = span(NULL, 0)
    else:
        status = _mutate_and_join(shard, lattice, old, &request.op)
    if status != OK:
        return status
    _deadline(request, cell)
    if request.label.ptr != NULL:
        if request.label.len > 255:
            return OVER_LIMIT
        label[0] = FIELD_LABEL
        label[1] = <uint8_t>((STAMP_SIZE + request.label.len) & 0xFF)
        label[2] = <uint8_t>((STAMP_SIZE + request.label.len) >> 8)
        memcpy(&label[3], &request.op.stamp, STAMP_SIZE)
        memcpy(&label[3 + STAMP_SIZE], request.label.ptr, request.label.len)
        cell.fields = span(label, 3 + STAMP_SIZE + request.label.len)
    elif live and deadline == cell.deadline_ms and span_equal(
            old, span(shard.state.ptr, shard.state.len)):
        request.applied = True           # nothing new: no ticket, no write
        request.version = place.record.version
        if request.flags & REQ_RETURN_NEW:
            return _copy_cell(request, <uint8_t*>place.record + place.record.cell_off,
                              place.record.cell_len)
        return OK
    cell.state = span(shard.state.ptr, shard.state.len)
    return _store_cell(shard, request, place, cell, 0,
                       EVENT_SET if request.op.code == OP_SET else EVENT_MERGE)


cdef int _bring_in(Shard* shard, Request* request, Place* place) noexcept nogil:
    """A cell that the disk holds and the table does not: into the table, clean."""
    cdef Cell cell
    cdef uint32_t flags = 0
    if cell_parse(request.cold, &cell) != OK:
        return CORRUPT
    if cell.deadline_ms:
        flags |= REC_TTL
    elif cell.flags == 0 and cell.tag == TAG_LWW:
        flags |= REC_PLAIN
    shard.installed += 1
    return _publish(shard, place, request.cold.ptr, request.cold.len, flags, cell.deadline_ms,
                    False, True)


cdef int _decide(Shard* shard, Request* request, Place* place) noexcept nogil:
    """Conditions, then the change; with the key in the table if it is anywhere."""
    cdef Record* record = place.record
    cdef Cell cell
    cdef bint present = record != NULL
    cdef bint live = False
    cdef int status
    memset(&cell, 0, sizeof(Cell))
    if present:
        if cell_parse(span(<uint8_t*>record + record.cell_off, record.cell_len), &cell) != OK:
            return CORRUPT
        live = not record.flags & REC_TOMBSTONE and not (
            record.flags & REC_TTL and cell.deadline_ms <= request.now_ms)
    request.existed = live
    request.version = record.version if live else 0
    request.found_tag = cell.tag if live else 0
    if request.flags & REQ_EXPIRE:
        if not present or record.flags & REC_TOMBSTONE or live:
            return OK
        shard.expired += 1
        return _delete(shard, request, place, &cell, EVENT_EXPIRE)
    if live and request.flags & REQ_RETURN_OLD:
        status = _copy_cell(request, <uint8_t*>record + record.cell_off, record.cell_len)
        if status != OK:
            return status
    if (live and request.flags & REQ_IF_ABSENT
            or not live and request.flags & REQ_IF_PRESENT
            or request.flags & REQ_IF_VERSION and request.version != request.expect):
        return OK
    if request.flags & REQ_DELETE:
        return _delete(shard, request, place, &cell, EVENT_DELETE) if live else OK
    if request.flags & REQ_TOUCH:
        if not live:
            return OK
        _deadline(request, &cell)
        return _store_cell(shard, request, place, &cell, 0, EVENT_SET)
    return _change(shard, request, place, &cell, present, live)


cdef void shard_apply(Shard* shard, Request* request) noexcept nogil:
    cdef Place place
    request.applied = False
    request.existed = False
    request.version = 0
    request.status = OK
    request.op.actor = shard.actor
    if not table_locate(&shard.table, request.key, request.key_len, request.namespace,
                        request.hash, &place) and shard.backed:
        if cold_maybe(&shard.ledger, request.hash):
            if not request.looked or request.demotions != shard.demotions:
                request.demotions = shard.demotions
                request.status = COLD
                return
            if request.cold.ptr != NULL:
                request.status = _bring_in(shard, request, &place)
                if request.status != OK:
                    return
    if request.flags & REQ_INSTALL:
        return
    request.status = _decide(shard, request, &place)
    if request.status != OK:
        shard.refused += 1
    if unlikely(shard.ledger.deadlines_len) and not request.flags & (REQ_EXPIRE | REQ_BATCH):
        if shard.ledger.deadlines[0].at_ms <= request.now_ms:
            shard_expire(shard, request.now_ms, EXPIRED_A_WRITE)


cdef uint32_t shard_expire(Shard* shard, uint64_t now_ms, uint32_t limit) noexcept nogil:
    """Delete up to `limit` resident keys whose deadline has passed; how many were looked at."""
    cdef Request request
    cdef Record* record
    cdef uint64_t at_ms, deadline
    cdef uint32_t done = 0
    cdef uint32_t kid
    memset(&request, 0, sizeof(Request))
    while done < limit:
        kid = ledger_due(&shard.ledger, now_ms, &at_ms)
        if kid == NO_KID:
            break
        done += 1
        if kid >= shard.ledger.records_len or shard.ledger.records[kid] == 0:
            continue
        record = <Record*>(_base(shard) + shard.ledger.records[kid])
        if record.flags & REC_TOMBSTONE or not record.flags & REC_TTL:
            continue
        deadline = _deadline_of(record)
        if deadline > now_ms:
            ledger_deadline(&shard.ledger, deadline, kid)
            continue
        request.key = <uint8_t*>record + RECORD_HEADER
        request.key_len = record.key_len
        request.namespace = record.namespace
        request.hash = _hash(shard, record)
        request.flags = REQ_EXPIRE
        request.now_ms = now_ms
        request.op.stamp.hlc = clock_stamp(shard.clock)
        request.op.stamp.actor = shard.actor
        shard_apply(shard, &request)
        if request.status != OK:
            ledger_deadline(&shard.ledger, at_ms, kid)   # no memory for a tombstone now: later
            break
    return done
