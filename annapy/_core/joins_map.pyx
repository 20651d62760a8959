# cython: language_level=3
"""Map: fields that are never removed, each with a lattice of its own.

Owns    the payload below; the frame is joins_set.pxd's. ORMap is in joins_ormap.pyx.
Callers shard owners, the tree, the Python face: nogil, pure over bytes.

    prefix   empty
    payload  u8 nested tag · nested state

The join is per field. Where replicas have created one field with two types, the higher tag wins
with its state, as it does for whole cells; a caller who meets another type than he meant gets
WRONG_TYPE instead.

    OP_UPDATE   counted field · u8 nested tag · u8 nested opcode · nested argument
                The argument may be an OP_UPDATE's again. Nested OP_MERGE takes a whole cell.

Invariants
    a nested state is never the bottom: an update that changes nothing creates no field
    a nested cell has no header of its own, so no generation, expiry or fields
    maps stand in maps at most NESTING_MAX deep
"""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.cell cimport NESTING_MAX, TAG_MAP, Cell, cell_parse
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, OK, OVER_LIMIT, WRONG_TYPE, Cursor, buf_free, buf_init, buf_span,
    buf_u8, cur_counted, cur_rest, cur_u8, cursor, span, span_of_bytes,
)
from annapy._core.joins_set cimport (
    KEEP, REPLACE, Coll, Entry, Merge, coll_entry, coll_head, coll_is_empty, coll_next,
    coll_open, coll_seek, coll_step, merge_entries, order_by_join,
)
from annapy._core.registry cimport (
    LATTICE_COLLECTION, OP_MERGE, OP_UPDATE, lattice_of, lattice_register,
)

# --- nested operations ----------------------------------------------------------------------

cdef int update_parse(const Op* op, Span* field, Op* nested) noexcept nogil:
    cdef Cursor c = cursor(op.arg)
    if op.depth >= NESTING_MAX:
        return OVER_LIMIT
    nested[0] = op[0]
    nested.depth = op.depth + 1
    if (cur_counted(&c, field) != OK or cur_u8(&c, &nested.tag) != OK
            or cur_u8(&c, &nested.code) != OK):
        return CORRUPT
    nested.arg = cur_rest(&c)
    return OK


cdef int nested_delta(const LatticeType* lattice, Span old, const Op* nested,
                      Buf* out) noexcept nogil:
    cdef Cell cell
    cdef int status
    if nested.code != OP_MERGE:
        return lattice.mutate(old, nested, out)
    if cell_parse(nested.arg, &cell) != OK or cell.flags:
        return CORRUPT
    if cell.tag != lattice.tag:
        return WRONG_TYPE
    status = lattice.verify(cell.state, <int>nested.depth)
    buf_span(out, cell.state)
    return status


# --- Map ------------------------------------------------------------------------------------

cdef int map_verify(Span state, int depth) noexcept nogil:
    cdef Coll c
    cdef Entry e
    cdef Span last = span(NULL, 0)
    cdef const LatticeType* lattice
    cdef uint64_t n = 0
    if depth >= NESTING_MAX:
        return CORRUPT
    if state.len == 0:
        return OK
    if coll_open(state, &c) != OK or c.prefix.len or c.count == 0:
        return CORRUPT
    while c.entries.at < c.entries.end:
        if coll_step(&c.entries, &e, &last, n) != OK or e.payload.len < 2:
            return CORRUPT
        lattice = lattice_of(e.payload.ptr[0])
        if lattice == NULL:
            return CORRUPT
        if lattice.verify(span(e.payload.ptr + 1, e.payload.len - 1), depth + 1) != OK:
            return CORRUPT
        n += 1
    return OK if n == c.count else CORRUPT


cdef int map_both(void* self, const Entry* a, const Entry* b, Buf* payload) noexcept nogil:
    cdef uint8_t tag = a.payload.ptr[0]
    cdef int status
    if tag != b.payload.ptr[0]:
        if tag > b.payload.ptr[0]:
            return KEEP
        buf_span(payload, b.payload)
        return REPLACE
    buf_u8(payload, tag)
    status = lattice_of(tag).join(span(a.payload.ptr + 1, a.payload.len - 1),
                                  span(b.payload.ptr + 1, b.payload.len - 1), payload)
    return REPLACE if status == OK else status


cdef int map_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Coll ca, cb
    cdef Merge m
    if a.len == 0 or b.len == 0:
        buf_span(out, b if a.len == 0 else a)
        return out.status
    if coll_open(a, &ca) != OK or coll_open(b, &cb) != OK:
        return CORRUPT
    m.self = NULL
    m.only = NULL
    m.both = &map_both
    buf_u8(out, 0)
    return merge_entries(ca.entries, ca.count, cb.entries, cb.count, &m, out)


cdef int map_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&map_join, a, b, order)


cdef int map_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    cdef Coll c
    cdef Entry e
    cdef Op nested
    cdef Span field, before = span(NULL, 0)
    cdef Buf payload
    cdef const LatticeType* lattice
    cdef int status, found
    if op.code != OP_UPDATE:
        return BAD_OPERATION
    status = update_parse(op, &field, &nested)
    if status != OK:
        return status
    lattice = lattice_of(nested.tag)
    if lattice == NULL:
        return BAD_OPERATION
    if coll_open(old, &c) != OK:
        return CORRUPT
    found = coll_seek(&c.entries, field, &e)
    if found < 0:
        return found
    if found:
        if e.payload.ptr[0] != nested.tag:
            return WRONG_TYPE
        before = span(e.payload.ptr + 1, e.payload.len - 1)
    buf_init(&payload)
    buf_u8(&payload, nested.tag)
    status = nested_delta(lattice, before, &nested, &payload)
    if status == OK:
        status = payload.status
    if status == OK and payload.len > 1:
        coll_head(delta, span(NULL, 0), 1)
        coll_entry(delta, field, span(payload.ptr, payload.len))
        status = delta.status
    buf_free(&payload)
    return status


cdef void register() noexcept:
    cdef LatticeType t
    t.flags = LATTICE_COLLECTION
    t.verify = &map_verify
    t.join = &map_join
    t.order = &map_order
    t.mutate = &map_mutate
    t.is_empty = coll_is_empty
    t.tag = TAG_MAP
    t.kind = "map"
    lattice_register(&t)


register()

import annapy._core.joins_ormap  # noqa: E402  whoever has one kind of map has the other


# --- what the Python face reads ---------------------------------------------------------------

def fields(bytes state) -> list[tuple[bytes, int, bytes]]:
    """(encoded field, nested tag, nested state) of each field of a verified Map state, sorted."""
    cdef Coll c
    cdef Entry e
    cdef list found = []
    if coll_open(span_of_bytes(state), &c) != OK:
        raise ValueError("not a verified state")
    while c.entries.at < c.entries.end:
        if coll_next(&c.entries, &e) != OK:
            raise ValueError("not a verified state")
        found.append((e.key.ptr[:e.key.len], e.payload.ptr[0], e.payload.ptr[1:e.payload.len]))
    return found


def field(bytes state, bytes key) -> tuple[int, bytes] | None:
    """(nested tag, nested state) of one field of a verified Map state; None: there is none."""
    cdef Coll c
    cdef Entry e
    if coll_open(span_of_bytes(state), &c) != OK:
        raise ValueError("not a verified state")
    if coll_seek(&c.entries, span_of_bytes(key), &e) != 1:
        return None
    return e.payload.ptr[0], e.payload.ptr[1:e.payload.len]
