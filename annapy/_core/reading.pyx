"""Reading cells: the code; reading.pxd has the contract."""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from annapy import errors
from annapy._core.atomics cimport fetch_add, load_relaxed, words_out
from annapy._core.cell cimport Cell, cell_parse
from annapy._core.codec cimport (
    MISSING, OK, Buf, buf_clear, buf_free, buf_init, buf_put, buf_reserve, buf_u32, buf_u64,
    Cursor, load_u32, load_u64, span, Span, span_of_bytes, store_u32,
)
from annapy._core.hashing cimport hash64
from annapy._core.hlc cimport clock_ms
from annapy._core.joins_set cimport Coll, coll_open, coll_seek, Entry
from annapy._core.large cimport large_cell, large_root
from annapy._core.ledger cimport COLD_NONE, cold_maybe
from annapy._core.memory cimport Pin
from annapy._core.registry cimport LATTICE_COLLECTION, lattice_of, LatticeType
from annapy._core.requests cimport kind_name, Requests
from annapy._core.shard cimport REQ_INSTALL, Request, Shard, shard_index, shard_release, shard_take
from annapy._core.table cimport (
    COPIED_MAX, REC_TOMBSTONE, REC_TREE, REC_TTL, Found, Place, table_find, table_locate,
    table_still,
)
from annapy._core.tree cimport tree_count, tree_find

cdef enum:
    COPY_RETRIES = 1000
    COLD_ROUNDS = 64
    COMMIT_ROUNDS = 64
    TREE_CELL_MAX = 1024         # the cell of a tree's record: header, label, root


cdef class Reading(Requests):
    """See reading.pxd. Keys in UTF-8 bytes, times in milliseconds since 1970."""

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
        """A Pin on a large live cell; None: small, absent, or too much is pinned already."""
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
        pin.memory = self
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
            if self.copy_cell(<const uint8_t*><const char*>key, len(key), ns,
                              hash64(<const char*>key, len(key), self.seed), &out, &version) != OK:
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
            if self.copy_cell(<const uint8_t*><const char*>key, len(key), ns,
                              hash64(<const char*>key, len(key), self.seed), &out, &version) != OK:
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
        return self.pin_cell(<const uint8_t*><const char*>key, len(key), ns,
                             hash64(<const char*>key, len(key), self.seed))



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
