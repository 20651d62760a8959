# cython: language_level=3
"""Joins of sets; joins_set.pxd has the layout.

GSet and OrderedSet grow only: the join is the union, a delta is what was not there yet.

ORSet, the optimised observed-remove set. "In a, not in b: added or removed?" The causal context
answers: every addition has a dot (actor, sequence), a context is the set of dots that its replica
has seen. A dot that b has seen and does not hold was removed there; one that b has not seen was
added here. So a member's dots after the join are

    (dots in both) + (dots in a not covered by b's context) + (dots in b not covered by a's)

and it lives while it has one. An addition supersedes the dots of that member that its replica had
seen, so a member has one dot per concurrent addition; a removal covers what was observed and
nothing else, which is why a concurrent addition wins.

Sources: Bieniusa, Zawirski, Preguica, Shapiro, Baquero, Balegas, Duarte, "An optimized
conflict-free replicated set" (2012); Almeida, Shoker, Baquero, "Delta state replicated data types"
(2018), whose causal CRDTs give the form of the deltas.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, qsort

from annapy._core.cell cimport TAG_GSET, TAG_ORDERED_SET, TAG_ORSET
from annapy._core.clock cimport (
    DOT_SIZE, Context, context_contains, context_upto, dot_compare,
)
from annapy._core.codec cimport (
    BAD_OPERATION, NO_MEMORY, buf_clear, buf_free, buf_init, buf_put, load_u64, span_compare,
    span_equal, span_of_bytes, store_u64, unlikely, varint_size,
)
from annapy._core.dotted cimport (
    DotStore, Minter, count_begin, count_end, dots_valid, dotted_join, dotted_mutate,
    dotted_register, dotted_verify, minter_dot, minter_drop, store_open,
)
from annapy._core.registry cimport (
    LATTICE_COLLECTION, LATTICE_DOTTED, OP_ADD, OP_CLEAR, OP_REMOVE, LatticeType, Op,
    lattice_register,
)


# --- operations' members --------------------------------------------------------------------

cdef int by_bytes(const void* a, const void* b) noexcept nogil:
    return span_compare((<const Span*>a)[0], (<const Span*>b)[0])


cdef int members_sorted(Span arg, Span** members, size_t* count) noexcept nogil:
    cdef Cursor c = cursor(arg)
    cdef uint64_t claimed = 0
    cdef size_t n = 0, unique = 0, i
    cdef Span* found
    members[0] = NULL
    count[0] = 0
    if cur_varint(&c, &claimed) != OK or claimed > cur_left(&c):
        return CORRUPT
    if claimed == 0:
        return OK if cur_left(&c) == 0 else CORRUPT
    found = <Span*>malloc(<size_t>claimed * sizeof(Span))
    if found == NULL:
        return NO_MEMORY
    while n < claimed:
        if cur_counted(&c, &found[n]) != OK:
            free(found)
            return CORRUPT
        n += 1
    if cur_left(&c):
        free(found)
        return CORRUPT
    if n > 1:
        qsort(found, n, sizeof(Span), &by_bytes)
    for i in range(n):
        if unique == 0 or not span_equal(found[i], found[unique - 1]):
            found[unique] = found[i]
            unique += 1
    members[0] = found
    count[0] = unique
    return OK


# --- the merge ------------------------------------------------------------------------------

cdef struct Out:                 # what is kept and lies side by side is copied in one piece
    Buf* buf
    const uint8_t* run
    const uint8_t* run_end
    uint64_t count


cdef inline void out_keep(Out* o, const Entry* e) noexcept nogil:
    if o.run_end != e.start:
        if o.run_end != o.run:
            buf_put(o.buf, o.run, <size_t>(o.run_end - o.run))
        o.run = e.start
    o.run_end = e.next
    o.count += 1


cdef inline void out_flush(Out* o) noexcept nogil:
    if o.run_end != o.run:
        buf_put(o.buf, o.run, <size_t>(o.run_end - o.run))
    o.run = o.run_end = NULL


cdef inline int out_verdict(Out* o, int verdict, const Entry* e, Buf* payload) noexcept nogil:
    if verdict == KEEP:
        out_keep(o, e)
    elif verdict == REPLACE:
        if payload.status != OK:
            return payload.status
        out_flush(o)
        coll_entry(o.buf, e.key, span(payload.ptr, payload.len))
        o.count += 1
    return verdict if verdict < 0 else OK


cdef int merge_only(Out* o, int side, const Entry* e, const Merge* m, Buf* payload) noexcept nogil:
    if m.only == NULL:
        out_keep(o, e)
        return OK
    buf_clear(payload)
    return out_verdict(o, m.only(m.self, side, e, payload), e, payload)


cdef int merge_rest(Out* o, int side, Cursor* c, uint64_t left, const Merge* m,
                    Buf* payload) noexcept nogil:
    """What follows once the other operand is exhausted."""
    cdef Entry e
    cdef int status
    if m.only == NULL:
        if left:
            e.start = c.at
            e.next = c.end
            out_keep(o, &e)
            o.count += left - 1
        return OK
    while c.at < c.end:
        status = coll_next(c, &e)
        if status == OK:
            status = merge_only(o, side, &e, m, payload)
        if status != OK:
            return status
    return OK


cdef int merge_loop(Cursor* a, uint64_t count_a, Cursor* b, uint64_t count_b, const Merge* m,
                    Out* o, Buf* payload) noexcept nogil:
    cdef Entry ea, eb
    cdef int c
    cdef int status = OK
    cdef bint has_a = a.at < a.end, has_b = b.at < b.end
    if (has_a and coll_next(a, &ea) != OK) or (has_b and coll_next(b, &eb) != OK):
        return CORRUPT
    while has_a and has_b:
        c = key_compare(&ea, a.end, &eb, b.end)
        if c < 0:
            status = merge_only(o, 0, &ea, m, payload)
        elif c > 0:
            status = merge_only(o, 1, &eb, m, payload)
        elif m.both == NULL or span_equal(ea.payload, eb.payload):
            out_keep(o, &eb if o.run_end == eb.start else &ea)
        else:
            buf_clear(payload)
            status = out_verdict(o, m.both(m.self, &ea, &eb, payload), &ea, payload)
        if c <= 0:
            count_a -= 1
            has_a = a.at < a.end
            if has_a and coll_next(a, &ea) != OK:
                return CORRUPT
        if c >= 0:
            count_b -= 1
            has_b = b.at < b.end
            if has_b and coll_next(b, &eb) != OK:
                return CORRUPT
        if unlikely(status != OK):
            return status
    if has_a:
        a.at = ea.start
        return merge_rest(o, 0, a, count_a, m, payload)
    if has_b:
        b.at = eb.start
        return merge_rest(o, 1, b, count_b, m, payload)
    return OK


cdef int merge_entries(Cursor a, uint64_t count_a, Cursor b, uint64_t count_b, const Merge* m,
                       Buf* out) noexcept nogil:
    cdef Out o
    cdef Buf payload
    cdef int status
    cdef uint64_t most = count_a + count_b
    cdef size_t at
    buf_init(&payload)
    o.buf = out
    o.run = o.run_end = NULL
    o.count = 0
    buf_reserve(out, cur_left(&a) + cur_left(&b) + varint_size(most))
    at = count_begin(out, most)
    status = merge_loop(&a, count_a, &b, count_b, m, &o, &payload)
    out_flush(&o)
    buf_free(&payload)
    if status != OK:
        return status
    count_end(out, at, most, o.count)
    return out.status


# --- GSet and OrderedSet: the same states, another value ------------------------------------

cdef int gset_verify(Span state, int depth) noexcept nogil:
    cdef Coll c
    cdef Entry e
    cdef Span last = span(NULL, 0)
    cdef uint64_t n = 0
    if state.len == 0:
        return OK
    if coll_open(state, &c) != OK or c.prefix.len or c.count == 0:
        return CORRUPT
    while c.entries.at < c.entries.end:
        if coll_step(&c.entries, &e, &last, n) != OK or e.payload.len:
            return CORRUPT
        n += 1
    return OK if n == c.count else CORRUPT


cdef int gset_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Coll ca, cb
    cdef Merge m
    if a.len == 0 or b.len == 0:
        buf_span(out, b if a.len == 0 else a)
        return out.status
    if coll_open(a, &ca) != OK or coll_open(b, &cb) != OK:
        return CORRUPT
    m.self = NULL
    m.only = NULL
    m.both = NULL
    buf_reserve(out, a.len + b.len)
    buf_varint(out, 0)
    return merge_entries(ca.entries, ca.count, cb.entries, cb.count, &m, out)


cdef int gset_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """The members that are not there yet; nothing if all of them are."""
    cdef Coll c
    cdef Entry e
    cdef Span* members = NULL
    cdef size_t count = 0, fresh = 0, i
    cdef int status, found
    if op.code != OP_ADD:
        return BAD_OPERATION
    status = members_sorted(op.arg, &members, &count)
    if status == OK:
        status = coll_open(old, &c)
    for i in range(count):
        if status != OK:
            break
        found = coll_seek(&c.entries, members[i], &e)
        status = found if found < 0 else OK
        if found == 0:
            members[fresh] = members[i]
            fresh += 1
    if status == OK and fresh:
        coll_head(delta, span(NULL, 0), fresh)
        for i in range(fresh):
            coll_entry(delta, members[i], span(NULL, 0))
        status = delta.status
    free(members)
    return status


cdef bint coll_is_empty(Span state) noexcept nogil:
    """No entry, whatever the context says."""
    cdef Coll c
    return coll_open(state, &c) != OK or c.count == 0


# --- order ----------------------------------------------------------------------------------

cdef int order_by_join(join_fn join, Span a, Span b, int* order) noexcept nogil:
    cdef Buf out
    cdef int status
    if span_equal(a, b):
        order[0] = 3
        return OK
    buf_init(&out)
    status = join(a, b, &out)
    if status == OK:
        order[0] = (span_equal(span(out.ptr, out.len), b)
                    | span_equal(span(out.ptr, out.len), a) << 1)
    buf_free(&out)
    return status


cdef int gset_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&gset_join, a, b, order)


# --- ORSet: a dot store whose things are members --------------------------------------------

cdef int orset_verify(uint8_t tag, Span store, const Context* context, int depth) noexcept nogil:
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Entry e
    cdef Span last = span(NULL, 0)
    cdef uint64_t count = 0, n = 0
    if store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if coll_step(&c, &e, &last, n) != OK or not dots_valid(e.payload, context):
            return CORRUPT
        n += 1
    return OK if n == count else CORRUPT


cdef struct Seen:              # one operand's context, with the answer for the last actor kept
    const Context* context
    uint64_t actor
    uint64_t upto


cdef struct Contexts:
    Seen of[2]


cdef inline bint seen(Seen* s, const uint8_t* dot) noexcept nogil:
    cdef uint64_t actor = load_u64(dot), seq = load_u64(dot + 8)
    if unlikely(actor != s.actor):
        s.actor = actor
        s.upto = context_upto(s.context, actor)
    if seq <= s.upto:
        return True
    return s.context.dots_n != 0 and context_contains(s.context, actor, seq)


cdef int orset_only(void* self, int side, const Entry* e, Buf* payload) noexcept nogil:
    """A member that one operand has: its dots that the other has not seen."""
    cdef Seen* other = &(<Contexts*>self).of[1 - side]
    cdef const uint8_t* dot = e.payload.ptr
    cdef const uint8_t* end = e.payload.ptr + e.payload.len
    if e.payload.len == DOT_SIZE:
        return DROP if seen(other, dot) else KEEP
    while dot < end:
        if not seen(other, dot):
            buf_put(payload, dot, DOT_SIZE)
        dot += DOT_SIZE
    if payload.len == e.payload.len:
        return KEEP
    return REPLACE if payload.len else DROP


cdef int orset_both(void* self, const Entry* a, const Entry* b, Buf* payload) noexcept nogil:
    """A member that both have: common dots, and each one's that the other has not seen."""
    cdef Contexts* contexts = <Contexts*>self
    cdef const uint8_t* p = a.payload.ptr
    cdef const uint8_t* q = b.payload.ptr
    cdef const uint8_t* p_end = p + a.payload.len
    cdef const uint8_t* q_end = q + b.payload.len
    cdef int c
    while p < p_end or q < q_end:
        c = 1 if p == p_end else -1 if q == q_end else dot_compare(p, q)
        if c == 0 or (c < 0 and not seen(&contexts.of[1], p)):
            buf_put(payload, p, DOT_SIZE)
        elif c > 0 and not seen(&contexts.of[0], q):
            buf_put(payload, q, DOT_SIZE)
        if c <= 0:
            p += DOT_SIZE
        if c >= 0:
            q += DOT_SIZE
    return REPLACE if payload.len else DROP


