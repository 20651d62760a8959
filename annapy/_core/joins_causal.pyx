# cython: language_level=3
"""Registers whose concurrent values stay side by side: MVRegister, Causal, MultiCausal.

Owns    the layout below. MVRegister and Causal are one lattice under two public names; MultiCausal
        carries, beside each value, what it depends on.
Callers shard owners and the Python face: nogil, pure over bytes.

    state    = varint context length · context · store        (the frame of dotted.pxd)
    store    = varint n · sibling{n}, dots ascending
    sibling  = actor u64 · seq u64 · stamp 20 bytes · varint length · value
               multicausal: · varint m · (varint length · key · varint length · context){m},
                              keys ascending

    OP_SET     mvregister, causal: counted context · value
               multicausal:        counted context · counted value · varint m · dependencies{m}

Each write is a dot of its own. "My clock is behind yours: is my value older than each of yours?"
A pair (clock, set of values) cannot tell, because the clock belongs to all of the values at once:
on equal clocks its merge must pick a side or unite sets that one writer had replaced, and it is
neither commutative nor associative. With a dot for each sibling the join of dotted.pxd applies:
a sibling lives while nobody who has seen its dot has replaced it.

The context of an operation says what its writer had seen: the new sibling replaces exactly the
siblings that it covers. An empty one (no bytes) means "all that the owner has now", which is what
a plain assignment wants; "nothing seen" is the empty context spelled out, two zero bytes.

The latest sibling is the one with the greatest stamp, then the greatest dot.

Invariants
    a value is never empty: an encoded value has at least its codec byte
    a dot is minted with one value; should foreign states disagree, the greater sibling bytes win
Sources Preguica, Baquero, Almeida, Fonte, Goncalves, "Dotted version vectors" (2012); Shapiro,
        Preguica, Baquero, Zawirski (2011), multi-value register; Lloyd et al., COPS (2011), for
        the dependencies.
"""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.cell cimport (
    STAMP_SIZE, TAG_CAUSAL, TAG_MULTICAUSAL, TAG_MVREGISTER, Stamp, stamp_compare,
)
from annapy._core.clock cimport (
    DOT_SIZE, Context, context_of, context_parse, dot_compare, stamp_load, stamp_store,
)
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, OK, Buf, Cursor, Span, buf_counted, buf_put, buf_span, buf_u64,
    buf_varint, cur_counted, cur_left, cur_rest, cur_take, cur_varint, cursor, load_u64,
    span, span_compare, span_of_bytes,
)
from annapy._core.dotted cimport (
    DotStore, Minter, dot_seen, dots_valid, dotted_is_empty, dotted_join, dotted_mutate,
    dotted_open, dotted_register, dotted_verify, list_dots, list_join, minter_dot, minter_drop,
    store_open,
)
from annapy._core.joins_set cimport order_by_join
from annapy._core.registry cimport LATTICE_DOTTED, OP_SET, LatticeType, Op, lattice_register


cdef struct Sibling:         # borrowed
    Span whole
    Span value
    Span dependencies        # with their count; empty unless multicausal


# --- reading --------------------------------------------------------------------------------

cdef int dependencies_verify(Cursor* c) noexcept nogil:
    """Consumes the count and the dependencies."""
    cdef uint64_t count = 0, n = 0
    cdef Span key = span(NULL, 0), bytes, last = span(NULL, 0)
    cdef Context context
    cdef Cursor at
    if cur_varint(c, &count) != OK or count > cur_left(c):
        return CORRUPT
    while n < count:
        if cur_counted(c, &key) != OK or cur_counted(c, &bytes) != OK:
            return CORRUPT
        if n and span_compare(last, key) >= 0:
            return CORRUPT
        at = cursor(bytes)
        if context_parse(&at, &context) != OK or at.at != at.end:
            return CORRUPT
        last = key
        n += 1
    return OK


cdef int dependencies_skip(Cursor* c) noexcept nogil:
    cdef uint64_t count = 0
    cdef Span skipped
    if cur_varint(c, &count) != OK or count > cur_left(c):
        return CORRUPT
    while count:
        if cur_counted(c, &skipped) != OK or cur_counted(c, &skipped) != OK:
            return CORRUPT
        count -= 1
    return OK


