# cython: language_level=3
"""ORMap: fields that can be removed; an update that a removal has not seen survives it (add wins).

Owns    the payload below, fragments, and the store of maps. The frame is joins_set.pxd's, the
        context and the operations on states are dotted.pxd's.
Callers shard owners, the tree, the Python face: nogil, pure over bytes.

    prefix    causal context, the only one: it speaks for everything inside
    payload   facet{1..}, tags ascending
    facet     u8 nested tag · varint store length · store      never an empty store

    the store of   orset                             its members           (joins_set.pyx)
                   mvregister, causal, multicausal   its siblings          (joins_causal.pyx)
                   ormap, map                        varint n · entry{n}, as in the state itself
                   any other type                    fragments: varint n · fragment{n}

    fragment  actor u64 · seq u64 · varint length · nested state, dots ascending, never the bottom

"A field is in a and not in b: added or removed?" As in the set, its dots tell. Types that have
dots keep them under the map's context, so that one removal covers all that was seen inside, at any
depth, and nothing else. A type without dots (a counter, an lww) cannot tell what of its state was
seen; so an update of it lives as a *fragment*, the state that its actor has contributed, under a
dot. The value is the join of the fragments. An update takes the actor's own fragment, applies the
operation to it, and lets the result, under a new dot, supersede the old one and every other
fragment that it dominates (an lww with an earlier stamp): one fragment an actor, no more.

"What does a removal do to a counter that is incremented at the same time?" It takes the fragments
that it saw. The incrementing actor's fragment, which it did not see, survives with all that this
actor had contributed since the field was last removed there; the others' contributions go. This is
the meaning that Riak's maps have.

"Two types in one field?" Concurrent creations leave two facets. Both are kept, since dropping one
would make the join depend on the order of messages; readers see the higher tag; callers who mean
another get WRONG_TYPE; a removal drops both.

    OP_UPDATE   counted field · u8 nested tag · u8 nested opcode · nested argument
    OP_REMOVE   fields, as members      not for a map inside
    OP_CLEAR    everything; nested, everything of that field's facet

Invariants
    a field has a facet, a facet a thing, a thing a dot: what has no dot left is not there
    types with dots never stand in a fragment; user-defined types do not stand in an ORMap
    maps stand in maps at most NESTING_MAX deep
Sources Almeida, Shoker, Baquero, "Delta state replicated data types" (2018), section 7.4 (ORMap);
        Brown, Cribbs, Meiklejohn, Elliott, "Riak DT map" (2014).
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free

from annapy._core.cell cimport NESTING_MAX, TAG_MAP, TAG_ORMAP, TAG_USER
from annapy._core.clock cimport (
    DOT_SIZE, Context, context_of_dots, dot_compare, dots_sort,
)
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, OK, WRONG_TYPE, Buf, Cursor, Span, buf_clear, buf_counted, buf_free,
    buf_init, buf_put, buf_span, buf_u8, buf_u64, buf_varint, cur_counted, cur_take, cur_u8,
    cursor, load_u64, span, span_equal, span_of_bytes,
)
from annapy._core.dotted cimport (
    DotStore, Minter, dot_seen, dots_valid, dotted_is_empty, dotted_join, dotted_mutate, dotted_of,
    dotted_open, dotted_register, dotted_verify, list_dots, list_join, minter_dot, minter_drop,
    store_empty, store_mutate, store_open,
)
from annapy._core.joins_map cimport nested_delta, update_parse
from annapy._core.joins_set cimport (
    DROP, KEEP, REPLACE, Entry, Merge, coll_entry, coll_head, coll_next, coll_seek,
    coll_step, members_sorted, merge_entries, order_by_join,
)
from annapy._core.registry cimport (
    LATTICE_COLLECTION, LATTICE_DOTTED, OP_REMOVE, OP_UPDATE, LatticeType, Op, lattice_of,
    lattice_register,
)


# --- fragments ------------------------------------------------------------------------------

cdef int fragment_next(uint8_t tag, Cursor* c, Span* whole) noexcept nogil:
    cdef const uint8_t* start = c.at
    cdef Span dot, state
    if cur_take(c, DOT_SIZE, &dot) != OK or cur_counted(c, &state) != OK:
        return CORRUPT
    whole[0] = span(start, <size_t>(c.at - start))
    return OK


cdef Span fragment_state(Span whole) noexcept nogil:
    cdef Cursor c = cursor(span(whole.ptr + DOT_SIZE, whole.len - DOT_SIZE))
    cdef Span state = span(NULL, 0)
    cur_counted(&c, &state)
    return state


cdef int fragments_verify(uint8_t tag, Span store, const Context* context,
                          int depth) noexcept nogil:
    cdef Cursor c = cursor(store)
    cdef Span whole, state
    cdef const uint8_t* last = NULL
    cdef uint64_t count = 0, n = 0
    if store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if fragment_next(tag, &c, &whole) != OK:
            return CORRUPT
        if not dots_valid(span(whole.ptr, DOT_SIZE), context):
            return CORRUPT
        if last != NULL and dot_compare(last, whole.ptr) >= 0:
            return CORRUPT
        state = fragment_state(whole)
        if state.len == 0 or lattice_of(tag).verify(state, depth) != OK:
            return CORRUPT
        last = whole.ptr
        n += 1
    return OK if n == count else CORRUPT


cdef int fragment_same(uint8_t tag, Span a, Span b, Buf* out) noexcept nogil:
    """One dot with two states: nobody mints that, but joins are joins on anything well-formed."""
    cdef Buf joined
    cdef int status
    buf_init(&joined)
    status = lattice_of(tag).join(fragment_state(a), fragment_state(b), &joined)
    if status == OK:
        buf_put(out, a.ptr, DOT_SIZE)
        buf_counted(out, span(joined.ptr, joined.len))
    buf_free(&joined)
    return status


cdef int fragments_join(uint8_t tag, Span a, const Context* ca, Span b, const Context* cb,
                        Buf* out) noexcept nogil:
    return list_join(tag, &fragment_next, &fragment_same, a, ca, b, cb, out)


cdef int fragments_dots(uint8_t tag, Span store, Buf* dots) noexcept nogil:
    return list_dots(tag, &fragment_next, store, dots)


cdef int fragments_fold(uint8_t tag, Span store, uint64_t actor, Buf* out) noexcept nogil:
    """The join of the fragments of one actor (0: of all) into the empty `out`."""
    cdef Cursor c = cursor(store)
    cdef Span whole
    cdef Buf joined, swap
    cdef uint64_t count = 0
    cdef int status = store_open(store, &count, &c)
    buf_init(&joined)
    while status == OK and c.at < c.end:
        status = fragment_next(tag, &c, &whole)
        if status != OK or (actor and load_u64(whole.ptr) != actor):
            continue
        buf_clear(&joined)
        status = lattice_of(tag).join(span(out.ptr, out.len), fragment_state(whole), &joined)
        swap = out[0]
        out[0] = joined
        joined = swap
    buf_free(&joined)
    return status if status != OK else out.status


cdef int fragments_supersede(uint8_t tag, Span store, uint64_t actor, Span fresh,
                             Minter* minter) noexcept nogil:
    """The actor's own fragments, and those that the fresh one dominates."""
    cdef Cursor c = cursor(store)
    cdef Span whole
    cdef uint64_t count = 0
    cdef int order, status = store_open(store, &count, &c)
    while status == OK and c.at < c.end:
        status = fragment_next(tag, &c, &whole)
        if status != OK:
            break
        order = 1
        if load_u64(whole.ptr) != actor:
            status = lattice_of(tag).order(fragment_state(whole), fresh, &order)
        if status == OK and order & 1:
            minter_drop(minter, whole.ptr, 1)
    return status


