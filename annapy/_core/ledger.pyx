"""The owner's books; ledger.pxd has the contract."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

from annapy._core.codec cimport NO_MEMORY, OK
from annapy._core.table cimport Record


cdef void ledger_init(Ledger* ledger) noexcept nogil:
    memset(ledger, 0, sizeof(Ledger))


cdef void ledger_close(Ledger* ledger) noexcept nogil:
    free(ledger.records)
    free(ledger.dirty)
    free(ledger.flight)
    free(ledger.deadlines)
    free(ledger.filter)
    memset(ledger, 0, sizeof(Ledger))


# --- numbers --------------------------------------------------------------------------------

cdef int _renumber(Ledger* ledger, uint8_t* base) noexcept nogil:
    """Close the holes, keeping the order."""
    cdef uint32_t* moved = <uint32_t*>malloc(<size_t>ledger.records_len * 4 + 4)
    cdef uint32_t kid, to = 0, kept = 0
    cdef uint32_t hand = ledger.records_len
    if moved == NULL:
        return NO_MEMORY
    for kid in range(ledger.records_len):
        moved[kid] = NO_KID
        if kid == ledger.hand:
            hand = to
        if ledger.records[kid]:
            (<Record*>(base + ledger.records[kid])).kid = to
            ledger.records[to] = ledger.records[kid]
            moved[kid] = to
            to += 1
    ledger.hand = hand if hand <= to else 0
    for kid in range(ledger.dirty_len):
        if moved[ledger.dirty[kid]] != NO_KID:
            ledger.dirty[kept] = moved[ledger.dirty[kid]]
            kept += 1
    ledger.dirty_len = kept
    kept = 0
    for kid in range(ledger.deadlines_len):
        if moved[ledger.deadlines[kid].kid] != NO_KID:
            ledger.deadlines[kept] = ledger.deadlines[kid]
            ledger.deadlines[kept].kid = moved[ledger.deadlines[kid].kid]
            kept += 1
    ledger.deadlines_len = kept
    for kid in range(kept >> 1):
        _sift_down(ledger, (kept >> 1) - 1 - kid)
    ledger.records_len = to
    ledger.holes = 0
    free(moved)
    return OK


cdef uint32_t ledger_number(Ledger* ledger, uint8_t* base, uint64_t record) noexcept nogil:
    cdef uint64_t* grown
    cdef uint64_t cap
    if ledger.records_len == ledger.records_cap:
        if ledger.hold == 0 and ledger.holes > ledger.records_len >> 2:
            if _renumber(ledger, base) != OK:
                return NO_KID
        else:
            cap = <uint64_t>ledger.records_cap + (ledger.records_cap >> 1) + 1024
            if cap >= NO_KID:
                return NO_KID
            grown = <uint64_t*>realloc(ledger.records, cap * 8)
            if grown == NULL:
                return NO_KID
            ledger.records = grown
            ledger.records_cap = <uint32_t>cap
    ledger.records[ledger.records_len] = record
    ledger.records_len += 1
    return ledger.records_len - 1


cdef void ledger_drop(Ledger* ledger, uint32_t kid) noexcept nogil:
    ledger.records[kid] = 0
    ledger.holes += 1


# --- dirt -----------------------------------------------------------------------------------

cdef int ledger_dirty(Ledger* ledger, uint32_t kid) noexcept nogil:
    cdef uint32_t* grown
    cdef uint32_t cap
    if ledger.dirty_len == ledger.dirty_cap:
        cap = ledger.dirty_cap * 2 + 256
        grown = <uint32_t*>realloc(ledger.dirty, <size_t>cap * 4)
        if grown == NULL:
            return NO_MEMORY
        ledger.dirty = grown
        ledger.dirty_cap = cap
    ledger.dirty[ledger.dirty_len] = kid
    ledger.dirty_len += 1
    return OK


# --- deadlines: a binary heap, stale entries are recognised when they come up ----------------

cdef void _sift_down(Ledger* ledger, uint32_t at) noexcept nogil:
    cdef Deadline* heap = ledger.deadlines
    cdef uint32_t n = ledger.deadlines_len
    cdef Deadline moving = heap[at]
    cdef uint32_t child = at * 2 + 1
    while child < n:
        if child + 1 < n and heap[child + 1].at_ms < heap[child].at_ms:
            child += 1
        if heap[child].at_ms >= moving.at_ms:
            break
        heap[at] = heap[child]
        at = child
        child = at * 2 + 1
    heap[at] = moving


cdef int ledger_deadline(Ledger* ledger, uint64_t at_ms, uint32_t kid) noexcept nogil:
    cdef Deadline* grown
    cdef uint32_t cap, at, parent
    if ledger.deadlines_len == ledger.deadlines_cap:
        cap = ledger.deadlines_cap * 2 + 64
        grown = <Deadline*>realloc(ledger.deadlines, <size_t>cap * sizeof(Deadline))
        if grown == NULL:
            return NO_MEMORY
        ledger.deadlines = grown
        ledger.deadlines_cap = cap
    at = ledger.deadlines_len
    ledger.deadlines_len += 1
    while at:
        parent = (at - 1) >> 1
        if ledger.deadlines[parent].at_ms <= at_ms:
            break
        ledger.deadlines[at] = ledger.deadlines[parent]
        at = parent
    ledger.deadlines[at].at_ms = at_ms
    ledger.deadlines[at].kid = kid
    return OK


cdef uint32_t ledger_due(Ledger* ledger, uint64_t now_ms, uint64_t* at_ms) noexcept nogil:
    cdef uint32_t kid
    if ledger.deadlines_len == 0 or ledger.deadlines[0].at_ms > now_ms:
        return NO_KID
    kid = ledger.deadlines[0].kid
    at_ms[0] = ledger.deadlines[0].at_ms
    ledger.deadlines_len -= 1
    if ledger.deadlines_len:
        ledger.deadlines[0] = ledger.deadlines[ledger.deadlines_len]
        _sift_down(ledger, 0)
    return kid


# --- cold keys --------------------------------------------------------------------------------

cdef int cold_size(Ledger* ledger, uint64_t keys) noexcept nogil:
    cdef uint64_t blocks = 64
    cdef uint64_t* fresh
    while blocks * 42 < keys:            # about 12 bits a key
        blocks *= 2
    fresh = <uint64_t*>calloc(blocks, 64)
    if fresh == NULL:
        return NO_MEMORY
    free(ledger.filter)
    ledger.filter = fresh
    ledger.filter_blocks = blocks
    ledger.filter_keys = 0
    ledger.filter_keys_max = blocks * 42
    return OK


cdef inline uint64_t* _block(const Ledger* ledger, uint64_t hash) noexcept nogil:
    return ledger.filter + ((hash >> 20) & (ledger.filter_blocks - 1)) * 8


cdef void cold_add(Ledger* ledger, uint64_t hash) noexcept nogil:
    cdef uint64_t bits = hash * <uint64_t>0x9E3779B97F4A7C15ULL
    cdef uint64_t* block
    cdef int i
    if ledger.filter == NULL:
        if ledger.cold == COLD_NONE and cold_size(ledger, 1 << 16) == OK:
            ledger.cold = COLD_FILTER
        else:
            ledger.cold = COLD_UNKNOWN
            return
    if ledger.filter_keys >= ledger.filter_keys_max:
        ledger.cold = COLD_UNKNOWN
        return
    ledger.filter_keys += 1
    block = _block(ledger, hash)
    for i in range(8):
        block[i] |= <uint64_t>1 << ((bits >> (i * 6)) & 63)


cdef bint cold_maybe(const Ledger* ledger, uint64_t hash) noexcept nogil:
    cdef uint64_t bits = hash * <uint64_t>0x9E3779B97F4A7C15ULL
    cdef uint64_t* block
    cdef int i
    if ledger.cold != COLD_FILTER:
        return ledger.cold == COLD_UNKNOWN
    block = _block(ledger, hash)
    for i in range(8):
        if not block[i] >> ((bits >> (i * 6)) & 63) & 1:
            return False
    return True
