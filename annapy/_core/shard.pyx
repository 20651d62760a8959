"""The shard's code; shard.pxd has the contract."""
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from annapy._core.arena cimport Arena, heap_close, heap_init
from annapy._core.atomics cimport (
    cas64, cpu_pause, exchange, fence_seq, load32_acquire, load_acquire, load_relaxed,
    store32_release, store_release,
)
from annapy._core.cell cimport (
    FIELD_LABEL, STAMP_SIZE, TAG_LWW, Cell, cell_parse, cell_write, Stamp, stamp_compare,
    stamp_is_zero,
)
from annapy._core.codec cimport (
    BAD_OPERATION, COLD, CORRUPT, NO_MEMORY, OK, OVER_LIMIT, WRONG_TYPE, buf_clear, buf_free,
    buf_init, buf_put, buf_span, likely, span, Span, span_equal, unlikely,
)
from annapy._core.collection cimport scratch_free, scratch_init
from annapy._core.events cimport EVENT_DELETE, EVENT_EXPIRE, EVENT_MERGE, EVENT_SET
from annapy._core.hlc cimport clock_observe, clock_sleep_ns, clock_stamp
from annapy._core.ledger cimport (
    NO_KID, cold_maybe, ledger_close, ledger_deadline, ledger_due, ledger_init,
)
from annapy._core.large cimport (
    large_apply, large_build, large_cell, large_release, large_root, large_wanted,
)
from annapy._core.records cimport (
    record_deadline, record_forget, record_hash, record_post, record_publish, record_room,
)
from annapy._core.registry cimport (
    LATTICE_DOTTED, OP_CLEAR, OP_MERGE, OP_SET, lattice_of, LatticeType, Op,
)
from annapy._core.table cimport (
    REC_PLAIN, REC_TOMBSTONE, REC_TREE, REC_TTL, RECORD_HEADER, Place, Record, Root, ShardHeader,
    table_close, table_init, table_locate,
)
from annapy._core.tree cimport (
    TREE_UNTIL, tree_bytes, tree_flatten, tree_owner_init, tree_retain,
)

cdef enum:
    SPINS_BEFORE_SLEEP = 2000
    SLEEP_NS = 20000
    EXPIRED_A_WRITE = 4          # deadlines that a write looks after
    TREE_SLACK = 32768           # room that one operation on a tree needs, its operand apart


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
    buf_init(&shard.flat)
    scratch_init(&shard.scratch)
    tree_owner_init(&shard.trees, &shard.heap)
    return table_init(&shard.table, &shard.heap, header, &root.batch)


cdef void shard_close(Shard* shard) noexcept nogil:
    table_close(&shard.table)
    heap_close(&shard.heap)
    ledger_close(&shard.ledger)
    buf_free(&shard.delta)
    buf_free(&shard.state)
    buf_free(&shard.whole)
    buf_free(&shard.flat)
    scratch_free(&shard.scratch)
    free(shard.limbo)
    free(shard.batched)
    free(shard.batched_before)


cdef bint shard_try(Shard* shard) noexcept nogil:
    return load_relaxed(&shard.holder) == 0 and cas64(&shard.holder, 0, 1)


cdef inline void _wait_a_little(int tries) noexcept nogil:
    if tries < SPINS_BEFORE_SLEEP:
        cpu_pause()
    else:
        clock_sleep_ns(SLEEP_NS)


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


# --- applying a request ---------------------------------------------------------------------------

cdef int _copy_cell(Shard* shard, Request* request, const Record* record) noexcept nogil:
    """The record's cell, flat, for whoever asked."""
    cdef const uint8_t* cell = <const uint8_t*>record + record.cell_off
    if request.cell == NULL:
        return OK
    buf_clear(request.cell)
    if record.flags & REC_TREE:
        return large_cell(shard.arena.base, cell, record.cell_len, request.cell)
    buf_put(request.cell, cell, record.cell_len)
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
    status = record_publish(shard, place, shard.whole.ptr, shard.whole.len, flags, cell.deadline_ms,
                      request.flags & REQ_BATCH, False)
    if unlikely(status != OK):
        return status
    request.applied = True
    request.version = shard.ticket
    if not request.flags & REQ_BATCH:
        record_post(shard, event, place.record)
    if request.flags & REQ_RETURN_NEW:
        return _copy_cell(shard, request, place.record)
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
        if request.namespace != 0:
            shard.table.view.header.live -= 1
        record_post(shard, event, place.record)
        record_forget(shard, place)
        return OK
    cell.fields = span(NULL, 0)
    cell.deadline_ms = 0
    if cell.tag == TAG_LWW:
        memcpy(bare, &request.op.stamp, STAMP_SIZE)
        cell.state = span(bare, STAMP_SIZE)
    elif lattice != NULL and lattice.flags & LATTICE_DOTTED:
        if place.record.flags & REC_TREE:
            buf_clear(&shard.flat)
            if tree_flatten(shard.arena.base, large_root(cell), &shard.flat) != OK:
                return NO_MEMORY
            cell.state = span(shard.flat.ptr, shard.flat.len)
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
               bint live, bint tree) noexcept nogil:
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
        if tree or there == NULL or not there.is_empty(cell.state):
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
    cdef bint tree
    cdef int status
    if lattice == NULL:
        return BAD_OPERATION
    tree = present and place.record.flags & REC_TREE
    status = _meet(shard, request, lattice, cell, present, live, tree)
    if status != OK:
        return status
    if tree and cell.state.len:
        return _change_tree(shard, request, place, cell, lattice)
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
            return _copy_cell(shard, request, place.record)
        return OK
    cell.state = span(shard.state.ptr, shard.state.len)
    if unlikely(large_wanted(lattice, shard.state.len)):
        return _plant(shard, request, place, cell)
    return _store_cell(shard, request, place, cell, 0,
                       EVENT_SET if request.op.code == OP_SET else EVENT_MERGE)