cdef int fragments_mutate(uint8_t tag, Span old, const Op* op, Minter* minter,
                          Buf* out) noexcept nogil:
    cdef const LatticeType* lattice = lattice_of(tag)
    cdef Buf own, delta, fresh
    cdef uint64_t seq = 0
    cdef int status
    buf_init(&own)
    buf_init(&delta)
    buf_init(&fresh)
    status = fragments_fold(tag, old, minter.actor, &own)
    if status == OK:
        status = nested_delta(lattice, span(own.ptr, own.len), op, &delta)
    if status == OK:
        status = lattice.join(span(own.ptr, own.len), span(delta.ptr, delta.len), &fresh)
    if status == OK and fresh.len == 0:
        buf_span(out, store_empty())             # nothing there, nothing done
    elif status == OK:
        status = fragments_supersede(tag, old, minter.actor, span(fresh.ptr, fresh.len), minter)
        if status == OK:
            status = minter_dot(minter, &seq)
        buf_varint(out, 1)
        buf_u64(out, minter.actor)
        buf_u64(out, seq)
        buf_counted(out, span(fresh.ptr, fresh.len))
    buf_free(&own)
    buf_free(&delta)
    buf_free(&fresh)
    return status


cdef DotStore fragments


cdef const DotStore* store_of(uint8_t tag) noexcept nogil:
    """How a type stands in an ORMap; NULL: it does not."""
    cdef const DotStore* dotted = dotted_of(tag)
    cdef const LatticeType* lattice = lattice_of(tag)
    if dotted != NULL or lattice == NULL or tag == TAG_USER or lattice.flags & LATTICE_DOTTED:
        return dotted
    return &fragments


