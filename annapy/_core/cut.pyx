"""The cut: what has changed in all shards since the last one, at one moment, ready for the disk.

Owns    the in-flight lists of the shards, from collect to done.
Callers one persister at a time.

Invariants
    all shards are taken while the cut is made, none while it is written
    a record in flight is neither evicted nor renumbered; done(True) makes it clean unless it has
    changed again, done(False) makes it dirty again
    cells up to COPY_MAX bytes are copied, larger ones pinned: their payload never changes
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from annapy._core.atomics cimport fetch_add, load_relaxed, store32_release, store_release
from annapy._core.cell cimport Cell, cell_parse
from annapy._core.codec cimport (
    OK, Buf, buf_free, buf_init, buf_put, buf_u32, buf_u64, load_u32, load_u64, span,
    store_u32, store_u64,
)
from annapy._core.engine cimport Engine
from annapy._core.hashing cimport crc32c
from annapy._core.large cimport large_cell
from annapy._core.ledger cimport Ledger, ledger_dirty
from annapy._core.memory cimport Pin
from annapy._core.records cimport record_forget, record_hash
from annapy._core.shard cimport Shard, shard_release, shard_take
from annapy._core.table cimport (
    REC_COMMITTING, REC_DIRTY, REC_TOMBSTONE, REC_TREE, REC_TTL, RECORD_HEADER, Place, Record,
    table_locate,
)

cdef enum:
    COPY_MAX = 65536
    HEAD = 32                    # u32 key_len, u32 kind, u64 cell_len, u64 deadline, u64 address
    KIND_PUT = 0
    KIND_DELETE = 1
    KIND_PINNED = 2


cdef extern from *:
    uint32_t __builtin_bswap32(uint32_t) noexcept nogil


cdef class Cut:
    """puts, deletes, deadlines, live, hlc, applied; then done(ok), once."""
    cdef Engine engine
    cdef readonly list puts           # [(stored key, record: u32 checksum, then the cell)]
    cdef readonly list deletes        # [stored key]
    cdef readonly list deadlines      # [(stored key, deadline in ms)]
    cdef readonly uint64_t live
    cdef readonly uint64_t hlc
    cdef readonly list applied
    cdef bint open
    cdef Buf raw

    def __cinit__(self, Engine engine):
        cdef uint32_t i
        if engine.cut is not None:
            raise RuntimeError("a cut is in flight already")
        self.engine = engine
        buf_init(&self.raw)
        cdef uint64_t* tickets = <uint64_t*>malloc(engine.shard_count * sizeof(uint64_t))
        if tickets == NULL:
            raise MemoryError
        engine.cut = True
        self.open = True
        with nogil:        # to the end: whoever waits for a shard may have the GIL
            for i in range(engine.shard_count):
                shard_take(&engine.shards[i])
            for i in range(engine.shard_count):
                _gather(engine, &engine.shards[i], &self.raw)
                self.live += engine.shards[i].table.view.header.live
                tickets[i] = engine.shards[i].ticket
            for i in range(engine.shard_count):
                shard_release(&engine.shards[i])
        try:
            self.applied = [tickets[i] for i in range(engine.shard_count)]
        finally:
            free(tickets)
        self.hlc = load_relaxed(&engine.clock)
        self.puts, self.deletes, self.deadlines = [], [], []
        if self.raw.status != OK:
            self.done(False)
            raise MemoryError("no memory to gather what has changed")
        self.unpack()

    def __dealloc__(self):
        buf_free(&self.raw)

    def __len__(self) -> int:
        return len(self.puts) + len(self.deletes)

    cdef int unpack(self) except -1:
        cdef const uint8_t* at = self.raw.ptr
        cdef const uint8_t* end = at + self.raw.len
        cdef uint32_t key_len, kind, crc
        cdef uint64_t cell_len, deadline
        cdef uint8_t head[4]
        cdef Pin pin
        while at < end:
            key_len = load_u32(at)
            kind = load_u32(at + 4)
            cell_len = load_u64(at + 8)
            deadline = load_u64(at + 16)
            key = <bytes>at[HEAD:HEAD + key_len]
            if kind == KIND_DELETE:
                self.deletes.append(key)
            elif kind == KIND_PUT:
                crc = crc32c(crc32c(0, at + HEAD, key_len), at + HEAD + key_len + 4, cell_len)
                store_u32(<uint8_t*>at + HEAD + key_len, crc)
                self.puts.append((key, <bytes>at[HEAD + key_len:HEAD + key_len + 4 + cell_len]))
            else:
                pin = Pin.__new__(Pin)
                pin.memory = self.engine
                pin.hazard = <int64_t>load_u64(at + HEAD + key_len)
                pin.cell = <const uint8_t*>load_u64(at + 24)
                pin.nbytes = cell_len
                fetch_add(&self.engine.pinned_bytes, cell_len)
                with nogil:
                    crc = crc32c(crc32c(0, at + HEAD, key_len), pin.cell, cell_len)
                store_u32(head, crc)
                self.puts.append((key, b"".join((<bytes>head[:4], memoryview(pin)))))
            if deadline:
                self.deadlines.append((key, deadline))
            at += HEAD + key_len + (0 if kind == KIND_DELETE else
                                    8 if kind == KIND_PINNED else 4 + cell_len)
        buf_free(&self.raw)
        return 0

    def done(self, bint ok) -> None:
        """The cut is durable (ok), or was not written: then it will be part of the next one."""
        cdef uint32_t i
        if not self.open:
            return
        self.open = False
        for i in range(self.engine.shard_count):
            with nogil:
                shard_take(&self.engine.shards[i])
                _settle(&self.engine.shards[i], ok)
                shard_release(&self.engine.shards[i])
        self.engine.cut = None
        if not ok:
            self.engine.woken = False


cdef void _gather(Engine engine, Shard* shard, Buf* out) noexcept nogil:
    """Append every dirty record of a shard to `out`, and put it in flight."""
    cdef Ledger* ledger = &shard.ledger
    cdef uint32_t i, kid, ns, kind
    cdef uint32_t* swap
    cdef Record* record
    cdef Cell cell
    cdef uint64_t deadline
    cdef size_t at
    cdef int64_t hazard
    ledger.hold += 1
    shard.dirty_bytes = 0
    for i in range(ledger.dirty_len):
        kid = ledger.dirty[i]
        if ledger.records[kid] == 0:
            continue
        record = <Record*>(shard.arena.base + ledger.records[kid])
        if not record.flags & REC_DIRTY:
            continue
        store32_release(&record.flags, (record.flags & ~<uint32_t>REC_DIRTY) | REC_COMMITTING)
        deadline = 0
        hazard = 0
        kind = KIND_DELETE if record.flags & REC_TOMBSTONE else KIND_PUT
        if record.flags & REC_TTL and kind == KIND_PUT:
            if cell_parse(span(<uint8_t*>record + record.cell_off, record.cell_len), &cell) == OK:
                deadline = cell.deadline_ms
        at = out.len
        if kind == KIND_PUT and record.cell_len > COPY_MAX:
            hazard = engine.hazard_set(ledger.records[kid])
            if hazard >= 0:
                kind = KIND_PINNED
        buf_u32(out, 4 + <uint32_t>record.key_len)
        buf_u32(out, kind)
        buf_u64(out, record.cell_len)
        buf_u64(out, deadline)
        buf_u64(out, <uint64_t>(<uint8_t*>record + record.cell_off))
        ns = __builtin_bswap32(record.namespace)
        buf_u32(out, ns)
        buf_put(out, <uint8_t*>record + RECORD_HEADER, record.key_len)
        if kind == KIND_PUT:
            buf_u32(out, 0)
            if record.flags & REC_TREE:
                large_cell(shard.arena.base, <uint8_t*>record + record.cell_off, record.cell_len,
                           out)
                if out.status == OK:
                    store_u64(out.ptr + at + 8, out.len - at - HEAD - 8 - record.key_len)
            else:
                buf_put(out, <uint8_t*>record + record.cell_off, record.cell_len)
        elif kind == KIND_PINNED:
            buf_u64(out, <uint64_t>hazard)
    swap = ledger.flight
    ledger.flight = ledger.dirty
    ledger.dirty = swap
    i = ledger.flight_cap
    ledger.flight_cap = ledger.dirty_cap
    ledger.dirty_cap = i
    ledger.flight_len = ledger.dirty_len
    ledger.dirty_len = 0


cdef void _settle(Shard* shard, bint ok) noexcept nogil:
    cdef Ledger* ledger = &shard.ledger
    cdef uint32_t i, kid
    cdef Record* record
    cdef Place place
    for i in range(ledger.flight_len):
        kid = ledger.flight[i]
        if ledger.records[kid] == 0:
            continue
        record = <Record*>(shard.arena.base + ledger.records[kid])
        if not record.flags & REC_COMMITTING:
            continue
        store32_release(&record.flags, record.flags & ~<uint32_t>REC_COMMITTING)
        if not ok:
            if ledger_dirty(ledger, kid) == OK:
                store32_release(&record.flags, record.flags | REC_DIRTY)
        elif record.flags & REC_TOMBSTONE:
            if table_locate(&shard.table, <uint8_t*>record + RECORD_HEADER, record.key_len,
                            record.namespace, record_hash(shard, record), &place):
                record_forget(shard, &place)
    ledger.flight_len = 0
    ledger.hold -= 1
    if ok:
        store_release(&shard.table.view.header.durable, shard.table.view.header.applied)
