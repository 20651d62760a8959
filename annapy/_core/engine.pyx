"""The engine: operations, batches, expiry, lists, watchers, the way to the disk.

engine.pxd has the contract. What goes to disk is in cut.pyx, batches in batching.pyx.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from annapy import errors
from annapy._core.atomics cimport load_acquire, load_relaxed
from annapy._core.cell cimport FIELD_LABEL, STAMP_SIZE, Cell, cell_parse
from annapy._core.codec cimport (
    OK, Buf, buf_clear, buf_free, buf_init, buf_reserve, load_u16, load_u32, span, Span,
    span_equal, span_of_bytes, store_u16,
)
from annapy._core.events cimport events_init, events_take
from annapy._core.hashing cimport hash64
from annapy._core.hlc cimport clock_ms, clock_observe, clock_stamp
from annapy._core.ledger cimport COLD_FILTER, COLD_NONE, COLD_UNKNOWN, cold_add, cold_size
from annapy._core.reading cimport Reading
from annapy._core.registry cimport OP_MERGE
from annapy._core.requests cimport kind_name, strip_header
from annapy._core.shard cimport (
    REQ_RETURN_NEW, REQ_RETURN_OLD, Request, Shard, shard_expire, shard_release, shard_take,
)
from annapy._core.table cimport REC_TOMBSTONE, REC_TTL, RECORD_HEADER, Record

cdef enum:
    DIRTY_MAX = 1 << 26          # bytes of one shard that wait for a commit, at most
    COMMIT_ROUNDS = 64
    EVENT_RING_SIZE = 1 << 20
    EXPIRE_SLICE = 256
    KEY_SIZE_MAX = 4096


IF_ABSENT = 1
IF_PRESENT = 2
IF_VERSION = 4
RETURN_OLD = 8
RETURN_NEW = 16
DELETE = 32
TOUCH = 64
TTL_KEEP_MS = -1

_EVENT_NAMES = ("", "set", "merge", "delete", "expire", "evict")


cdef class Engine(Reading):
    """See engine.pxd. Sizes in bytes, times in milliseconds since 1970, keys in UTF-8 bytes."""

    def apply(self, bytes key, int code, int tag, arg=b"", *, uint32_t ns=1, int64_t ttl_ms=-1,
              bytes label=None, uint32_t flags=0, uint64_t expect=0, bytes op_id=None):
        """Apply one operation: (applied, old or new cell if asked for, version).

        Atomic; durable with the next commit. `applied` is False when a condition did not hold.
        With op_id, a repetition within ten minutes changes nothing and returns the first outcome.
        """
        cdef Request request
        cdef Buf cell
        cdef const uint8_t[::1] operand
        self.check()
        if op_id is not None:
            return self.apply_once(key, code, tag, arg, ns, ttl_ms, label, flags, expect, op_id)
        self.prepare(&request, <const uint8_t*><const char*>key, len(key), ns)
        buf_init(&cell)
        request.op.code = code
        request.op.tag = tag
        if type(arg) is bytes:
            request.op.arg = span_of_bytes(arg)
        else:
            operand = arg
            request.op.arg = span(&operand[0] if operand.shape[0] else NULL, operand.shape[0])
        if code == OP_MERGE:
            strip_header(&request)
        request.flags = flags & 0x7F
        request.ttl_ms = ttl_ms
        request.expect = expect
        if label is not None:
            request.label = span_of_bytes(label)
        if flags & (REQ_RETURN_OLD | REQ_RETURN_NEW):
            request.cell = &cell
        try:
            self.submit(&request)
            return (bool(request.applied), <bytes>cell.ptr[:cell.len] if cell.len else None,
                    request.version)
        finally:
            buf_free(&cell)

    cdef object apply_once(self, bytes key, int code, int tag, arg, uint32_t ns, int64_t ttl_ms,
                           bytes label, uint32_t flags, uint64_t expect, bytes op_id):
        """The operation and the note of its outcome become visible and durable together."""
        cdef bytes note = b"op\x00" + op_id + b"\x00" + key
        if len(note) > KEY_SIZE_MAX:
            from hashlib import blake2b

            note = note[:64] + blake2b(note, digest_size=32).digest()
        from annapy._core import batching

        operation = (key, code, tag, arg, ns, ttl_ms, label, flags, expect)
        for _ in range(COMMIT_ROUNDS):
            before = self.read(note, 0)
            if before is not None:
                return batching.outcome_of(before[1][STAMP_SIZE:])
            outcomes = self.apply_batch([operation], note)
            if outcomes is not None:
                return outcomes[0]
        raise errors.CapacityError("no room to note the outcome of an op_id", key=key)

    def apply_batch(self, list operations, bytes note=None):
        """Apply many operations as one: readers, commits and crashes see all of them or none.

        Each is (key, code, tag, arg, ns, ttl_ms, label, flags, expect), shorter ones defaulted.
        With `note`, a system key that must be absent and then keeps the first outcome; None is
        returned if it was there. An error undoes everything and names the key.
        """
        from annapy._core.batching import Batch

        self.check()
        if self.foreign:
            self.apply(b"", 0, 0)
        return Batch(self, operations, note).run()

    # --- expiry ---------------------------------------------------------------------------

    def expire(self, limit: int = 100000) -> int:
        """Delete keys whose deadline has passed, in memory and on disk; how many were looked at."""
        cdef uint32_t i, done = 0, step
        cdef uint64_t now = clock_ms()
        cdef Request request
        self.check()
        for i in range(self.shard_count):
            while done < <uint32_t>limit:
                if self.shards[i].ledger.deadlines_len == 0:
                    break
                with nogil:
                    shard_take(&self.shards[i])
                    step = shard_expire(&self.shards[i], now, EXPIRE_SLICE)
                    shard_release(&self.shards[i])
                done += step
                if step < EXPIRE_SLICE:
                    break
        if self.backing is not None and not self.foreign:
            for stored in self.backing.expired(now, max(0, limit - <int>done)):
                key = bytes(stored)
                self.prepare(&request, <const uint8_t*><const char*>key + 4, len(key) - 4,
                             int.from_bytes(key[:4], "big"))
                request.flags = 1 << 8      # REQ_EXPIRE
                self.submit(&request)
                done += 1
        if done and self.watched and self.on_event is not None:
            self.on_event()
        return done

    def next_deadline(self) -> int | None:
        """When, in milliseconds since 1970, the next resident key may expire; None: none will."""
        cdef uint64_t soonest = 0xFFFFFFFFFFFFFFFFULL
        cdef uint32_t i
        self.check()
        for i in range(self.shard_count):
            with nogil:
                shard_take(&self.shards[i])
                if self.shards[i].ledger.deadlines_len:
                    soonest = min(soonest, self.shards[i].ledger.deadlines[0].at_ms)
                shard_release(&self.shards[i])
        return None if soonest == 0xFFFFFFFFFFFFFFFFULL else soonest

    # --- figures and lists ----------------------------------------------------------------

    def live(self) -> int:
        """How many keys are live, cold ones included."""
        cdef uint64_t total = 0
        cdef uint32_t i
        self.check()
        self.expire()
        for i in range(self.shard_count):
            total += load_relaxed(&self.shards[i].table.view.header.live)
        return total

    def keys(self, bytes prefix=b"", uint32_t ns=1, *, bytes label=None):
        """The resident live keys with that prefix (and that label), in no order."""
        cdef Buf out
        cdef uint32_t i
        cdef size_t at, n
        cdef list found = []
        cdef Span start = span_of_bytes(prefix)
        cdef Span mark = span(NULL, 0)
        self.check()
        if label is not None:
            mark = span_of_bytes(label)
        buf_init(&out)
        try:
            for i in range(self.shard_count):
                buf_clear(&out)
                with nogil:
                    shard_take(&self.shards[i])
                    _list_keys(&self.shards[i], start, ns, mark, clock_ms(), &out)
                    shard_release(&self.shards[i])
                if out.status != OK:
                    raise MemoryError
                at = 0
                while at < out.len:
                    n = load_u16(out.ptr + at)
                    found.append(<bytes>out.ptr[at + 2:at + 2 + n])
                    at += 2 + n
        finally:
            buf_free(&out)
        return found

    def label_of(self, bytes cell):
        """The label in a cell's header, or None."""
        cdef Cell parsed
        cdef Span label
        if cell_parse(span_of_bytes(cell), &parsed) != OK or not _label(&parsed, &label):
            return None
        return <bytes>label.ptr[:label.len]

    def info(self, bytes key, uint32_t ns=1):
        """What is known of a live key, or None."""
        cdef Cell parsed
        cell = self.read_cell(key, ns)
        if cell is None:
            return None
        cell_parse(span_of_bytes(cell), &parsed)
        held = self.read(key, ns)
        return {
            "tag": parsed.tag, "kind": kind_name(parsed.tag), "bytes": len(cell),
            "deadline_ms": parsed.deadline_ms, "generation": parsed.generation.hlc,
            "version": held[3] if held else 0, "label": self.label_of(cell),
        }

    def stats(self) -> dict:
        """Counts and sizes of the whole engine."""
        cdef uint32_t i
        cdef Shard* shard
        total = dict.fromkeys(
            ("live", "resident", "heap_bytes", "index_bytes", "dirty", "evicted", "demoted",
             "faulted_in", "expired", "refused", "applied", "limbo"), 0)
        for i in range(self.shard_count):
            shard = &self.shards[i]
            total["live"] += shard.table.view.header.live
            total["resident"] += shard.ledger.records_len - shard.ledger.holes
            total["heap_bytes"] += shard.heap.used
            total["index_bytes"] += shard.table.index_bytes
            total["dirty"] += shard.ledger.dirty_len
            total["evicted"] += shard.evicted
            total["demoted"] += shard.demotions
            total["faulted_in"] += shard.installed
            total["expired"] += shard.expired
            total["refused"] += shard.refused
            total["applied"] += shard.ticket
            total["limbo"] += shard.limbo_len
        total["shards"] = self.shard_count
        total["capacity"] = self.arena.capacity
        total["pinned_bytes"] = self.pinned_bytes
        total["cold"] = ("none", "unknown", "filter")[self.shards[0].ledger.cold]
        return total

    def hlc(self) -> int:
        """A fresh hybrid logical time."""
        return clock_stamp(&self.clock)

    def observe_hlc(self, uint64_t seen) -> None:
        """Never mint at or below `seen` again."""
        clock_observe(&self.clock, seen)

    # --- watching -------------------------------------------------------------------------

    def watch_open(self, bytes prefix=b"", uint32_t ns=1) -> int:
        """Start to watch; events from now on. The ring holds the last 1 MiB of them for all."""
        cdef uint32_t i
        self.check()
        if self.events.data == NULL:
            if events_init(&self.events, EVENT_RING_SIZE) != OK:
                raise MemoryError
        if not self.watched:
            self.watched = True
            self.hold_still()
            for i in range(self.shard_count):
                self.shards[i].events = &self.events
            self.go_on()
        self.watcher_id += 1
        self.watchers[self.watcher_id] = [load_acquire(&self.events.head), prefix, ns]
        return self.watcher_id

    def watch_poll(self, long watcher, int limit=1000):
        """([(key, kind, cause), …], gap): what has happened since the last call."""
        cdef Buf out
        cdef bint gap = False
        cdef uint64_t cursor
        cdef size_t n
        self.check()
        state = self.watchers[watcher]
        cursor, prefix, ns = state
        events = []
        buf_init(&out)
        try:
            while len(events) < limit and events_take(&self.events, &cursor, &out, &gap):
                n = load_u16(out.ptr + 14)
                if load_u32(out.ptr + 16) != <uint32_t>ns:
                    continue
                key = <bytes>out.ptr[24:24 + n]
                if key.startswith(prefix):
                    events.append((key, _EVENT_NAMES[out.ptr[12]], ""))
        finally:
            buf_free(&out)
        state[0] = cursor
        return events, bool(gap)

    def watch_close(self, long watcher) -> None:
        """Stop watching; events are no longer recorded once nobody watches."""
        cdef uint32_t i
        if self.watchers.pop(watcher, None) is not None and not self.watchers:
            self.hold_still()
            for i in range(self.shard_count):
                self.shards[i].events = NULL
            self.go_on()
            self.watched = False

    # --- the disk tier --------------------------------------------------------------------

    def set_backing(self, backing, *, uint64_t live=0, bint cold=True, uint64_t hlc=0) -> None:
        """Put a disk tier behind the shards; before the first operation.

        live: keys on disk; cold: whether there may be any; hlc: the disk's high-water mark.
        """
        cdef uint32_t i
        self.backing = backing
        self.loader = backing.load
        self.wake = getattr(backing, "wake", None)
        self.backed = True
        self.marks = True
        self.dirty_max = min(self.arena.capacity // 32 // self.shard_count, DIRTY_MAX)
        self.commit_at = self.dirty_max
        clock_observe(&self.clock, hlc)
        for i in range(self.shard_count):
            self.shards[i].backed = True
            self.shards[i].ledger.cold = COLD_UNKNOWN if cold else COLD_NONE
        self.shards[0].table.view.header.live = live

    def cold_begin(self, uint64_t keys) -> None:
        """Start a filter for that many keys on disk; feed it with cold_add, end with cold_ready."""
        cdef uint32_t i
        self.hold_still()
        for i in range(self.shard_count):
            self.shards[i].ledger.cold = COLD_UNKNOWN
            cold_size(&self.shards[i].ledger, keys // self.shard_count * 2 + 65536)
        self.go_on()

    def cold_add(self, list stored_keys) -> None:
        """Keys that are on disk (namespace and key)."""
        cdef uint64_t hash
        cdef bytes key
        cdef Shard* shard
        for key in stored_keys:
            hash = hash64(<const char*>key + 4, len(key) - 4, self.seed)
            shard = self.shard_of(hash)
            with nogil:
                shard_take(shard)
                cold_add(&shard.ledger, hash)
                shard_release(shard)

    def cold_ready(self) -> None:
        """Every key that was on disk at cold_begin has been added: trust the filter."""
        cdef uint32_t i
        self.hold_still()
        for i in range(self.shard_count):
            if self.shards[i].ledger.filter_keys < self.shards[i].ledger.filter_keys_max:
                self.shards[i].ledger.cold = COLD_FILTER
        self.go_on()

    def collect(self):
        """A consistent cut of all shards: what has changed since the last one. See Cut."""
        from annapy._core.cut import Cut
        self.check()
        self.woken = False
        return Cut(self)


cdef bint _label(const Cell* cell, Span* label) noexcept nogil:
    """Find FIELD_LABEL among a parsed cell's fields."""
    cdef const uint8_t* at = cell.fields.ptr
    cdef const uint8_t* end = at + cell.fields.len
    cdef size_t n
    while at + 3 <= end:
        n = load_u16(at + 1)
        if at[0] == FIELD_LABEL and n >= STAMP_SIZE and at + 3 + n <= end:
            label[0] = span(at + 3 + STAMP_SIZE, n - STAMP_SIZE)
            return True
        at += 3 + n
    return False


cdef void _list_keys(Shard* shard, Span prefix, uint32_t ns, Span label, uint64_t now_ms,
                     Buf* out) noexcept nogil:
    cdef uint32_t kid
    cdef Record* record
    cdef const uint8_t* key
    cdef uint8_t* to
    cdef Cell cell
    cdef Span found
    for kid in range(shard.ledger.records_len):
        if shard.ledger.records[kid] == 0:
            continue
        record = <Record*>(shard.arena.base + shard.ledger.records[kid])
        key = <uint8_t*>record + RECORD_HEADER
        if record.namespace != ns or record.flags & REC_TOMBSTONE or record.key_len < prefix.len:
            continue
        if prefix.len and memcmp(key, prefix.ptr, prefix.len):
            continue
        if record.flags & REC_TTL or label.ptr != NULL:
            if cell_parse(span(<uint8_t*>record + record.cell_off, record.cell_len), &cell) != OK:
                continue
            if cell.deadline_ms and cell.deadline_ms <= now_ms:
                continue
            if label.ptr != NULL and not (_label(&cell, &found) and span_equal(found, label)):
                continue
        to = buf_reserve(out, 2 + record.key_len)
        if to == NULL:
            return
        store_u16(to, record.key_len)
        memcpy(to + 2, key, record.key_len)
        out.len += 2 + record.key_len