# --- payloads: facets -----------------------------------------------------------------------

cdef int facet_next(Cursor* c, uint8_t* tag, Span* store) noexcept nogil:
    if cur_u8(c, tag) != OK:
        return CORRUPT
    return cur_counted(c, store)


cdef int payload_verify(Span payload, const Context* context, int depth) noexcept nogil:
    cdef Cursor c = cursor(payload)
    cdef uint8_t tag = 0
    cdef int last = -1
    cdef Span store
    cdef const DotStore* type
    while c.at < c.end:
        if facet_next(&c, &tag, &store) != OK or <int>tag <= last:
            return CORRUPT
        type = store_of(tag)
        if type == NULL or span_equal(store, store_empty()):
            return CORRUPT
        if type.verify(tag, store, context, depth) != OK:
            return CORRUPT
        last = tag
    return OK if last >= 0 else CORRUPT


cdef int payload_find(Span payload, uint8_t tag, Span* store, uint8_t* highest) noexcept nogil:
    """The store of a tag (an empty one if it has none), and the tag that readers see."""
    cdef Cursor c = cursor(payload)
    cdef Span found
    store[0] = store_empty()
    while c.at < c.end:
        if facet_next(&c, highest, &found) != OK:
            return CORRUPT
        if highest[0] == tag:
            store[0] = found
    return OK


cdef int payload_dots(Span payload, Buf* dots) noexcept nogil:
    cdef Cursor c = cursor(payload)
    cdef uint8_t tag = 0
    cdef Span store
    while c.at < c.end:
        if facet_next(&c, &tag, &store) != OK or store_of(tag) == NULL:
            return CORRUPT
        if store_of(tag).dots(tag, store, dots) != OK:
            return CORRUPT
    return dots.status


cdef struct Contexts:
    const Context* of[2]
    Buf store                    # scratch: one facet's store, or one field's dots


cdef int facet_join(Contexts* k, uint8_t tag, Span a, Span b, Buf* payload) noexcept nogil:
    cdef int status
    buf_clear(&k.store)
    status = store_of(tag).join(tag, a, k.of[0], b, k.of[1], &k.store)
    if status != OK:
        return status
    if not span_equal(span(k.store.ptr, k.store.len), store_empty()):
        buf_u8(payload, tag)
        buf_counted(payload, span(k.store.ptr, k.store.len))
    return payload.status


