# cython: language_level=3
"""What an owner writes down about its keys: order of insertion, dirt, deadlines, cold keys.

Owns    Ledger: key numbers (kid) in order of insertion, the SIEVE hand, the dirty and in-flight
        lists, the heap of deadlines, the filter over keys that are on disk only.
Callers the shard's owner, while it has the shard.

Invariants
    records[record.kid] is the offset of that record, for every record in the table
    a kid on the dirty list has REC_DIRTY in its record, or has been overtaken and is skipped
    kids do not change while `hold` is not zero: a cut is in flight, or a batch
    cold_maybe(hash) is true for every key on disk that is not in the table
Source  SIEVE: Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024. Filter: blocked Bloom filter
        (Putze, Sanders, Singler 2007), one cache line a key, eight bits.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    NO_KID = 0xFFFFFFFF
    COLD_NONE = 0                # every key of the store is in the table
    COLD_UNKNOWN = 1             # any absent key may be on disk
    COLD_FILTER = 2              # ask the filter

cdef struct Deadline:
    uint64_t at_ms
    uint32_t kid

cdef struct Ledger:
    uint64_t* records
    uint32_t records_len
    uint32_t records_cap
    uint32_t holes
    uint32_t hand
    uint32_t hold
    uint32_t* dirty
    uint32_t dirty_len
    uint32_t dirty_cap
    uint32_t* flight
    uint32_t flight_len
    uint32_t flight_cap
    Deadline* deadlines
    uint32_t deadlines_len
    uint32_t deadlines_cap
    uint64_t* filter             # 8 words a block
    uint64_t filter_blocks
    uint64_t filter_keys
    uint64_t filter_keys_max
    int cold

cdef void ledger_init(Ledger* ledger) noexcept nogil
cdef void ledger_close(Ledger* ledger) noexcept nogil
cdef uint32_t ledger_number(Ledger* ledger, uint8_t* base, uint64_t record) noexcept nogil
# A fresh kid for a new key; NO_KID: out of memory. May renumber: base is where records are.
cdef void ledger_drop(Ledger* ledger, uint32_t kid) noexcept nogil
cdef int ledger_dirty(Ledger* ledger, uint32_t kid) noexcept nogil
cdef int ledger_deadline(Ledger* ledger, uint64_t at_ms, uint32_t kid) noexcept nogil
cdef uint32_t ledger_due(Ledger* ledger, uint64_t now_ms, uint64_t* at_ms) noexcept nogil
# The kid whose deadline has passed, taken off the heap; NO_KID: none.
cdef int cold_size(Ledger* ledger, uint64_t keys) noexcept nogil
# A fresh filter for `keys` keys; what it knew is gone.
cdef void cold_add(Ledger* ledger, uint64_t hash) noexcept nogil
# Past the number that the filter was sized for, the ledger falls back to COLD_UNKNOWN.
cdef bint cold_maybe(const Ledger* ledger, uint64_t hash) noexcept nogil
