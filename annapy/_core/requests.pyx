"""Requests on their way to a shard: the code; requests.pxd has the contract."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset

from annapy import errors
from annapy._core.cell cimport HEADER_SIZE, Cell, cell_parse, cell_verify
from annapy._core.codec cimport (
    BAD_OPERATION, BUSY, COLD, CORRUPT, NO_MEMORY, NOT_A_NUMBER, OK, OVER_LIMIT, OVERFLOWED,
    WRONG_SHAPE, WRONG_TYPE, load_u32, span, store_u32,
)
from annapy._core.hashing cimport crc32c, hash64
from annapy._core.hlc cimport clock_ms, clock_stamp
from annapy._core.ledger cimport cold_maybe
from annapy._core.memory cimport Memory
from annapy._core.registry cimport lattice_of
from annapy._core.shard cimport (
    REQ_INSTALL, TTL_KEEP, Request, Shard, shard_apply, shard_release, shard_submit, shard_try,
)

cdef enum:
    COLD_ROUNDS = 64


cdef extern from *:
    uint32_t bswap32 "__builtin_bswap32"(uint32_t) noexcept nogil


cpdef str kind_name(int tag):
    """The public name of a tag."""
    lattice = lattice_of(<uint8_t>tag)
    return lattice.kind.decode() if lattice != NULL else f"unknown lattice {tag}"


cdef int raise_status(int status, Request* request) except -1:
    """Raise what a status means for the key of a request."""
    key = (<bytes>request.key[:request.key_len]).decode("utf-8", "surrogateescape")
    shown = errors.shorten_key(key)
    if status == WRONG_TYPE:
        found, wanted = kind_name(request.found_tag), kind_name(request.op.tag)
        raise errors.LatticeTypeError(
            f"key {shown} holds a {found}, not a {wanted}: use the handle for {found}, or delete "
            "the key first", key=key, expected=wanted, found=found)
    if status == NO_MEMORY or status == BUSY:
        raise errors.CapacityError(
            f"no room for key {shown}: the store's capacity is used up; open it with a larger "
            "capacity=, give it a directory, or make it a cache with evict='sieve'", key=key)
    if status == OVERFLOWED:
        raise OverflowError(f"key {shown}: the result would pass 64 bits; nothing was changed")
    if status == NOT_A_NUMBER:
        raise ValueError(f"key {shown}: NaN has no place in an order; nothing was changed")
    if status == WRONG_SHAPE:
        raise ValueError(f"key {shown}: the array there has another shape or dtype")
    if status == OVER_LIMIT:
        raise ValueError(f"key {shown}: past a limit of its type; nothing was changed")
    if status == BAD_OPERATION:
        raise TypeError(f"key {shown}: a {kind_name(request.op.tag)} has no such operation")
    if status == CORRUPT:
        raise errors.CorruptCellError(f"key {shown}: the bytes are not a valid operand or cell",
                                      key=key)
    raise errors.AnnapyError(f"key {shown}: refused with status {status}", key=key)


cdef int strip_header(Request* request) except -1:
    """The operand of a merge is a foreign cell: check it whole, keep its state."""
    cdef Cell cell
    if cell_verify(request.op.arg) != OK or cell_parse(request.op.arg, &cell) != OK:
        return raise_status(CORRUPT, request)
    if cell.tag != request.op.tag:
        request.found_tag = request.op.tag
        request.op.tag = cell.tag
        return raise_status(WRONG_TYPE, request)
    request.op.arg = cell.state
    return 0


cdef inline void send(Shard* shard, Request* request):
    """Apply a request; wait for a taken shard without the GIL, for which its holder may wait."""
    if shard_try(shard):
        shard_apply(shard, request)
        shard_release(shard)
    else:
        with nogil:
            shard_submit(shard, request)


cdef class Requests(Memory):
    """See requests.pxd."""

    cdef void name(self, Request* request, const uint8_t* key, size_t key_len, uint32_t namespace,
                   uint64_t hash) noexcept nogil:
        """A request that writes nothing of its own, so needs no stamp."""
        memset(request, 0, sizeof(Request))
        request.key = key
        request.key_len = key_len
        request.namespace = namespace
        request.hash = hash
        request.now_ms = clock_ms()

    cdef void prepare(self, Request* request, const uint8_t* key, size_t key_len,
                      uint32_t namespace) noexcept nogil:
        self.name(request, key, key_len, namespace, hash64(key, key_len, self.seed))
        request.ttl_ms = TTL_KEEP
        request.op.stamp.hlc = clock_stamp(&self.clock)
        request.op.stamp.actor = self.actor
        request.op.stamp.client = self.client

    cdef int submit(self, Request* request) except -1:
        """Apply a request, reading the disk and committing to make room as it asks; raises."""
        cdef Shard* shard = self.shard_of(request.hash)
        cdef int rounds
        cdef object holder = None
        if self.foreign and request.flags != REQ_INSTALL:
            raise errors.StoreLocked(
                "this process was forked from the one that owns the store's directory: open the "
                "store again in the child, with share=True, or use it in the parent only")
        for rounds in range(COLD_ROUNDS):
            send(shard, request)
            if request.status == COLD:
                holder = self.load(request)
                continue
            if request.status == BUSY and self.backing is not None:
                self.backing.commit()
                continue
            break
        if request.status != OK:
            return raise_status(request.status, request)
        if self.backed and (not self.woken or shard.dirty_bytes > self.commit_at) or self.watched:
            self.after_write(shard)
        return 0

    cdef int try_submit(self, Request* request) except -1:
        """submit, but 0 where the key holds another type, for a caller that knows what to do."""
        cdef Shard* shard = self.shard_of(request.hash)
        if not self.foreign:
            send(shard, request)
            if request.status == OK:
                if (self.backed and (not self.woken or shard.dirty_bytes > self.commit_at)
                        or self.watched):
                    self.after_write(shard)
                return 1
            if request.status == WRONG_TYPE:
                return 0
        self.submit(request)
        return 1

    cdef int after_write(self, Shard* shard) except -1:
        """Tell the persister (once a commit) that there is dirt, and watchers that there is news.

        A writer that is faster than the disk commits itself: what waits for a commit is bounded.
        """
        cdef uint32_t i
        if shard.dirty_bytes > self.commit_at and self.backing is not None:
            try:
                self.backing.commit()
                self.commit_at = self.dirty_max
            except errors.AnnapyError:
                # The persister keeps the error for the next flush, and goes on trying.
                self.commit_at = shard.dirty_bytes + self.dirty_max
        if self.wake is not None and not self.woken:
            for i in range(self.shard_count):
                if self.shards[i].ledger.dirty_len:
                    self.woken = True
                    self.wake()
                    break
        if self.watched and self.on_event is not None:
            self.on_event()
        return 0

    cdef object load(self, Request* request):
        """What the disk has for the request's key; the object returned keeps the bytes alive."""
        cdef bytes stored
        cdef object record
        cdef uint8_t* to
        request.looked = True
        request.cold = span(NULL, 0)
        if self.loader is None:
            return None
        stored = PyBytes_FromStringAndSize(NULL, 4 + request.key_len)
        to = <uint8_t*><char*>stored
        store_u32(to, bswap32(request.namespace))
        memcpy(to + 4, request.key, request.key_len)
        record = self.loader(stored)
        if record is None:
            return None
        if type(record) is not bytes:
            record = bytes(record)
        self.verify_record(stored, record)
        request.cold = span(<const char*>(<bytes>record) + 4, len(<bytes>record) - 4)
        return record

    cdef object bring_in(self, Shard* shard, Request* request):
        """The record of a key that is not in the table, which it is after this; None: nowhere.

        What the disk has was the key's cell at some moment of this call: a writer would have had
        to bring it in first.
        """
        cdef object record
        if not cold_maybe(&shard.ledger, request.hash):
            return None
        request.flags = REQ_INSTALL
        request.demotions = shard.demotions
        record = self.load(request)
        if record is not None:
            self.submit(request)
        return record

    cdef int verify_record(self, bytes stored, bytes record) except -1:
        cdef uint32_t crc
        cdef const uint8_t* p = <const uint8_t*><const char*>record
        if len(record) >= 4 + HEADER_SIZE:
            crc = crc32c(crc32c(0, <const char*>stored, len(stored)), p + 4, len(record) - 4)
            if crc == load_u32(p):
                return 0
        raise errors.CorruptCellError(
            f"the stored cell of key {errors.shorten_key(stored[4:])} fails its checksum: run "
            "`annapy check` and restore a backup", key=stored[4:])
