# cython: binding=False
"""What a Store does most often, compiled: get, set, item access, membership, a counter's add.

Owns    StoreCore and HandleCore, the bases of Store and Handle; how a key becomes bytes.
Callers users' code, any thread, holding the GIL where there is one.

Invariants
    a full key is prefix + the caller's key in UTF-8 (surrogateescape), at most KEY_SIZE_MAX
    what is not the plain case (another lattice, a deadline, a label, an acknowledgement) goes
    through the same engine by the Python methods of Store: `_present`, `_set_slow`, `_apply`
    an array over VIEW_MIN bytes comes back as a read-only view that pins its slab
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from annapy._core.atomics cimport bytes_out, cas64, load_relaxed, store_release, words_out
from annapy._core.cell cimport HEADER_SIZE, STAMP_SIZE, TAG_LWW, TAG_PNCOUNTER, Cell, cell_parse
from annapy._core.codec cimport (
    MISSING, OK, Buf, buf_clear, buf_free, buf_init, likely, span, store_u64, unlikely,
)
from annapy._core.engine cimport Engine
from annapy._core.hashing cimport hash64
from annapy._core.memory cimport Pin
from annapy._core.ledger cimport COLD_NONE
from annapy._core.registry cimport OP_ADD, OP_SET
from annapy._core.shard cimport TTL_KEEP, Request, Shard
from annapy._core.table cimport (
    COPIED_MAX, REC_PLAIN, REC_TOMBSTONE, Found, table_find, table_find_slow, table_still,
)
from annapy._views cimport array_view
from annapy.values cimport V_ARRAY_HEAD, V_BYTES, decode_value, encode_value, value_is_array

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object x)
    bint PyUnicode_IS_COMPACT_ASCII(object s)
    void* PyUnicode_DATA(object s)
    Py_ssize_t PyUnicode_GET_LENGTH(object s)

cdef enum:
    KEY_SIZE_MAX = 4096
    VIEW_MIN = 65536
    PLAIN_AT = HEADER_SIZE + STAMP_SIZE      # where the value of a plain register starts
    TRIES = 64

__all__ = ["CounterCore", "HandleCore", "StoreCore"]

cdef object _absent = object()


cdef inline object text_of(StoreCore store, object k):
    """An ASCII str or bytes: `k` itself where it is one, as it usually is."""
    if likely(PyUnicode_CheckExact(k) and PyUnicode_IS_COMPACT_ASCII(k)) or type(k) is bytes:
        return k
    from annapy._arguments import key_bytes
    return key_bytes(k, PyBytes_GET_SIZE(store.prefix))


cdef inline const uint8_t* full_key(StoreCore store, object text, uint8_t* room,
                                    size_t* size) except NULL:
    """Prefix and text in UTF-8: borrowed from `text` where there is no prefix, else in `room`."""
    cdef const uint8_t* p
    cdef size_t n, prefix = <size_t>PyBytes_GET_SIZE(store.prefix)
    if likely(PyUnicode_CheckExact(text)):
        p = <const uint8_t*>PyUnicode_DATA(text)
        n = <size_t>PyUnicode_GET_LENGTH(text)
    else:
        p = <const uint8_t*>PyBytes_AS_STRING(text)
        n = <size_t>PyBytes_GET_SIZE(text)
    if unlikely(n + prefix > KEY_SIZE_MAX):
        from annapy._arguments import key_bytes
        key_bytes(text, prefix)                 # raises, with the message
    size[0] = n + prefix
    if likely(prefix == 0):
        return p
    memcpy(room, PyBytes_AS_STRING(store.prefix), prefix)
    memcpy(room + prefix, p, n)
    return room


cdef inline object short_bytes(const Found* found):
    """A plain register of less than 128 bytes: copied once, still to be validated; or None.

    Copying a cell aside and decoding it there would stall: what was stored in words is loaded again
    in vectors before it has left the store buffer.
    """
    cdef uint64_t head = load_relaxed(<const uint64_t*>(found.cell + PLAIN_AT - 4))
    cdef size_t n = (head >> 40) & 0xFF
    cdef bytes value
    if (head >> 32) & 0xFF != V_BYTES or n >= 0x80 or found.cell_len != PLAIN_AT + 2 + n:
        return None
    value = PyBytes_FromStringAndSize(NULL, n)
    bytes_out(PyBytes_AS_STRING(value), found.cell + PLAIN_AT + 2, n)
    return value


cdef inline bint maybe_count(object v):
    """An int that may remember what was added to it, which `_set_slow` looks at."""
    return type(v) is not int and isinstance(v, int) and type(v) is not bool


cdef class StoreCore:
    """get, set and the mapping's item access; `annapy.store.Store` has the rest."""

    def __cinit__(self, *args, **how):
        self.prefix = b""
        self.ack = "memory"
        self.quick = True
        buf_init(&self.scratch)

    def __dealloc__(self):
        buf_free(&self.scratch)

    @property
    def engine(self):
        return self._engine

    @engine.setter
    def engine(self, engine):
        self._engine = engine
        self.fast = engine if isinstance(engine, Engine) else None

    @property
    def _prefix(self):
        return self.prefix

    @_prefix.setter
    def _prefix(self, bytes prefix not None):
        self.prefix = prefix

    @property
    def _ack(self):
        return self.ack

    @_ack.setter
    def _ack(self, ack):
        self.ack = ack
        self.quick = ack == "memory"

    cdef int refuse(self) except -1:
        """What stands in the engine's place says why: StoreClosed, or ReadOnlyError."""
        self._engine.apply(b"", 0, 0)
        raise RuntimeError("a store without an engine")

    # --- reading --------------------------------------------------------------------------

    cdef object look(self, object k):
        """The value under a key, or _absent."""
        cdef Engine engine = self.fast
        cdef uint8_t room[KEY_SIZE_MAX]
        cdef uint8_t copied[COPIED_MAX]
        cdef object text = text_of(self, k)
        cdef const uint8_t* key
        cdef size_t n = 0
        cdef Found found
        cdef Shard* shard
        cdef uint64_t hash
        cdef object value
        cdef int tries, status
        key = full_key(self, text, room, &n)
        if unlikely(engine is None or engine.closed):
            self.refuse()
        hash = hash64(key, n, engine.seed)
        shard = engine.shard_of(hash)
        for tries in range(TRIES):
            status = table_find(&shard.table.view, key, n, 1, hash, &found)
            if unlikely(status != OK):
                if status == MISSING:
                    if not shard.backed or shard.ledger.cold == COLD_NONE:
                        return _absent
                    return self.look_on_disk(key, n, hash)
                break
            if unlikely(not found.flags & REC_PLAIN or found.cell_len > COPIED_MAX):
                break
            value = short_bytes(&found)
            if value is not None:
                if likely(table_still(&shard.table.view, &found)):
                    if engine.marks and found.record.visited == 0:
                        found.record.visited = 1
                    return value
                continue
            words_out(copied, found.cell, found.cell_len)
            if likely(table_still(&shard.table.view, &found)):
                if engine.marks and found.record.visited == 0:
                    found.record.visited = 1
                return decode_value(&copied[PLAIN_AT], found.cell_len - PLAIN_AT,
                                    self._allow_pickle)
        return self.look_further(key, n, hash)

    cdef object look_on_disk(self, const uint8_t* key, size_t n, uint64_t hash):
        """A key that is not in memory: read, decoded and brought in."""
        cdef Engine engine = self.fast
        cdef Request request
        cdef Cell cell
        cdef object record
        engine.name(&request, key, n, 1, hash)
        record = engine.bring_in(engine.shard_of(hash), &request)
        if record is None:
            return _absent
        if cell_parse(span(PyBytes_AS_STRING(record) + 4, PyBytes_GET_SIZE(record) - 4),
                      &cell) != OK:
            raise ValueError("a cell on disk is damaged")
        if cell.deadline_ms and cell.deadline_ms <= request.now_ms:
            return _absent
        return self.show(key, n, &cell)

    cdef object show(self, const uint8_t* key, size_t n, Cell* cell):
        if cell.tag == TAG_LWW:
            return decode_value(cell.state.ptr + STAMP_SIZE, cell.state.len - STAMP_SIZE,
                                self._allow_pickle)
        return self._present_other(<bytes>key[:n], cell.tag,
                                   <bytes>cell.state.ptr[:cell.state.len])

    cdef object look_further(self, const uint8_t* key, size_t n, uint64_t hash):
        """Large values, other lattices, deadlines, keys on disk."""
        cdef Engine engine = self.fast
        cdef Buf whole
        cdef Cell cell
        cdef uint64_t version = 0
        cdef Pin pin = engine.pin_cell(key, n, 1, hash)
        cdef const uint8_t* value
        if pin is not None and cell_parse(span(pin.cell, pin.nbytes), &cell) == OK:
            if cell.tag == TAG_LWW and cell.state.len > VIEW_MIN:
                value = cell.state.ptr + STAMP_SIZE
                if value_is_array(value, cell.state.len - STAMP_SIZE):
                    return array_view(value + V_ARRAY_HEAD,
                                      cell.state.len - STAMP_SIZE - V_ARRAY_HEAD, pin)
        pin = None
        buf_init(&whole)
        try:
            if engine.copy_cell(key, n, 1, hash, &whole, &version) != OK:
                return _absent
            if cell_parse(span(whole.ptr, whole.len), &cell) != OK:
                raise ValueError("a cell in memory is damaged")
            return self.show(key, n, &cell)
        finally:
            buf_free(&whole)

    def get(self, k, default=None, *, bint copy=False, device=None, stream=None):
        """The value under `k`, or `default`.

        Reads never wait: no lock, no system call for what is in memory. Arrays over 64 KiB come as
        read-only views of the store's memory (`copy=True`: one's own); everything else is a fresh
        object. A key that is only on disk costs one LMDB read. TypeError for a key that is neither
        str nor bytes, StoreClosed after close.
        """
        found = self.look(k)
        if unlikely(found is _absent):
            return default
        if unlikely(copy or device is not None):
            return self._placed(found, copy, device, stream)
        return found

    def __getitem__(self, k):
        found = self.look(k)
        if unlikely(found is _absent):
            raise KeyError(k)
        return found

    def __contains__(self, k):
        cdef Engine engine = self.fast
        cdef uint8_t room[KEY_SIZE_MAX]
        cdef object text = text_of(self, k)
        cdef size_t n = 0
        cdef const uint8_t* key
        cdef Found found
        cdef Shard* shard
        cdef uint64_t hash
        key = full_key(self, text, room, &n)
        if engine is None or engine.closed:
            self.refuse()
        hash = hash64(key, n, engine.seed)
        shard = engine.shard_of(hash)
        if table_find_slow(&shard.table.view, key, n, 1, hash, &found) == OK:
            if found.flags & REC_PLAIN and table_still(&shard.table.view, &found):
                return True
        return engine.read(<bytes>key[:n]) is not None

    def _present(self, bytes key, int tag, bytes state):
        """What `s[k]` gives for a state."""
        if tag == TAG_LWW:
            return decode_value(<const uint8_t*>PyBytes_AS_STRING(state) + STAMP_SIZE,
                                PyBytes_GET_SIZE(state) - STAMP_SIZE, self._allow_pickle)
        return self._present_other(key, tag, state)

    # --- writing --------------------------------------------------------------------------

    cdef int store(self, object k, object v, int64_t ttl_ms) except -1:
        """A register set, acknowledged in memory."""
        cdef Engine engine = self.fast
        cdef uint8_t room[KEY_SIZE_MAX]
        cdef object text = text_of(self, k)
        cdef const uint8_t* key
        cdef size_t n = 0
        cdef Request request
        cdef Buf own
        cdef Buf* value = &self.scratch
        cdef bint borrowed = cas64(&self.scratch_taken, 0, 1)
        if unlikely(not borrowed):
            buf_init(&own)
            value = &own
        try:
            key = full_key(self, text, room, &n)
            if unlikely(engine is None or engine.closed):
                self.refuse()
            buf_clear(value)
            encode_value(v, value, self._allow_pickle)
            engine.prepare(&request, key, n, 1)
            request.op.code = OP_SET
            request.op.tag = TAG_LWW
            request.op.arg = span(value.ptr, value.len)
            request.ttl_ms = ttl_ms
            engine.submit(&request)
        finally:
            if not borrowed:
                buf_free(&own)
            else:
                if value.cap > 1 << 20:
                    buf_free(value)
                store_release(&self.scratch_taken, 0)
        return 0

    def set(self, k, v, *, ttl=None, tag=None, ack=None, op_id=None):
        """Store `v` under `k`; the last write wins.

        ttl     how long to live (seconds, timedelta, "15m"); None: as the store says, or for ever
        tag     a label for `evict(tag=…)`
        ack     "memory": returns once applied and visible to all; "disk": once committed and synced
        op_id   makes a retry within ten minutes change nothing

        Atomic. Raises SerializationError for a value without a safe encoding, LatticeTypeError if
        the key holds another kind, CapacityError if there is no room, ValueError for a zero or
        negative ttl.
        """
        if likely(ttl is None and tag is None and ack is None and op_id is None and self.quick
                  and not maybe_count(v)):
            self.store(k, v, self._ttl_ms)
        else:
            self._set_slow(k, v, ttl, tag, ack, op_id)

    def __setitem__(self, k, v):
        if likely(self.quick and not maybe_count(v)):
            self.store(k, v, self._ttl_ms)
        else:
            self._set_slow(k, v, None, None, None, None)

    def _set_pairs(self, pairs, int64_t ttl_ms):
        """Set each (key, value), acknowledged in memory."""
        for k, v in pairs:
            if unlikely(maybe_count(v)):
                self._set_slow(k, v, None, None, "memory", None)
            else:
                self.store(k, v, ttl_ms)

    def __delitem__(self, k):
        if not self._apply(self._key(k), 0, 0, flags=32)[0]:
            raise KeyError(k)


