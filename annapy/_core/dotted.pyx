# cython: language_level=3
"""States of dotted types: open, verify, join, mutate; dotted.pxd has the layout and the law."""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.clock cimport (
    DOT_SIZE, Context, context_is_empty, context_join, context_next, context_of, context_of_dots,
    context_parse, dot_compare, dots_sort,
)
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, OK, OVERFLOWED, Buf, Cursor, Span, buf_counted, buf_free, buf_init,
    buf_put, buf_reserve, buf_span, buf_u64, cur_counted, cur_rest, cursor, span, span_equal,
    span_of_bytes,
)
from annapy._core.registry cimport OP_CLEAR, Op

cdef DotStore stores[256]
cdef const DotStore* known[256]


cdef void dotted_register(uint8_t tag, const DotStore* store) noexcept nogil:
    stores[tag] = store[0]
    known[tag] = &stores[tag]


cdef const DotStore* dotted_of(uint8_t tag) noexcept nogil:
    return known[tag]


# --- dots -----------------------------------------------------------------------------------

cdef int minter_dot(Minter* minter, uint64_t* seq) noexcept nogil:
    if minter.actor == 0:
        return BAD_OPERATION
    if minter.next == 0:
        return OVERFLOWED
    seq[0] = minter.next
    minter.next += 1
    buf_u64(&minter.dots, minter.actor)
    buf_u64(&minter.dots, seq[0])
    return minter.dots.status


cdef void minter_drop(Minter* minter, const uint8_t* dots, size_t n) noexcept nogil:
    buf_put(&minter.dots, dots, n * DOT_SIZE)


# --- lists ----------------------------------------------------------------------------------

cdef int list_join(uint8_t tag, thing_next_fn next, thing_same_fn same, Span a, const Context* ca,
                   Span b, const Context* cb, Buf* out) noexcept nogil:
    cdef Cursor at = cursor(a), bt = cursor(b)
    cdef Span x = span(NULL, 0), y = span(NULL, 0)       # the heads; empty: take the next one
    cdef uint64_t count_a = 0, count_b = 0, n = 0
    cdef size_t count_at
    cdef int c, status = OK
    if store_open(a, &count_a, &at) != OK or store_open(b, &count_b, &bt) != OK:
        return CORRUPT
    count_at = count_begin(out, count_a + count_b)
    while status == OK:
        if x.len == 0 and at.at < at.end and next(tag, &at, &x) != OK:
            return CORRUPT
        if y.len == 0 and bt.at < bt.end and next(tag, &bt, &y) != OK:
            return CORRUPT
        if x.len == 0 and y.len == 0:
            break
        c = 1 if x.len == 0 else -1 if y.len == 0 else dot_compare(x.ptr, y.ptr)
        if c == 0:
            if span_equal(x, y):
                buf_span(out, x)
            else:
                status = same(tag, x, y, out)
            n += 1
        elif c < 0 and not dot_seen(cb, x.ptr):
            buf_span(out, x)
            n += 1
        elif c > 0 and not dot_seen(ca, y.ptr):
            buf_span(out, y)
            n += 1
        if c <= 0:
            x.len = 0
        if c >= 0:
            y.len = 0
    count_end(out, count_at, count_a + count_b, n)
    return status if status != OK else out.status


cdef int list_dots(uint8_t tag, thing_next_fn next, Span store, Buf* dots) noexcept nogil:
    cdef Cursor c = cursor(store)
    cdef Span thing
    cdef uint64_t count = 0
    if store_open(store, &count, &c) != OK:
        return CORRUPT
    while c.at < c.end:
        if next(tag, &c, &thing) != OK:
            return CORRUPT
        buf_put(dots, thing.ptr, DOT_SIZE)
    return dots.status


# --- whole states ---------------------------------------------------------------------------

cdef int split(Span state, Span* context, Span* store) noexcept nogil:
    cdef Cursor c = cursor(state)
    context[0] = span(state.ptr, 0)
    store[0] = store_empty()
    if state.len == 0:
        return OK
    if cur_counted(&c, context) != OK:
        return CORRUPT
    store[0] = cur_rest(&c)
    return OK