cdef int payload_join(Contexts* k, Span a, Span b, Buf* payload) noexcept nogil:
    """Joined facet by facet; a facet that one side lacks is an empty store there."""
    cdef Cursor at = cursor(a), bt = cursor(b)
    cdef int ta = -1, tb = -1, status = OK             # heads' tags; -1: take the next one
    cdef uint8_t tag = 0
    cdef Span sa, sb
    while status == OK:
        if ta < 0 and at.at < at.end:
            if facet_next(&at, &tag, &sa) != OK:
                return CORRUPT
            ta = tag
        if tb < 0 and bt.at < bt.end:
            if facet_next(&bt, &tag, &sb) != OK:
                return CORRUPT
            tb = tag
        if ta < 0 and tb < 0:
            break
        if tb < 0 or 0 <= ta < tb:
            status = facet_join(k, <uint8_t>ta, sa, store_empty(), payload)
            ta = -1
        elif ta < 0 or tb < ta:
            status = facet_join(k, <uint8_t>tb, store_empty(), sb, payload)
            tb = -1
        else:
            status = facet_join(k, <uint8_t>ta, sa, sb, payload)
            ta = tb = -1
    return status


# --- the store of maps: ORMap's, and that of a Map inside one ------------------------------------

cdef int entries_verify(uint8_t tag, Span store, const Context* context, int depth) noexcept nogil:
    cdef Cursor c = cursor(store)
    cdef Entry e
    cdef Span last = span(NULL, 0)
    cdef uint64_t count = 0, n = 0
    if depth >= NESTING_MAX or store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if coll_step(&c, &e, &last, n) != OK:
            return CORRUPT
        if payload_verify(e.payload, context, depth + 1) != OK:
            return CORRUPT
        n += 1
    return OK if n == count else CORRUPT


