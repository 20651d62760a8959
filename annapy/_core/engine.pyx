"""The engine's code; engine.pxd has the contract. Reads, requests, batches, events, memory figures.

What goes to disk is in cut.pyx.
"""
import os
import weakref

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_WRITABLE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from annapy import errors
from annapy._core.arena cimport (
    ARENA_ANONYMOUS, Arena, arena_close, arena_create, arena_reserve,
)
from annapy._core.atomics cimport (
    cas64, fetch_add, load32_acquire, load_acquire, load_relaxed, store32_release, store_release,
    store_seq, words_out,
)
from annapy._core.cell cimport (
    FIELD_LABEL, HEADER_SIZE, STAMP_SIZE, TAG_LWW, Cell, Stamp, cell_parse, cell_verify,
)
from annapy._core.codec cimport (
    BAD_OPERATION, BUSY, COLD, CORRUPT, MISSING, NO_MEMORY, NOT_A_NUMBER, OK, OVER_LIMIT,
    OVERFLOWED, SUPERSEDED, WRONG_SHAPE, WRONG_TYPE, Buf, Cursor, Span, buf_clear, buf_free, buf_init,
    buf_put, buf_reserve, buf_u32, buf_u64, load_u16, load_u32, load_u64, span, span_equal, span_of_bytes,
    store_u16, store_u32,
)
from annapy._core.events cimport events_close, events_init, events_take
from annapy._core.hashing cimport crc32c, hash64
from annapy._core.hlc cimport clock_ms, clock_observe, clock_stamp
from annapy._core.joins_set cimport Coll, Entry, coll_open, coll_seek
from annapy._core.large cimport large_cell, large_root
from annapy._core.ledger cimport COLD_FILTER, COLD_NONE, COLD_UNKNOWN, cold_add, cold_maybe, cold_size
from annapy._core.registry cimport LATTICE_COLLECTION, OP_MERGE, LatticeType, lattice_of
from annapy._core.shard cimport (
    REQ_BATCH, REQ_DELETE, REQ_IF_ABSENT, REQ_INSTALL, REQ_RETURN_NEW, REQ_RETURN_OLD, TTL_KEEP,
    Request, Shard, shard_apply, shard_close,
    shard_expire, shard_index, shard_init, shard_release, shard_submit, shard_take,
    shard_try,
)
from annapy._core.table cimport (
    COPIED_MAX, REC_TOMBSTONE, REC_TREE, REC_TTL, RECORD_HEADER, Found, Record, Root, ShardHeader,
    Place, table_find, table_locate, table_still,
)
from annapy._core.tree cimport tree_count, tree_find

cdef enum:
    SHARDS_MAX = 64
    DIRTY_MAX = 1 << 26          # bytes of one shard that wait for a commit, at most
    HAZARDS_MAX = 1 << 20
    COPY_RETRIES = 1000
    COLD_ROUNDS = 64
    COMMIT_ROUNDS = 64
    EVENT_RING_SIZE = 1 << 20
    EXPIRE_SLICE = 256
    KEY_SIZE_MAX = 4096
    TREE_CELL_MAX = 1024         # the cell of a tree's record: header, label, root
    OP_ID_WINDOW_MS = 600000

IF_ABSENT = 1
IF_PRESENT = 2
IF_VERSION = 4
RETURN_OLD = 8
RETURN_NEW = 16
DELETE = 32
TOUCH = 64
TTL_KEEP_MS = -1

cdef extern from *:
    uint32_t bswap32 "__builtin_bswap32"(uint32_t) noexcept nogil

_EVENT_NAMES = ("", "set", "merge", "delete", "expire", "evict")
_engines = weakref.WeakSet()      # for fork: the child must not go on where the parent does


# --- errors -------------------------------------------------------------------------------------

def kind_name(int tag) -> str:
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


# --- fork -----------------------------------------------------------------------------------------

