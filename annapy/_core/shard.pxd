# cython: language_level=3
"""A shard: a table, its books, and the one place where its cells change.

Owns    Shard (owner-private), the mailbox, tickets, the application of requests.
Threads any thread may call shard_submit: it takes the shard for one request, or leaves the request
        as mail for whoever has it. Nothing in here touches Python; a shard is never held across
        anything that could wait for the GIL.

Invariants
    holder == 1  <=>  some thread is between shard_take and shard_release
    a request's fields belong to the shard from shard_submit until `done` is 1
    a record's version is the ticket of the request that wrote it; tickets only grow
    whoever releases looks at the mailbox once more: no mail is left behind an idle shard
    REC_DIRTY, REC_COMMITTING => not evicted; large slabs are freed only when no hazard names them
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from annapy._core.arena cimport Arena, Heap
from annapy._core.cell cimport Cell, Stamp
from annapy._core.codec cimport Buf, Span
from annapy._core.collection cimport CollectionScratch
from annapy._core.events cimport EventRing
from annapy._core.ledger cimport Ledger
from annapy._core.registry cimport Op
from annapy._core.table cimport Place, Record, Root, Table
from annapy._core.tree cimport TreeOwner

cdef enum:
    REQ_IF_ABSENT = 1 << 0
    REQ_IF_PRESENT = 1 << 1
    REQ_IF_VERSION = 1 << 2      # only if the key's version is `expect` (0: absent)
    REQ_RETURN_OLD = 1 << 3      # the cell before, into `cell`
    REQ_RETURN_NEW = 1 << 4      # the cell after
    REQ_DELETE = 1 << 5
    REQ_TOUCH = 1 << 6           # only the deadline
    REQ_INSTALL = 1 << 7         # only bring the key in from the disk (`cold`)
    REQ_EXPIRE = 1 << 8          # delete, if the deadline has passed
    REQ_BATCH = 1 << 9           # hidden until the batch is complete

cdef enum:
    TTL_KEEP = -1                # leave the deadline as it is
    TTL_NONE = 0                 # permanent

cdef struct Request:
    const uint8_t* key
    size_t key_len
    uint32_t namespace
    uint32_t flags
    uint64_t hash
    Op op
    int64_t ttl_ms               # TTL_KEEP, TTL_NONE, or from now_ms on
    uint64_t now_ms
    uint64_t expect
    Span label                   # ptr NULL: none
    Buf* cell                    # where the old or new cell goes, or NULL
    bint looked                  # the disk was read for this key when `demotions` had that value
    uint64_t demotions
    Span cold                    # the cell found there; ptr NULL: none
    # what came of it
    int status
    bint applied                 # False: a condition did not hold, or a later stamp was there
    bint existed                 # the key was live before
    uint64_t version
    uint8_t found_tag
    # mail
    Request* next
    uint32_t done

cdef struct Hazards:             # slabs that this process's readers are using
    uint64_t* slot
    uint32_t slots
    uint32_t high                # slots at or above were never used

cdef struct Shard:
    uint64_t holder
    uint64_t mail                # Request*, newest first
    uint64_t pad[6]
    Table table
    Heap heap
    Ledger ledger
    Root* root
    Arena* arena
    Hazards* hazards
    EventRing* events            # NULL: nobody watches
    uint64_t* clock              # the store's HLC
    uint64_t actor
    uint64_t ticket
    uint64_t budget              # bytes of heap and index
    uint64_t dirty_bytes         # of cells written since the last cut
    bint backed                  # there is a disk tier
    bint evicts                  # a cache: what does not fit is dropped
    uint64_t* limbo              # (offset, size) of large slabs that a hazard may name; 0: a root
    uint32_t limbo_len
    uint32_t limbo_cap
    uint32_t* batched            # kids that the batch in progress has written
    uint64_t* batched_before     # the records before, 0: none
    uint32_t batched_len
    uint32_t batched_cap
    TreeOwner trees
    CollectionScratch scratch
    Buf delta
    Buf state
    Buf whole
    Buf flat
    uint64_t evicted
    uint64_t demotions           # keys that left the table for the disk
    uint64_t expired
    uint64_t installed
    uint64_t refused

cdef inline uint32_t shard_index(uint64_t hash, uint32_t shards) noexcept nogil:
    """From bits that neither the fingerprint nor the home bucket uses."""
    return <uint32_t>((((hash >> 25) & 0x7F) * shards) >> 7)


cdef int shard_init(Shard* shard, Arena* arena, Root* root, uint32_t index, Hazards* hazards,
                    uint64_t* clock, uint64_t actor, uint64_t budget) noexcept nogil
cdef void shard_close(Shard* shard) noexcept nogil
cdef bint shard_try(Shard* shard) noexcept nogil
cdef void shard_take(Shard* shard) noexcept nogil
cdef void shard_release(Shard* shard) noexcept nogil
cdef void shard_submit(Shard* shard, Request* request) noexcept nogil
cdef void shard_apply(Shard* shard, Request* request) noexcept nogil
# With the shard taken.
cdef uint32_t shard_expire(Shard* shard, uint64_t now_ms, uint32_t limit) noexcept nogil
# With the shard taken: delete resident keys whose deadline has passed; how many were looked at.