cdef int sibling_next(uint8_t tag, Cursor* c, Sibling* s) noexcept nogil:
    cdef Span fixed
    cdef const uint8_t* start = c.at
    if cur_take(c, DOT_SIZE + STAMP_SIZE, &fixed) != OK or cur_counted(c, &s.value) != OK:
        return CORRUPT
    s.dependencies = span(c.at, 0)
    if tag == TAG_MULTICAUSAL:
        if dependencies_skip(c) != OK:
            return CORRUPT
        s.dependencies.len = <size_t>(c.at - s.dependencies.ptr)
    s.whole = span(start, <size_t>(c.at - start))
    return OK


cdef int siblings_verify(uint8_t tag, Span store, const Context* context,
                         int depth) noexcept nogil:
    cdef Cursor c = cursor(span(NULL, 0)), at
    cdef Sibling s
    cdef const uint8_t* last = NULL
    cdef uint64_t count = 0, n = 0
    if store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if sibling_next(tag, &c, &s) != OK or s.value.len == 0:
            return CORRUPT
        if not dots_valid(span(s.whole.ptr, DOT_SIZE), context):
            return CORRUPT
        if last != NULL and dot_compare(last, s.whole.ptr) >= 0:
            return CORRUPT
        if tag == TAG_MULTICAUSAL:
            at = cursor(s.dependencies)
            if dependencies_verify(&at) != OK:
                return CORRUPT
        last = s.whole.ptr
        n += 1
    return OK if n == count else CORRUPT


# --- the dot store --------------------------------------------------------------------------

cdef int sibling_whole(uint8_t tag, Cursor* c, Span* whole) noexcept nogil:
    cdef Sibling s
    cdef int status = sibling_next(tag, c, &s)
    whole[0] = s.whole
    return status


cdef int sibling_same(uint8_t tag, Span a, Span b, Buf* out) noexcept nogil:
    buf_span(out, a if span_compare(a, b) >= 0 else b)
    return out.status


cdef int siblings_join(uint8_t tag, Span a, const Context* ca, Span b, const Context* cb,
                       Buf* out) noexcept nogil:
    return list_join(tag, &sibling_whole, &sibling_same, a, ca, b, cb, out)


cdef int parse_set(uint8_t tag, Span arg, Span* seen, Span* value, Span* rest) noexcept nogil:
    """An OP_SET's argument: what was seen, the value, the dependencies with their count."""
    cdef Cursor c = cursor(arg), at
    cdef Context context
    if cur_counted(&c, seen) != OK:
        return CORRUPT
    if seen.len:
        at = cursor(seen[0])
        if context_parse(&at, &context) != OK or at.at != at.end:
            return CORRUPT
    if tag != TAG_MULTICAUSAL:
        value[0] = cur_rest(&c)
        rest[0] = span(c.at, 0)
    else:
        if cur_counted(&c, value) != OK:
            return CORRUPT
        rest[0] = span(c.at, cur_left(&c))
        if dependencies_verify(&c) != OK or c.at != c.end:
            return CORRUPT
    return OK if value.len else CORRUPT


cdef int siblings_mutate(uint8_t tag, Span old, const Op* op, Minter* minter,
                         Buf* out) noexcept nogil:
    cdef Span seen, value, rest
    cdef Context context
    cdef Cursor c = cursor(old)
    cdef Sibling s
    cdef uint64_t n = 0
    cdef uint8_t stamp[STAMP_SIZE]
    cdef int status
    if op.code != OP_SET:
        return BAD_OPERATION
    if parse_set(tag, op.arg, &seen, &value, &rest) != OK or store_open(old, &n, &c) != OK:
        return CORRUPT
    context_of(seen, &context)
    while c.at < c.end:
        if sibling_next(tag, &c, &s) != OK:
            return CORRUPT
        if seen.len == 0 or dot_seen(&context, s.whole.ptr):
            minter_drop(minter, s.whole.ptr, 1)
    status = minter_dot(minter, &n)
    if status != OK:
        return status
    stamp_store(stamp, &op.stamp)
    buf_varint(out, 1)
    buf_u64(out, minter.actor)
    buf_u64(out, n)
    buf_put(out, stamp, STAMP_SIZE)
    buf_counted(out, value)
    buf_span(out, rest)
    return out.status