cdef int orset_store_join(uint8_t tag, Span a, const Context* ca, Span b, const Context* cb,
                          Buf* out) noexcept nogil:
    cdef Contexts contexts
    cdef Merge m
    cdef Cursor at, bt
    cdef uint64_t count_a = 0, count_b = 0
    if store_open(a, &count_a, &at) != OK or store_open(b, &count_b, &bt) != OK:
        return CORRUPT
    contexts.of[0].context = ca
    contexts.of[1].context = cb
    contexts.of[0].actor = contexts.of[1].actor = 0      # no dot has it
    contexts.of[0].upto = contexts.of[1].upto = 0
    m.self = &contexts
    m.only = &orset_only
    m.both = &orset_both
    return merge_entries(at, count_a, bt, count_b, &m, out)


cdef int orset_store_mutate(uint8_t tag, Span old, const Op* op, Minter* minter,
                            Buf* out) noexcept nogil:
    """Addition: one new dot a member, in the members' order. Both operations drop what was seen."""
    cdef Span* members = NULL
    cdef size_t count = 0, i
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Entry e
    cdef uint64_t n = 0
    cdef uint8_t dot[DOT_SIZE]
    cdef int status, found
    if op.code != OP_ADD and op.code != OP_REMOVE:
        return BAD_OPERATION
    status = members_sorted(op.arg, &members, &count)
    if status == OK:
        status = store_open(old, &n, &c)
    buf_varint(out, count if op.code == OP_ADD else 0)
    for i in range(count):
        if status != OK:
            break
        found = coll_seek(&c, members[i], &e)
        status = found if found < 0 else OK
        if found > 0:
            minter_drop(minter, e.payload.ptr, e.payload.len // DOT_SIZE)
        if status == OK and op.code == OP_ADD:
            store_u64(dot, minter.actor)
            status = minter_dot(minter, &n)
            store_u64(dot + 8, n)
            coll_entry(out, members[i], span(dot, DOT_SIZE))
    free(members)
    return status


cdef int orset_store_dots(uint8_t tag, Span store, Buf* dots) noexcept nogil:
    cdef Cursor c = cursor(span(NULL, 0))
    cdef Entry e
    cdef uint64_t count = 0
    if store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if coll_next(&c, &e) != OK:
            return CORRUPT
        buf_span(dots, e.payload)
    return dots.status


cdef int orset_state_verify(Span state, int depth) noexcept nogil:
    return dotted_verify(TAG_ORSET, state, depth)


cdef int orset_join(Span a, Span b, Buf* out) noexcept nogil:
    return dotted_join(TAG_ORSET, a, b, out)


cdef int orset_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    return dotted_mutate(TAG_ORSET, old, op, delta)


cdef int orset_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&orset_join, a, b, order)


