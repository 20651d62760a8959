# cython: language_level=3
"""The mail ring: operations from one writing process to the owner of one shard.

Owns    the layout of a client's memory file (header, one ring a shard), the reply block through
        which the owner answers, and both ends' private state.
Callers Outbox end: the client; its threads take turns (one lock a ring, the caller's). Inbox end:
        the owner of the shard. Overlay: any thread of the client, with no lock.

The client's file, a memfd sealed against shrinking, growing and further seals. Written by the
client only; the owner maps it read-only.

    0      8    magic
    8      4    layout
    12     4    rings            one a shard
    16     8    size             of the file
    24     8    ring_bytes       of data in each ring, a power of two
    32     8    stride           from ring to ring; the first begins at 4096
    40     8    actor            |  who writes: sequences run per (actor, incarnation, shard)
    48     8    incarnation      |
    56     8    extra_at         room for what else a client brings (slots, hints, metrics)
    64     8    extra_bytes

    ring   0    8    head        bytes ever posted (release); the next record goes to head mod size
           8    8    waiting     1: the client sleeps until `free` moves
           16   ..   reserved, 0
           256  ring_bytes       records, 8-byte aligned, none wraps: a filler closes the lap

    record 0    4    total       bytes, a multiple of 8, these 64 included
           4    1    code        OpCode; CODE_FILLER: skip `total` bytes, nothing else is valid
           5    1    tag         the lattice that the writer means
           6    2    flags       conditions, as in the engine
           8    8    sequence    1, 2, 3 … per (client incarnation, shard), fillers not counted
           16   4    namespace
           20   2    key_len
           22   2    extra_len
           24   4    arg_len
           28   20   stamp       minted by the writer, kept when the record is posted again
           48   8    ttl_ms      -1: as it is
           56   8    expect      the version that a conditional operation wants
           64   ..   key, arg, extra (skippable type-length-value fields), zeros up to `total`

The reply block, in the owner's arena, written by the owner only; the client maps it read-only.

    0      8    taken            byte position up to which records are applied and visible (release)
    8      8    applied          the last such sequence
    16     8    free             position up to which records are durable: the client may overwrite
    24     8    durable          the last such sequence
    32     4    wake             bumped for a waiting client: a futex word
    64     ..   tickets          (sequence, ticket) of 16 bytes each, at sequence mod their number

Why tickets stand in a side array of the owner's and not in the records: the owner then needs no
writable mapping of anybody's memory, so no client can make it write where it should not, fault, or
read back something it did not write; a restarted owner brings a fresh array, so everything that it
has not applied itself is unset again by construction; and eight bytes per record come back in whole
cache lines instead of dirtying every record's line. A slot names its sequence, so a slot that is
being re-used reads as "unset" and never as another record's ticket. ring_bytes / 64 slots suffice:
no record is shorter than 64 bytes, so two records in the ring never share one.

Invariants
    free <= taken <= head <= free + ring_bytes          positions never go back
    the owner trusts no byte: it copies a record before it looks at it, and bounds every length by
    what `head` and the sealed size leave; after the first impossible value it reads that ring no
    more (status CORRUPT), so a scribbling client harms only itself
    the owner sets a record's ticket before it publishes the entry, and moves `taken` after that:
    a reader that loads `taken`, then the entry, finds in it every record below `taken`, and for
    those above can tell by the ticket
    a record is overwritten only below `free`: mail stays until it is durable
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.atomics cimport load_acquire
from annapy._core.cell cimport Stamp
from annapy._core.codec cimport Buf, Span
from annapy._core.mapping cimport Mapping

cdef enum:
    MAIL_LAYOUT = 1
    MAIL_HEADER_SIZE = 4096
    RING_HEAD_SIZE = 256
    RECORD_HEADER_SIZE = 64
    RING_BYTES_MIN = 4096
    RING_BYTES_MAX = 0x40000000     # 1 GiB
    RINGS_MAX = 1024
    CODE_FILLER = 0xFF
    RECENT = 256                    # buckets of Outbox.recent

cdef struct MailHeader:
    uint64_t magic
    uint32_t layout
    uint32_t rings
    uint64_t size
    uint64_t ring_bytes
    uint64_t stride
    uint64_t actor
    uint64_t incarnation
    uint64_t extra_at
    uint64_t extra_bytes

cdef struct RingHead:
    uint64_t head
    uint64_t waiting

cdef packed struct Record:
    uint32_t total
    uint8_t code
    uint8_t tag
    uint16_t flags
    uint64_t sequence
    uint32_t namespace
    uint16_t key_len
    uint16_t extra_len
    uint32_t arg_len
    Stamp stamp
    int64_t ttl_ms
    uint64_t expect

cdef struct Ticket:
    uint64_t sequence
    uint64_t ticket

cdef struct Reply:
    uint64_t taken
    uint64_t applied
    uint64_t free
    uint64_t durable
    uint32_t wake
    uint32_t reserved[7]
    # Ticket[ring_bytes / 64] follows

cdef struct Bell:                   # in the owner's arena: one per owner thread
    uint64_t asleep                 # 1: write the eventfd after posting

cdef struct Mail:                   # one operation, spans borrowed
    Record record
    Span key
    Span arg
    Span extra

cdef struct Outbox:                 # the client's end of one ring
    RingHead* ring
    uint8_t* data
    uint64_t size
    uint64_t head                   # private copies: nothing is read back from shared memory
    uint64_t sequence
    uint64_t free
    const Reply* reply
    const Bell* bell
    int bell_fd
    Buf scratch
    uint64_t recent[RECENT]         # the last sequence posted for a key's hash

cdef struct Inbox:                  # the owner's end of one ring
    const RingHead* ring
    const uint8_t* data
    uint64_t size
    uint64_t position               # applied up to here
    uint64_t head                   # seen up to here
    uint64_t sequence               # the last one taken
    Reply* reply
    Buf scratch
    int status                      # OK, or CORRUPT for ever

cdef struct Place:                  # how far an inbox had come: what a commit covers
    uint64_t position
    uint64_t sequence

# --- the client -----------------------------------------------------------------------------
cdef int mail_create(Mapping* m, uint32_t rings, uint64_t ring_bytes, uint64_t extra_bytes,
                     uint64_t actor, uint64_t incarnation) noexcept nogil
# A sealed memfd with empty rings. OK, NO_MEMORY, OVER_LIMIT, BAD_OPERATION (memfd refused).
cdef int outbox_open(Outbox* o, Mapping* m, uint32_t ring, const Reply* reply, const Bell* bell,
                     int bell_fd) noexcept nogil
cdef void outbox_attach(Outbox* o, const Reply* reply, const Bell* bell, int bell_fd) noexcept nogil
# A new owner: it starts at outbox_place(the last sequence that it has durably).
cdef int outbox_place(Outbox* o, uint64_t sequence, Place* out) noexcept nogil
# Where a new owner goes on that has everything up to `sequence`. MISSING: no such record here.
cdef void outbox_close(Outbox* o) noexcept nogil
cdef int outbox_post(Outbox* o, Mail* mail, uint64_t key_hash, int64_t timeout_ns) noexcept nogil
# Posts one operation and sets its sequence in mail.record. OK; BUSY: no room within the time,
# nothing posted; OVER_LIMIT: longer than a quarter of the ring.
cdef uint64_t outbox_seen(const Outbox* o) noexcept nogil
# Load this before the entry: a bound for outbox_overlay.
cdef bint outbox_may_overlay(const Outbox* o, uint64_t key_hash) noexcept nogil
# False: every operation of ours on such a key is in the entry that is read after this call.
cdef int outbox_overlay(const Outbox* o, uint32_t namespace, Span key, uint64_t version,
                        uint64_t* position, Buf* copy, Mail* mail) noexcept nogil
# The next own operation on the key whose ticket is unset or later than `version`, at or after
# `position` (first: outbox_seen); spans borrow from `copy`. OK; MISSING: no more;
# BUSY: overtaken by the owner: read the entry again.

# --- the owner ------------------------------------------------------------------------------
cdef int mail_check(const Mapping* m, int fd) noexcept nogil
# OK iff the file is sealed as it must be and its header consistent with the sealed size.
cdef uint64_t reply_size(uint64_t ring_bytes) noexcept nogil
cdef int inbox_open(Inbox* b, const Mapping* m, uint32_t ring, Reply* reply,
                    Place start) noexcept nogil
# `reply`: reply_size() zeroed bytes. `start`: as the client says; checked like everything else.
cdef void inbox_close(Inbox* b) noexcept nogil
cdef bint inbox_pending(Inbox* b) noexcept nogil
# Something is there that inbox_next would take.
cdef int inbox_next(Inbox* b, Mail* mail) noexcept nogil
# Takes the next operation, copied and checked; spans are valid until the next call. OK;
# MISSING: empty; CORRUPT: this ring is closed for ever; NO_MEMORY: nothing taken.
cdef void inbox_ticket(Inbox* b, uint64_t sequence, uint64_t ticket) noexcept nogil
# Before the entry that contains the operation is published.
cdef void inbox_applied(Inbox* b) noexcept nogil
# After it is: everything taken so far is visible. Once a batch.
cdef Place inbox_place(const Inbox* b) noexcept nogil
# What a commit that is collected now will cover.
cdef void inbox_durable(Inbox* b, Place place) noexcept nogil
# The commit is on disk (or there is no disk): the client may overwrite, and is woken if it waits.

cdef void bell_sleep(Bell* bell) noexcept nogil
# Announces sleep. The caller then looks at every inbox once more (inbox_pending) and either
# polls the eventfd or calls bell_awake.
cdef void bell_awake(Bell* bell, int fd) noexcept nogil