cdef int dotted_open(Span state, Context* context, Span* store) noexcept nogil:
    cdef Span bytes
    if split(state, &bytes, store) != OK:
        return CORRUPT
    return context_of(bytes, context)


cdef int dotted_verify(uint8_t tag, Span state, int depth) noexcept nogil:
    cdef Context context
    cdef Span bytes, store
    cdef Cursor c
    if state.len == 0:
        return OK
    if split(state, &bytes, &store) != OK:
        return CORRUPT
    c = cursor(bytes)
    if context_parse(&c, &context) != OK or c.at != c.end or context_is_empty(&context):
        return CORRUPT
    return known[tag].verify(tag, store, &context, depth)


cdef int dotted_join(uint8_t tag, Span a, Span b, Buf* out) noexcept nogil:
    cdef Context ca, cb
    cdef Span sa, sb
    cdef Buf joined
    cdef int status
    if a.len == 0 or b.len == 0 or span_equal(a, b):
        buf_span(out, b if a.len == 0 else a)
        return out.status
    if dotted_open(a, &ca, &sa) != OK or dotted_open(b, &cb, &sb) != OK:
        return CORRUPT
    buf_init(&joined)
    status = context_join(&ca, &cb, &joined)
    if status == OK:
        buf_reserve(out, a.len + b.len)
        buf_counted(out, span(joined.ptr, joined.len))
        status = known[tag].join(tag, sa, &ca, sb, &cb, out)
    buf_free(&joined)
    return status if status != OK else out.status


cdef int store_mutate(const DotStore* type, uint8_t tag, Span old, const Op* op, Minter* minter,
                      Buf* out) noexcept nogil:
    cdef int status
    if op.code != OP_CLEAR:
        return type.mutate(tag, old, op, minter, out)
    if op.arg.len:
        return CORRUPT
    status = type.dots(tag, old, &minter.dots)
    buf_span(out, store_empty())
    return status if status != OK else minter.dots.status


cdef int write_delta(Minter* minter, Span store, Buf* delta) noexcept nogil:
    """The delta's context is exactly the dots that the operation touched."""
    cdef Buf covered
    cdef int status
    cdef size_t n = dots_sort(minter.dots.ptr, minter.dots.len // DOT_SIZE)
    buf_init(&covered)
    status = context_of_dots(minter.dots.ptr, n, &covered)
    if status == OK:
        buf_counted(delta, span(covered.ptr, covered.len))
        buf_span(delta, store)
        status = delta.status
    buf_free(&covered)
    return status


cdef int dotted_mutate(uint8_t tag, Span old, const Op* op, Buf* delta) noexcept nogil:
    cdef Context context
    cdef Minter minter
    cdef Span store
    cdef Buf fresh
    cdef int status = dotted_open(old, &context, &store)
    if status != OK:
        return status
    minter.context = &context
    minter.actor = op.actor
    minter.next = 0
    context_next(&context, op.actor, &minter.next)
    buf_init(&minter.dots)
    buf_init(&fresh)
    status = store_mutate(known[tag], tag, store, op, &minter, &fresh)
    if status == OK:
        status = minter.dots.status if minter.dots.status != OK else fresh.status
    if status == OK and minter.dots.len:
        status = write_delta(&minter, span(fresh.ptr, fresh.len), delta)
    buf_free(&minter.dots)
    buf_free(&fresh)
    return status


cdef bint dotted_is_empty(Span state) noexcept nogil:
    cdef Context context
    cdef Span store
    return dotted_open(state, &context, &store) != OK or span_equal(store, store_empty())


# --- what the Python face reads ---------------------------------------------------------------

def context(bytes state not None) -> bytes:
    """The encoded causal context of a verified state of a dotted type; two zero bytes at bottom."""
    cdef Span seen, store
    if split(span_of_bytes(state), &seen, &store) != OK:
        raise ValueError("not a verified state")
    return seen.ptr[:seen.len] if seen.len else b"\0\0"