cdef int entries_only(void* self, int side, const Entry* e, Buf* payload) noexcept nogil:
    """Mostly the other side has seen none of the field's dots, or all: then nothing is rebuilt."""
    cdef Contexts* k = <Contexts*>self
    cdef Span none = span(NULL, 0)
    cdef size_t at, gone = 0
    cdef int status
    buf_clear(&k.store)
    status = payload_dots(e.payload, &k.store)
    if status != OK:
        return status
    for at in range(k.store.len // DOT_SIZE):
        gone += dot_seen(k.of[1 - side], k.store.ptr + at * DOT_SIZE)
    if gone == 0 or gone * DOT_SIZE == k.store.len:
        return DROP if gone else KEEP
    status = payload_join(k, none if side else e.payload, e.payload if side else none, payload)
    return REPLACE if status == OK else status


cdef int entries_both(void* self, const Entry* a, const Entry* b, Buf* payload) noexcept nogil:
    cdef int status = payload_join(<Contexts*>self, a.payload, b.payload, payload)
    if status != OK:
        return status
    return REPLACE if payload.len else DROP


cdef int entries_join(uint8_t tag, Span a, const Context* ca, Span b, const Context* cb,
                      Buf* out) noexcept nogil:
    cdef Contexts k
    cdef Merge m
    cdef Cursor at = cursor(a), bt = cursor(b)
    cdef uint64_t count_a = 0, count_b = 0
    cdef int status
    if store_open(a, &count_a, &at) != OK or store_open(b, &count_b, &bt) != OK:
        return CORRUPT
    k.of[0] = ca
    k.of[1] = cb
    buf_init(&k.store)
    m.self = &k
    m.only = &entries_only
    m.both = &entries_both
    status = merge_entries(at, count_a, bt, count_b, &m, out)
    buf_free(&k.store)
    return status


cdef int entries_dots(uint8_t tag, Span store, Buf* dots) noexcept nogil:
    cdef Cursor c = cursor(store)
    cdef Entry e
    cdef uint64_t count = 0
    if store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if coll_next(&c, &e) != OK or payload_dots(e.payload, dots) != OK:
            return CORRUPT
    return dots.status


cdef int entries_remove(Span old, const Op* op, Minter* minter, Buf* out) noexcept nogil:
    cdef Span* keys = NULL
    cdef size_t count = 0, i
    cdef Cursor c = cursor(old)
    cdef Entry e
    cdef uint64_t n = 0
    cdef int found, status = members_sorted(op.arg, &keys, &count)
    if status == OK:
        status = store_open(old, &n, &c)
    buf_span(out, store_empty())
    for i in range(count):
        if status != OK:
            break
        found = coll_seek(&c, keys[i], &e)
        status = found if found < 0 else OK
        if found > 0:
            status = payload_dots(e.payload, &minter.dots)
    free(keys)
    return status


cdef int entries_update(Span old, const Op* op, Minter* minter, Buf* out) noexcept nogil:
    cdef Op nested
    cdef Cursor c = cursor(old)
    cdef Entry e
    cdef Span key, before
    cdef Buf store, payload
    cdef const DotStore* type
    cdef uint64_t n = 0
    cdef uint8_t highest
    cdef int found, status = update_parse(op, &key, &nested)
    if status != OK:
        return status
    type = store_of(nested.tag)
    if type == NULL:
        return BAD_OPERATION
    if store_open(old, &n, &c) != OK:
        return CORRUPT
    found = coll_seek(&c, key, &e)
    if found < 0:
        return found
    highest = nested.tag
    if payload_find(e.payload if found else span(NULL, 0), nested.tag, &before, &highest) != OK:
        return CORRUPT
    if highest != nested.tag:
        return WRONG_TYPE
    buf_init(&store)
    buf_init(&payload)
    status = store_mutate(type, nested.tag, before, &nested, minter, &store)
    if status == OK and span_equal(span(store.ptr, store.len), store_empty()):
        buf_span(out, store_empty())
    elif status == OK:
        buf_u8(&payload, nested.tag)
        buf_counted(&payload, span(store.ptr, store.len))
        buf_varint(out, 1)
        coll_entry(out, key, span(payload.ptr, payload.len))
        status = payload.status
    buf_free(&store)
    buf_free(&payload)
    return status


cdef int entries_mutate(uint8_t tag, Span old, const Op* op, Minter* minter,
                        Buf* out) noexcept nogil:
    if op.code == OP_UPDATE:
        return entries_update(old, op, minter, out)
    if op.code == OP_REMOVE and tag == TAG_ORMAP:
        return entries_remove(old, op, minter, out)
    return BAD_OPERATION


# --- ORMap ----------------------------------------------------------------------------------

cdef int ormap_verify(Span state, int depth) noexcept nogil:
    return CORRUPT if depth >= NESTING_MAX else dotted_verify(TAG_ORMAP, state, depth)

cdef int ormap_join(Span a, Span b, Buf* out) noexcept nogil:
    return dotted_join(TAG_ORMAP, a, b, out)

cdef int ormap_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&ormap_join, a, b, order)

cdef int ormap_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    return dotted_mutate(TAG_ORMAP, old, op, delta)


cdef void register() noexcept:
    cdef LatticeType t
    cdef DotStore store
    fragments.verify = &fragments_verify
    fragments.join = &fragments_join
    fragments.mutate = &fragments_mutate
    fragments.dots = &fragments_dots
    store.verify = &entries_verify
    store.join = &entries_join
    store.mutate = &entries_mutate
    store.dots = &entries_dots
    dotted_register(TAG_ORMAP, &store)
    dotted_register(TAG_MAP, &store)            # a Map inside an ORMap; one by itself has no dots
    t.flags = LATTICE_COLLECTION | LATTICE_DOTTED
    t.verify = &ormap_verify
    t.join = &ormap_join
    t.order = &ormap_order
    t.mutate = &ormap_mutate
    t.is_empty = dotted_is_empty
    t.tag = TAG_ORMAP
    t.kind = "ormap"
    lattice_register(&t)