# --- registration ---------------------------------------------------------------------------

cdef void register() noexcept:
    cdef LatticeType t
    cdef DotStore store
    t.flags = LATTICE_COLLECTION
    t.verify = &gset_verify
    t.join = &gset_join
    t.order = &gset_order
    t.mutate = &gset_mutate
    t.is_empty = &coll_is_empty
    t.tag = TAG_GSET
    t.kind = "gset"
    lattice_register(&t)
    t.tag = TAG_ORDERED_SET
    t.kind = "ordered_set"
    lattice_register(&t)
    store.verify = &orset_verify
    store.join = &orset_store_join
    store.mutate = &orset_store_mutate
    store.dots = &orset_store_dots
    dotted_register(TAG_ORSET, &store)
    t.flags = LATTICE_COLLECTION | LATTICE_DOTTED
    t.verify = &orset_state_verify
    t.join = &orset_join
    t.order = &orset_order
    t.mutate = &orset_mutate
    t.tag = TAG_ORSET
    t.kind = "orset"
    lattice_register(&t)


register()


# --- what the Python face reads ---------------------------------------------------------------

def keys(bytes state not None) -> list[bytes]:
    """The encoded keys of a verified collection's state, sorted. Linear."""
    cdef Coll c
    cdef Entry e
    cdef list found = []
    if coll_open(span_of_bytes(state), &c) != OK:
        raise ValueError("not a verified state")
    while c.entries.at < c.entries.end:
        if coll_next(&c.entries, &e) != OK:
            raise ValueError("not a verified state")
        found.append(e.key.ptr[:e.key.len])
    return found


def has(bytes state not None, bytes key not None) -> bool:
    """Is the encoded key in a verified collection's state? Linear, without objects."""
    cdef Coll c
    cdef Entry e
    if coll_open(span_of_bytes(state), &c) != OK:
        raise ValueError("not a verified state")
    return coll_seek(&c.entries, span_of_bytes(key), &e) == 1


def size(bytes state not None) -> int:
    """How many entries a verified collection's state has. O(1)."""
    cdef Coll c
    if coll_open(span_of_bytes(state), &c) != OK:
        raise ValueError("not a verified state")
    return c.count