def _before_fork() -> None:
    for engine in list(_engines):
        (<Engine>engine).hold_still()


def _after_fork_in_parent() -> None:
    for engine in list(_engines):
        (<Engine>engine).go_on()


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        (<Engine>engine).become_child()
        (<Engine>engine).go_on()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                    after_in_child=_after_fork_in_child)


cdef class Pin:
    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a stored payload is immutable: copy it to change it")
        self.shape[0] = self.nbytes
        self.strides[0] = 1
        buffer.buf = <void*>self.cell
        buffer.obj = self
        buffer.len = self.nbytes
        buffer.itemsize = 1
        buffer.readonly = 1
        buffer.format = "B"
        buffer.ndim = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL

    def __dealloc__(self):
        if self.hazard >= 0:
            fetch_add(&self.engine.pinned_bytes, -<int64_t>self.nbytes)
            self.engine.hazard_clear(self.hazard)


cdef class Engine:
    """See engine.pxd. Sizes in bytes, times in milliseconds since 1970, keys in UTF-8 bytes."""

    def __cinit__(self, uint64_t capacity, uint32_t shards=1, *, uint64_t actor, uint32_t client=0,
                  bint evict=False, uint64_t hash_seed=0, int arena_kind=ARENA_ANONYMOUS,
                  bytes path=None):
        cdef uint32_t i
        cdef int status
        if not 1 <= shards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {shards}")
        if capacity < (<uint64_t>1 << 20) * shards:
            raise ValueError("capacity must be at least 1 MiB a shard")
        self.seed = hash_seed or int.from_bytes(os.urandom(8), "little") | 1
        status = arena_create(&self.arena, capacity, arena_kind,
                              NULL if path is None else <const char*>path, self.seed, actor)
        if status != OK:
            raise errors.CapacityError(f"cannot map {capacity} bytes of memory",
                                       wanted_bytes=capacity)
        self.actor = actor
        self.client = client
        self.marks = evict
        offset = arena_reserve(&self.arena, sizeof(Root) + shards * sizeof(ShardHeader))
        self.hazards.slot = <uint64_t*>calloc(HAZARDS_MAX, 8)
        self.shards = <Shard*>calloc(shards, sizeof(Shard))
        if offset == 0 or self.hazards.slot == NULL or self.shards == NULL:
            raise errors.CapacityError("no memory for the shards' headers")
        self.hazards.slots = HAZARDS_MAX
        self.root = <Root*>(self.arena.base + <uint64_t>offset)
        self.root.shards = shards
        self.arena.header.root = offset
        self.arena.header.shards = shards
        self.pinned_bytes_max = capacity // 4
        self.shard_count = shards
        for i in range(shards):
            if shard_init(&self.shards[i], &self.arena, self.root, i, &self.hazards, &self.clock,
                          actor, capacity // shards * 15 // 16) != OK:
                raise errors.CapacityError("no memory for the shards' index: raise capacity=")
            self.shards[i].evicts = evict
        self.watchers = {}
        _engines.add(self)

    def __dealloc__(self):
        cdef uint32_t i
        if self.shards != NULL:
            for i in range(self.shard_count):
                shard_close(&self.shards[i])
        events_close(&self.events)
        free(self.shards)
        free(self.hazards.slot)
        if self.arena.base != NULL:
            arena_close(&self.arena)

    # --- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse everything from now on. Memory goes when the last view does."""
        self.closed = True
        self.backing = None
        self.loader = None
        self.wake = None
        self.cut = None
        self.watchers.clear()

    cdef int check(self) except -1:
        if self.closed:
            raise errors.StoreClosed("the store is closed: open it again")
        return 0

    def hold_still(self) -> None:
        """Take every shard, for a fork."""
        cdef uint32_t i
        with nogil:
            for i in range(self.shard_count):
                shard_take(&self.shards[i])

    def go_on(self) -> None:
        """Give every shard back."""
        cdef uint32_t i
        for i in range(self.shard_count):
            shard_release(&self.shards[i])

    def become_child(self) -> None:
        """After a fork: a copy of the memory, in whose name nothing more may be minted."""
        cdef uint32_t i
        self.actor = int.from_bytes(os.urandom(8), "little") << 20 & 0xFFFFFFFFFFFFFFFF | 1
        for i in range(self.shard_count):
            self.shards[i].actor = self.actor
            self.shards[i].mail = 0      # of threads that are not in the child
        self.foreign = self.backed
        self.watchers.clear()
        self.on_event = None

    # --- hazards --------------------------------------------------------------------------------

    cdef int64_t hazard_set(self, uint64_t offset) noexcept nogil:
        """A slot that names `offset`, or -1: all taken. The caller then validates once more."""
        cdef uint32_t tries, at = self.hazard_hint
        cdef uint32_t high
        for tries in range(self.hazards.slots):
            high = load32_acquire(&self.hazards.high)
            if at > high or at >= self.hazards.slots:
                at = 0
            if load_relaxed(&self.hazards.slot[at]) == 0:
                if at >= high:
                    store32_release(&self.hazards.high, at + 1)
                if cas64(&self.hazards.slot[at], 0, offset):
                    store_seq(&self.hazards.slot[at], offset)
                    self.hazard_hint = at
                    return at
            at += 1
        return -1

    cdef void hazard_clear(self, int64_t at) noexcept nogil:
        store_release(&self.hazards.slot[at], 0)
        self.hazard_hint = <uint32_t>at

    # --- reading --------------------------------------------------------------------------------

    cdef int copy_cell(self, const uint8_t* key, size_t key_len, uint32_t namespace, uint64_t hash,
                       Buf* out, uint64_t* version) except -1:
        """The live cell of a key into `out`: OK, or MISSING. Reads through to the disk."""
        cdef Shard* shard = self.shard_of(hash)
        cdef Found found
        cdef Request request
        cdef uint8_t* to
        cdef int64_t hazard
        cdef int tries, status
        for tries in range(COPY_RETRIES):
            status = table_find(&shard.table.view, key, key_len, namespace, hash, &found)
            if status == MISSING:
                if not shard.backed or shard.ledger.cold == COLD_NONE or tries > COLD_ROUNDS:
                    return MISSING
                self.prepare(&request, key, key_len, namespace)
                if self.bring_in(shard, &request) is None:
                    return MISSING
                continue
            if status != OK:
                continue
            if found.flags & REC_TOMBSTONE:
                return MISSING
            buf_clear(out)
            if found.flags & REC_TREE:
                if not self.copy_tree(shard, &found, out):
                    continue
                version[0] = found.version
                return MISSING if found.flags & REC_TTL and self.expired(out) else OK
            to = buf_reserve(out, found.cell_len)
            if to == NULL:
                raise MemoryError
            if found.cell_len <= COPIED_MAX:
                words_out(to, found.cell, found.cell_len)
                if not table_still(&shard.table.view, &found):
                    continue
            else:
                hazard = self.hazard_set(<uint64_t>(<uint8_t*>found.record - self.arena.base))
                if hazard < 0:
                    raise errors.CapacityError("too many values are pinned: release some views")
                if not table_still(&shard.table.view, &found):
                    self.hazard_clear(hazard)
                    continue
                with nogil:
                    memcpy(to, found.cell, found.cell_len)
                self.hazard_clear(hazard)
            out.len = found.cell_len
            if self.marks and found.record.visited == 0:
                found.record.visited = 1
            version[0] = found.version
            if found.flags & REC_TTL and self.expired(out):
                return MISSING
            return OK
        raise errors.CapacityError("the key changes faster than it can be read")

    cdef int64_t pin_tree(self, Shard* shard, Found* found, uint8_t* cell) except -2:
        """Copy the small cell of a record with REC_TREE, and hold its root: the hazard, or -1."""
        cdef Cell parsed
        cdef int64_t hazard
        if found.cell_len > TREE_CELL_MAX:
            return -1
        words_out(cell, found.cell, found.cell_len)
        if (not table_still(&shard.table.view, found)
                or cell_parse(span(cell, found.cell_len), &parsed) != OK or parsed.state.len != 8):
            return -1
        hazard = self.hazard_set(large_root(&parsed))
        if hazard < 0:
            raise errors.CapacityError("too many values are pinned: release some views")
        if not table_still(&shard.table.view, found):
            self.hazard_clear(hazard)
            return -1
        return hazard

    cdef bint copy_tree(self, Shard* shard, Found* found, Buf* out) except -1:
        """A large collection's cell, flat; False: it changed meanwhile."""
        cdef uint8_t cell[TREE_CELL_MAX + 8]
        cdef int64_t hazard = self.pin_tree(shard, found, cell)
        cdef int status
        if hazard < 0:
            return False
        with nogil:
            status = large_cell(self.arena.base, cell, found.cell_len, out)
        self.hazard_clear(hazard)
        if self.marks and found.record.visited == 0:
            found.record.visited = 1
        if status != OK:
            raise MemoryError
        return True

    def entry(self, bytes key, bytes member, uint32_t ns=1):
        """(tag, payload) of one entry of a collection, or None; O(log n) in a large one.

        TypeError if the key holds something else than a collection.
        """
        return self.look_inside(key, member, ns)

    def count(self, bytes key, uint32_t ns=1):
        """(tag, number of entries) of a collection, or None; without a look at the entries."""
        return self.look_inside(key, None, ns)

    cdef object look_inside(self, bytes key, bytes member, uint32_t ns):
        cdef uint64_t hash = hash64(<const char*>key, len(key), self.seed)
        cdef Shard* shard = self.shard_of(hash)
        cdef uint8_t cell[TREE_CELL_MAX + 8]
        cdef Buf flat
        cdef Found found
        cdef Cell parsed
        cdef int64_t hazard
        cdef uint64_t version = 0
        self.check()
        for _ in range(COPY_RETRIES):
            if table_find(&shard.table.view, <const uint8_t*><const char*>key, len(key), ns, hash,
                          &found) != OK or not found.flags & REC_TREE or found.flags & REC_TTL:
                break
            hazard = self.pin_tree(shard, &found, cell)
            if hazard < 0:
                continue
            try:
                cell_parse(span(cell, found.cell_len), &parsed)
                return _inside_tree(self.arena.base, large_root(&parsed), parsed.tag, member)
            finally:
                self.hazard_clear(hazard)
        buf_init(&flat)
        try:
            if self.copy_cell(<const uint8_t*><const char*>key, len(key), ns, hash, &flat,
                              &version) != OK:
                return None
            cell_parse(span(flat.ptr, flat.len), &parsed)
            return _inside_flat(parsed.state, parsed.tag, member)
        finally:
            buf_free(&flat)

    cdef bint expired(self, Buf* whole) noexcept nogil:
        cdef Cell cell
        if cell_parse(span(whole.ptr, whole.len), &cell) != OK:
            return False
        return cell.deadline_ms != 0 and cell.deadline_ms <= clock_ms()

    cdef object pin_cell(self, const uint8_t* key, size_t key_len, uint32_t namespace,
                         uint64_t hash):
        """A Pin on a large live cell; None: small, absent, or the budget of pinned bytes is used up."""
        cdef Shard* shard = self.shard_of(hash)
        cdef Found found
        cdef Pin pin
        cdef int64_t hazard
        cdef int tries
        for tries in range(COPY_RETRIES):
            if table_find(&shard.table.view, key, key_len, namespace, hash, &found) != OK:
                return None
            if found.flags & (REC_TOMBSTONE | REC_TTL | REC_TREE) or found.cell_len <= COPIED_MAX:
                return None
            if load_relaxed(&self.pinned_bytes) + found.cell_len > self.pinned_bytes_max:
                return None
            hazard = self.hazard_set(<uint64_t>(<uint8_t*>found.record - self.arena.base))
            if hazard < 0:
                return None
            if table_still(&shard.table.view, &found):
                break
            self.hazard_clear(hazard)
        else:
            return None
        if self.marks and found.record.visited == 0:
            found.record.visited = 1
        pin = Pin.__new__(Pin)
        pin.engine = self
        pin.hazard = hazard
        pin.cell = found.cell
        pin.nbytes = found.cell_len
        pin.version = found.version
        fetch_add(&self.pinned_bytes, found.cell_len)
        return pin

    def read(self, bytes key, uint32_t ns=1):
        """(tag, state, deadline_ms, version) of a live key, or None."""
        cdef Buf out
        cdef Cell cell
        cdef uint64_t version = 0
        self.check()
        buf_init(&out)
        try:
            if self.copy_cell(<const uint8_t*><const char*>key, len(key), ns, hash64(<const char*>key, len(key), self.seed),
                              &out, &version) != OK:
                return None
            if cell_parse(span(out.ptr, out.len), &cell) != OK:
                raise errors.CorruptCellError("a cell in memory is damaged", key=key)
            return (cell.tag, <bytes>cell.state.ptr[:cell.state.len], cell.deadline_ms, version)
        finally:
            buf_free(&out)

    def read_cell(self, bytes key, uint32_t ns=1):
        """The whole live cell, or None."""
        cdef Buf out
        cdef uint64_t version = 0
        self.check()
        buf_init(&out)
        try:
            if self.copy_cell(<const uint8_t*><const char*>key, len(key), ns, hash64(<const char*>key, len(key), self.seed),
                              &out, &version) != OK:
                return None
            return <bytes>out.ptr[:out.len]
        finally:
            buf_free(&out)

    def read_many(self, list keys, uint32_t ns=1) -> list:
        """[(tag, state, deadline_ms, version) or None, …], all as of one moment. O(keys), and every
        shard waits meanwhile; keys that are on disk only are brought in first."""
        cdef Buf out
        cdef Cell cell
        cdef size_t at, n
        cdef Py_ssize_t i, missing = 0, count = len(keys)
        cdef Request* requests
        cdef list found = []
        self.check()
        requests = <Request*>calloc(len(keys) + 1, sizeof(Request))
        if requests == NULL:
            raise MemoryError
        buf_init(&out)
        try:
            for i in range(len(keys)):
                key = <bytes>keys[i]
                self.prepare(&requests[i], <const uint8_t*><const char*>key, len(key), ns)
            for _ in range(COMMIT_ROUNDS + len(keys)):
                buf_clear(&out)
                with nogil:
                    missing = _copy_many(self.shards, self.shard_count, requests, count, &out)
                if missing < 0:
                    break
                requests[missing].flags = REQ_INSTALL
                self.submit(&requests[missing])
            if missing >= 0:
                raise errors.CapacityError("the keys of a snapshot do not fit in memory together")
            if out.status != OK:
                raise MemoryError
            at = 0
            for i in range(len(keys)):
                n = load_u32(out.ptr + at)
                if n == 0 or cell_parse(span(out.ptr + at + 12, n), &cell) != OK or (
                        cell.deadline_ms and cell.deadline_ms <= requests[i].now_ms):
                    found.append(None)
                else:
                    found.append((cell.tag, <bytes>cell.state.ptr[:cell.state.len],
                                  cell.deadline_ms, load_u64(out.ptr + at + 4)))
                at += 12 + n
            return found
        finally:
            buf_free(&out)
            free(requests)

    def pin(self, bytes key, uint32_t ns=1):
        """A Pin (buffer of the whole cell) on a large value, or None."""
        self.check()
        return self.pin_cell(<const uint8_t*><const char*>key, len(key), ns, hash64(<const char*>key, len(key), self.seed))

    # --- changing -------------------------------------------------------------------------------

    cdef void prepare(self, Request* request, const uint8_t* key, size_t key_len,
                      uint32_t namespace) noexcept nogil:
        memset(request, 0, sizeof(Request))
        request.key = key
        request.key_len = key_len
        request.namespace = namespace
        request.hash = hash64(key, key_len, self.seed)
        request.ttl_ms = TTL_KEEP
        request.now_ms = clock_ms()
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
        """Tell the persister that there is dirt, once a commit, and the watchers that there is news.

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
        raise errors.CapacityError("no room to note the outcome of an operation with op_id", key=key)

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

    # --- expiry -----------------------------------------------------------------------------------

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

    # --- figures and lists -------------------------------------------------------------------------

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

    # --- watching -----------------------------------------------------------------------------------

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

    # --- the disk tier --------------------------------------------------------------------------------

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


cdef inline void send(Shard* shard, Request* request):
    """Apply a request; wait for a taken shard without the GIL, for which its holder may wait."""
    if shard_try(shard):
        shard_apply(shard, request)
        shard_release(shard)
    else:
        with nogil:
            shard_submit(shard, request)


cdef object _inside_tree(const uint8_t* base, uint64_t root, uint8_t tag, bytes member):
    cdef Entry entry
    if member is None:
        return tag, tree_count(base, root)
    if tree_find(base, root, span_of_bytes(member), &entry) != OK:
        return None
    return tag, <bytes>entry.payload.ptr[:entry.payload.len]


cdef object _inside_flat(Span state, uint8_t tag, bytes member):
    cdef const LatticeType* lattice = lattice_of(tag)
    cdef Coll collection
    cdef Cursor cursor
    cdef Entry entry
    if lattice == NULL or not lattice.flags & LATTICE_COLLECTION:
        raise errors.LatticeTypeError(f"a {kind_name(tag)} has no entries", found=kind_name(tag))
    if coll_open(state, &collection) != OK:
        raise errors.CorruptCellError("a collection in memory is damaged")
    if member is None:
        return tag, collection.count
    cursor = collection.entries
    if coll_seek(&cursor, span_of_bytes(member), &entry) == 1:
        return tag, <bytes>entry.payload.ptr[:entry.payload.len]
    return None


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


cdef Py_ssize_t _copy_many(Shard* shards, uint32_t count, Request* requests, Py_ssize_t n,
                           Buf* out) noexcept nogil:
    """Copy every key's cell at one moment; -1, or which key must be brought in from the disk."""
    cdef Py_ssize_t i, missing = -1
    cdef size_t at
    cdef uint32_t s
    cdef Shard* shard
    cdef Place place
    for s in range(count):
        shard_take(&shards[s])
    for i in range(n):
        shard = &shards[shard_index(requests[i].hash, count)]
        if table_locate(&shard.table, requests[i].key, requests[i].key_len, requests[i].namespace,
                        requests[i].hash, &place):
            if place.record.flags & REC_TOMBSTONE:
                buf_u32(out, 0)
                buf_u64(out, 0)
                continue
            at = out.len
            buf_u32(out, 0)
            buf_u64(out, place.record.version)
            if place.record.flags & REC_TREE:
                large_cell(shard.arena.base, <uint8_t*>place.record + place.record.cell_off,
                           place.record.cell_len, out)
            else:
                buf_put(out, <uint8_t*>place.record + place.record.cell_off,
                        place.record.cell_len)
            if out.status == OK:
                store_u32(out.ptr + at, <uint32_t>(out.len - at - 12))
            continue
        if shard.backed and cold_maybe(&shard.ledger, requests[i].hash):
            if (not requests[i].looked or requests[i].demotions != shard.demotions
                    or requests[i].cold.ptr != NULL):
                missing = i
                break
        buf_u32(out, 0)
        buf_u64(out, 0)
    for s in range(count):
        shard_release(&shards[s])
    return missing


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