register()


# --- what the Python face reads ---------------------------------------------------------------

cdef bytes taken(Buf* out, int status):
    """The buffer as bytes, freed in every case."""
    try:
        if status != OK or out.status != OK:
            raise MemoryError("no memory to read a field")
        return out.ptr[:out.len]
    finally:
        buf_free(out)


cdef bytes folded_state(uint8_t tag, Span store):
    cdef Buf state
    buf_init(&state)
    return taken(&state, fragments_fold(tag, store, 0, &state))


cdef bytes dotted_state(uint8_t tag, Span store):
    """With a context of exactly its own dots, so that it is valid by itself."""
    cdef Buf dots, context, state
    cdef int status
    buf_init(&dots)
    buf_init(&context)
    buf_init(&state)
    status = store_of(tag).dots(tag, store, &dots)
    if status == OK:
        status = context_of_dots(dots.ptr, dots_sort(dots.ptr, dots.len // DOT_SIZE), &context)
    buf_counted(&state, span(context.ptr, context.len))
    buf_span(&state, store)
    buf_free(&dots)
    buf_free(&context)
    return taken(&state, status)


cdef bytes map_state(Span store):
    """A Map inside reads as a Map by itself: field by field what its readers see."""
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Entry e
    cdef Buf state
    cdef uint64_t count = 0
    cdef bytes payload
    cdef list seen = []
    if store_open(store, &count, &c) != OK:
        raise ValueError("not a verified state")
    while c.at < c.end:
        if coll_next(&c, &e) != OK:
            raise ValueError("not a verified state")
        tag, nested = facet_state(e.payload)
        seen.append((e.key.ptr[:e.key.len], bytes((tag,)) + nested))
    buf_init(&state)
    coll_head(&state, span(NULL, 0), count)
    for key, payload in seen:
        coll_entry(&state, span_of_bytes(key), span_of_bytes(payload))
    return taken(&state, OK)


cdef tuple facet_state(Span payload):
    """(tag, state) that readers of a field see: of its highest facet."""
    cdef uint8_t tag = 0
    cdef Span store
    cdef Cursor c = cursor(payload)
    while c.at < c.end:
        if facet_next(&c, &tag, &store) != OK:
            raise ValueError("not a verified state")
    if tag == TAG_MAP:
        return tag, map_state(store)
    if store_of(tag) == &fragments:
        return tag, folded_state(tag, store)
    return tag, dotted_state(tag, store)


def fields(bytes state) -> list[tuple[bytes, int, bytes]]:
    """(encoded field, nested tag, nested state) of each field of a verified ORMap state, sorted."""
    cdef Context context
    cdef Span store
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Entry e
    cdef uint64_t count = 0
    cdef list found = []
    if dotted_open(span_of_bytes(state), &context, &store) != OK:
        raise ValueError("not a verified state")
    if store_open(store, &count, &c) != OK:
        raise ValueError("not a verified state")
    while c.at < c.end:
        if coll_next(&c, &e) != OK:
            raise ValueError("not a verified state")
        found.append((e.key.ptr[:e.key.len], *facet_state(e.payload)))
    return found


def field(bytes state, bytes key) -> tuple[int, bytes] | None:
    """(nested tag, nested state) of one field of a verified ORMap state; None: there is none."""
    cdef Context context
    cdef Span store
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Entry e
    cdef uint64_t count = 0
    if dotted_open(span_of_bytes(state), &context, &store) != OK:
        raise ValueError("not a verified state")
    if store_open(store, &count, &c) != OK or coll_seek(&c, span_of_bytes(key), &e) != 1:
        return None
    return facet_state(e.payload)
