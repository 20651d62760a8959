"""Batches: requests that are applied together, hidden from readers until the last one is.

Owns    Batch: the requests, their operands and what came of them.
Callers any thread; the batch takes all shards, in order, for as long as it applies.

Invariants
    Root.batch is not zero  <=>  a batch is being applied; only one can be, since it has all shards
    a failed batch leaves every key as it was; it is tried again after a cold key has been brought
    in, or a commit has made room
    table.pxd has the argument why readers see all of it or nothing
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from annapy import errors
from annapy._core.atomics cimport store_release
from annapy._core.cell cimport TAG_LWW
from annapy._core.codec cimport (
    BUSY, COLD, NO_MEMORY, OK, Buf, buf_clear, buf_free, buf_put, buf_u64, buf_u8, span,
    span_of_bytes,
)
from annapy._core.engine cimport Engine
from annapy._core.records cimport batch_end
from annapy._core.registry cimport OP_MERGE, OP_SET
from annapy._core.requests cimport raise_status, strip_header
from annapy._core.shard cimport (
    REQ_BATCH, REQ_IF_ABSENT, REQ_RETURN_NEW, REQ_RETURN_OLD, Request, Shard, shard_apply,
    shard_index, shard_release, shard_take,
)
from annapy._core.table cimport Root

cdef enum:
    ROUNDS_MIN = 64
    OP_ID_WINDOW_MS = 600000     # how long the outcome of an op_id is remembered


def outcome_of(bytes packed) -> tuple[bool, bytes | None, int]:
    """What write_note packed: (applied, cell, version)."""
    return bool(packed[1]), packed[10:] or None, int.from_bytes(packed[2:10], "little")


cdef class Batch:
    """Requests to apply together; run() does it, once."""
    cdef Engine engine
    cdef Shard* shards
    cdef Root* root
    cdef uint32_t shard_count
    cdef Request* requests
    cdef Buf* cells
    cdef Py_ssize_t count
    cdef list holders            # keeps operands alive
    cdef bytes note
    cdef Buf noted               # the outcome of the first operation, as outcome_of reads it

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            buf_free(&self.cells[i])
        buf_free(&self.noted)
        free(self.cells)
        free(self.requests)

    def __cinit__(self, Engine engine, list operations, bytes note=None):
        cdef Py_ssize_t i, n = len(operations)
        cdef Request* request
        self.engine = engine
        self.shards = engine.shards
        self.shard_count = engine.shard_count
        self.root = engine.root
        self.note = note
        self.holders = []
        self.requests = <Request*>calloc(n + 1, sizeof(Request))
        self.cells = <Buf*>calloc(n + 1, sizeof(Buf))
        if self.requests == NULL or self.cells == NULL:
            raise MemoryError
        self.count = n
        for i in range(n):
            operation = operations[i]
            key, code, tag, arg, ns, ttl_ms, label, flags, expect = (
                tuple(operation) + (b"", 1, -1, None, 0, 0)[len(operation) - 3:])
            key, arg = bytes(key), bytes(arg)
            self.holders.append((key, arg, label))
            request = &self.requests[i]
            engine.prepare(request, <const uint8_t*><const char*><bytes>key, len(key), ns)
            request.op.code = code
            request.op.tag = tag
            request.op.arg = span_of_bytes(arg)
            if code == OP_MERGE:
                strip_header(request)
            request.ttl_ms = ttl_ms
            request.expect = expect
            request.flags = (<uint32_t>flags & 0x7F) | REQ_BATCH
            if label is not None:
                request.label = span_of_bytes(label)
            if request.flags & (REQ_RETURN_OLD | REQ_RETURN_NEW):
                request.cell = &self.cells[i]
        if note is not None:
            request = &self.requests[n]
            engine.prepare(request, <const uint8_t*><const char*>note, len(note), 0)
            request.op.code = OP_SET
            request.op.tag = TAG_LWW
            request.ttl_ms = OP_ID_WINDOW_MS

    def run(self) -> list | None:
        """The outcomes, in order; None if the note was there. Raises what a request raises."""
        cdef Engine engine = self.engine
        cdef Py_ssize_t failed
        cdef int rounds, status
        cdef Request* request
        holders = []
        for rounds in range(ROUNDS_MIN + <int>min(self.count, 1 << 24)):
            with nogil:
                failed = self.attempt()
            if failed < 0:
                engine.after_write(self.shards)
                return self.outcomes()
            if failed == self.count and self.requests[failed].status == OK:
                return None
            request = &self.requests[failed]
            status = request.status
            if status == COLD:
                holders.append(engine.load(request))
            elif status == BUSY and engine.backing is not None:
                engine.backing.commit()
            else:
                raise_status(status, request)
        raise errors.CapacityError("a batch larger than the store's capacity")

    cdef list outcomes(self):
        cdef Py_ssize_t i
        cdef Request* request
        result = []
        for i in range(self.count):
            request = &self.requests[i]
            cell = <bytes>self.cells[i].ptr[:self.cells[i].len] if self.cells[i].len else None
            result.append((bool(request.applied), cell, request.version))
        return result

    cdef inline Shard* shard_of(self, uint64_t hash) noexcept nogil:
        return &self.shards[shard_index(hash, self.shard_count)]

    cdef Py_ssize_t attempt(self) noexcept nogil:
        """-1, or which request failed; then nothing has changed."""
        cdef Py_ssize_t i, failed = -1
        cdef uint32_t s
        for s in range(self.shard_count):
            shard_take(&self.shards[s])
            self.shards[s].ledger.hold += 1
        self.root.reserved[0] += 1
        store_release(&self.root.batch, self.root.reserved[0])
        if not self.write_note(True):
            failed = self.count
        for i in range(self.count):
            if failed >= 0:
                break
            buf_clear(&self.cells[i])
            shard_apply(self.shard_of(self.requests[i].hash), &self.requests[i])
            if self.requests[i].status != OK:
                failed = i
        if failed < 0 and not self.write_note(False):
            failed = self.count
        if failed >= 0:
            for s in range(self.shard_count):
                batch_end(&self.shards[s], False)
        store_release(&self.root.batch, 0)
        for s in range(self.shard_count):
            if failed < 0:
                batch_end(&self.shards[s], True)
            self.shards[s].ledger.hold -= 1
            shard_release(&self.shards[s])
        return failed

    cdef bint write_note(self, bint first) noexcept nogil:
        """Claim the note before the operations, fill it after them; False: there, or failed."""
        cdef Request* request = &self.requests[self.count]
        cdef Request* outcome = self.requests
        if request.key == NULL:
            return True
        buf_clear(&self.noted)
        buf_u8(&self.noted, 0x11)
        buf_u8(&self.noted, outcome.applied)
        buf_u64(&self.noted, outcome.version)
        buf_put(&self.noted, self.cells[0].ptr, self.cells[0].len)
        if self.noted.status != OK:
            request.status = NO_MEMORY
            return False
        request.op.arg = span(self.noted.ptr, self.noted.len)
        request.flags = REQ_BATCH | (REQ_IF_ABSENT if first else 0)
        shard_apply(self.shard_of(request.hash), request)
        return request.status == OK and request.applied