cdef int _plant(Shard* shard, Request* request, Place* place, Cell* cell) noexcept nogil:
    """A flat state that has grown into a tree."""
    cdef uint64_t root = 0
    cdef int status = record_room(shard, cell.state.len * 2, place.record)
    if status == OK:
        status = large_build(shard, cell.state, &root)
    return status if status != OK else _store_tree(shard, request, place, cell, root)


cdef int _store_tree(Shard* shard, Request* request, Place* place, Cell* cell,
                     uint64_t root) noexcept nogil:
    """Publish a record that takes over one reference to `root`."""
    cdef int status
    cell.state = span(&root, 8)
    status = _store_cell(shard, request, place, cell, REC_TREE, EVENT_MERGE)
    if status != OK:
        large_release(shard, root)
    return status


cdef int _change_tree(Shard* shard, Request* request, Place* place, Cell* cell,
                      const LatticeType* lattice) noexcept nogil:
    """An operation on a tree costs what it touches, not what is there."""
    cdef uint64_t before = large_root(cell)
    cdef uint64_t root = before
    cdef uint64_t deadline = cell.deadline_ms
    cdef int status = record_room(shard, TREE_SLACK + 2 * request.op.arg.len, place.record)
    if status == OK:
        status = large_apply(shard, lattice, &request.op, &root)
    if status != OK:
        return status
    _deadline(request, cell)
    if root == before:
        if deadline == cell.deadline_ms:
            request.applied = True
            request.version = place.record.version
            return _copy_cell(shard, request, place.record) if (
                request.flags & REQ_RETURN_NEW) else OK
        tree_retain(&shard.trees, root)
    elif tree_bytes(shard.arena.base, root) < TREE_UNTIL:
        buf_clear(&shard.flat)
        status = tree_flatten(shard.arena.base, root, &shard.flat)
        large_release(shard, root)
        if status != OK:
            return status
        cell.state = span(shard.flat.ptr, shard.flat.len)
        return _store_cell(shard, request, place, cell, 0, EVENT_MERGE)
    return _store_tree(shard, request, place, cell, root)


cdef int _bring_in(Shard* shard, Request* request, Place* place) noexcept nogil:
    """A cell that the disk holds and the table does not: into the table, clean."""
    cdef const LatticeType* lattice
    cdef Cell cell
    cdef uint32_t flags = 0
    cdef uint64_t root = 0
    cdef int status
    if cell_parse(request.cold, &cell) != OK:
        return CORRUPT
    if cell.deadline_ms:
        flags |= REC_TTL
    elif cell.flags == 0 and cell.tag == TAG_LWW:
        flags |= REC_PLAIN
    shard.installed += 1
    lattice = lattice_of(cell.tag)
    if lattice != NULL and large_wanted(lattice, cell.state.len):
        status = record_room(shard, cell.state.len * 2, NULL)
        if status == OK:
            status = large_build(shard, cell.state, &root)
        if status != OK:
            return status
        cell.state = span(&root, 8)
        buf_clear(&shard.whole)
        cell_write(&shard.whole, &cell)
        status = record_publish(shard, place, shard.whole.ptr, shard.whole.len, flags | REC_TREE,
                                cell.deadline_ms, False, True)
        if status != OK:
            large_release(shard, root)
        return status
    return record_publish(shard, place, request.cold.ptr, request.cold.len, flags, cell.deadline_ms,
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
        status = _copy_cell(shard, request, record)
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
        if record.flags & REC_TREE:
            tree_retain(&shard.trees, large_root(&cell))
            return _store_tree(shard, request, place, &cell, large_root(&cell))
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
        record = <Record*>(shard.arena.base + shard.ledger.records[kid])
        if record.flags & REC_TOMBSTONE or not record.flags & REC_TTL:
            continue
        deadline = record_deadline(record)
        if deadline > now_ms:
            ledger_deadline(&shard.ledger, deadline, kid)
            continue
        request.key = <uint8_t*>record + RECORD_HEADER
        request.key_len = record.key_len
        request.namespace = record.namespace
        request.hash = record_hash(shard, record)
        request.flags = REQ_EXPIRE
        request.now_ms = now_ms
        request.op.stamp.hlc = clock_stamp(shard.clock)
        request.op.stamp.actor = shard.actor
        shard_apply(shard, &request)
        if request.status != OK:
            ledger_deadline(&shard.ledger, at_ms, kid)   # no memory for a tombstone now: later
            break
    return done