cdef int siblings_dots(uint8_t tag, Span store, Buf* dots) noexcept nogil:
    return list_dots(tag, &sibling_whole, store, dots)


# --- the three types ------------------------------------------------------------------------

cdef int mvregister_verify(Span state, int depth) noexcept nogil:
    return dotted_verify(TAG_MVREGISTER, state, depth)

cdef int mvregister_join(Span a, Span b, Buf* out) noexcept nogil:
    return dotted_join(TAG_MVREGISTER, a, b, out)

cdef int mvregister_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&mvregister_join, a, b, order)

cdef int mvregister_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    return dotted_mutate(TAG_MVREGISTER, old, op, delta)

cdef int multicausal_verify(Span state, int depth) noexcept nogil:
    return dotted_verify(TAG_MULTICAUSAL, state, depth)

cdef int multicausal_join(Span a, Span b, Buf* out) noexcept nogil:
    return dotted_join(TAG_MULTICAUSAL, a, b, out)

cdef int multicausal_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&multicausal_join, a, b, order)

cdef int multicausal_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    return dotted_mutate(TAG_MULTICAUSAL, old, op, delta)


cdef void register() noexcept:
    cdef LatticeType t
    cdef DotStore store
    store.verify = &siblings_verify
    store.join = &siblings_join
    store.mutate = &siblings_mutate
    store.dots = &siblings_dots
    t.flags = LATTICE_DOTTED
    t.is_empty = dotted_is_empty
    t.verify = &mvregister_verify
    t.join = &mvregister_join
    t.order = &mvregister_order
    t.mutate = &mvregister_mutate
    t.tag = TAG_MVREGISTER
    t.kind = "mvregister"
    dotted_register(t.tag, &store)
    lattice_register(&t)
    t.tag = TAG_CAUSAL
    t.kind = "causal"
    dotted_register(t.tag, &store)
    lattice_register(&t)
    t.verify = &multicausal_verify
    t.join = &multicausal_join
    t.order = &multicausal_order
    t.mutate = &multicausal_mutate
    t.tag = TAG_MULTICAUSAL
    t.kind = "multicausal"
    dotted_register(t.tag, &store)
    lattice_register(&t)


register()


# --- what the Python face reads ---------------------------------------------------------------

def siblings(int tag, bytes state) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """(dot 16 bytes, stamp 20 bytes, encoded value, dependencies with their count) of each sibling
    of a verified state, latest first: by stamp, then by dot, descending."""
    cdef Context context
    cdef Span store
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Sibling s
    cdef uint64_t count = 0
    cdef list found = []
    if dotted_open(span_of_bytes(state), &context, &store) != OK:
        raise ValueError("not a verified state")
    if store_open(store, &count, &c) != OK:
        raise ValueError("not a verified state")
    while c.at < c.end:
        if sibling_next(<uint8_t>tag, &c, &s) != OK:
            raise ValueError("not a verified state")
        found.append((
            s.whole.ptr[:DOT_SIZE], s.whole.ptr[DOT_SIZE:DOT_SIZE + STAMP_SIZE],
            s.value.ptr[:s.value.len], s.dependencies.ptr[:s.dependencies.len],
        ))
    found.sort(key=latest_key, reverse=True)
    return found


def latest_key(sibling: tuple[bytes, bytes, bytes, bytes]) -> tuple[int, int, int, int, int]:
    """Stamp (hlc, actor, client), then dot (seq, actor): what "latest" means, everywhere."""
    cdef Stamp stamp
    cdef bytes dot = sibling[0], stamped = sibling[1]
    stamp_load(<const uint8_t*><const char*>stamped, &stamp)
    return (stamp.hlc, stamp.actor, stamp.client,
            load_u64(<const uint8_t*><const char*>dot + 8),
            load_u64(<const uint8_t*><const char*>dot))