cdef class HandleCore:
    """A scope and a key in it."""

    def __init__(self, scope, bytes at not None):
        self._scope = scope
        self._at = at


cdef class CounterCore(HandleCore):
    """A counter's add and sub; `_add(i64 bytes, ack, op_id)` is the way when it is not plain."""

    cdef int plain(self, int64_t n) except -1:
        """1: added. 0: take the other way."""
        cdef StoreCore store
        cdef Engine engine
        cdef Request request
        cdef uint8_t amount[8]
        if not isinstance(self._scope, StoreCore):
            return 0
        store = <StoreCore>self._scope
        engine = store.fast
        if engine is None or not store.quick:
            return 0
        engine.check()
        store_u64(amount, <uint64_t>n)
        engine.prepare(&request, <const uint8_t*>PyBytes_AS_STRING(self._at),
                       PyBytes_GET_SIZE(self._at), 1)
        request.op.code = OP_ADD
        request.op.tag = TAG_PNCOUNTER
        request.op.arg = span(amount, 8)
        return engine.try_submit(&request)

    def add(self, n=1, *, ack=None, op_id=None):
        """Add `n`; OverflowError past 64 bits, before anything is added. Atomic, never lost."""
        if likely(ack is None and op_id is None and type(n) is int):
            if -0x7FFFFFFFFFFFFFFF <= n <= 0x7FFFFFFFFFFFFFFF and self.plain(n):
                return
        self._add_slow(n, ack, op_id)

    def sub(self, n=1, *, ack=None, op_id=None):
        """Subtract `n`, as add."""
        if likely(ack is None and op_id is None and type(n) is int):
            if -0x7FFFFFFFFFFFFFFF <= n <= 0x7FFFFFFFFFFFFFFF and self.plain(-n):
                return
        self._add_slow(-n, ack, op_id)
