# cython: language_level=3
"""Lattices that users define: their encoded states, kept apart as dotted siblings.

Owns    the layout below. No user code runs here, or in any node: who reads joins the siblings with
        the class that goes by the name; who writes replaces exactly the siblings that it joined.
Callers shard owners and the Python face: nogil, pure over bytes.

    state    = varint name length · name · a Causal state (joins_causal.pyx), never empty
    value of a sibling = one zero byte · what the user's `encode` returned (which may be empty)

    OP_SET   = counted name · counted observed context · zero byte · encoded state
               mints one dot and removes what the context covers. An empty context is nothing
               observed: unlike a plain register, no writer here may drop what it has not joined
    OP_CLEAR   removes all that is there

Invariants
    1 <= name length <= NAME_MAX
    an OP_SET leaves one sibling, or at most SIBLINGS_MAX of at most STATE_MAX bytes: else it is
        OVER_LIMIT, nothing is minted, and the writer must read, join and write that back
    a join never fails for the limits: replicated state is not refused

Two names under one key: the greater name (bytes) wins whole, like the higher tag of two cells. So
names sum lexicographically over lattices, which is a lattice; dots of different names never meet.
A local operation under another name than the one that is there is WRONG_TYPE.
Source  Preguica et al. 2012, "Dotted version vectors", for the siblings.
"""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.cell cimport TAG_CAUSAL, TAG_USER
from annapy._core.clock cimport Context, context_parse
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, OK, OVER_LIMIT, WRONG_TYPE, Buf, Cursor, Span, buf_counted, buf_free,
    buf_init, buf_span, cur_counted, cur_left, cur_rest, cur_varint, cursor, span, span_compare,
    span_equal,
)
from annapy._core.dotted cimport (
    dotted_is_empty, dotted_join, dotted_mutate, dotted_open, dotted_verify, store_open,
)
from annapy._core.joins_set cimport order_by_join
from annapy._core.registry cimport (
    LATTICE_DOTTED, OP_CLEAR, OP_SET, LatticeType, Op, lattice_register,
)

cdef enum:
    NAME_MAX = 255
    SIBLINGS_MAX = 32
    STATE_MAX = 1 << 20


cdef inline int user_open(Span state, Span* name, Span* rest) noexcept nogil:
    """Splits a state; the bottom opens as no name and no siblings."""
    cdef Cursor c = cursor(state)
    name[0] = span(NULL, 0)
    rest[0] = span(NULL, 0)
    if state.len == 0:
        return OK
    if cur_counted(&c, name) != OK or name.len == 0 or name.len > NAME_MAX:
        return CORRUPT
    rest[0] = cur_rest(&c)
    return OK


cdef int user_verify(Span state, int depth) noexcept nogil:
    cdef Span name, rest
    if state.len == 0:
        return OK
    if user_open(state, &name, &rest) != OK or rest.len == 0:
        return CORRUPT
    return dotted_verify(TAG_CAUSAL, rest, depth)


cdef int user_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Span name_a, name_b, rest_a, rest_b
    cdef int c
    if user_open(a, &name_a, &rest_a) != OK or user_open(b, &name_b, &rest_b) != OK:
        return CORRUPT
    c = span_compare(name_a, name_b)     # the bottom has the empty name: it loses to any other
    if c or a.len == 0:
        buf_span(out, a if c > 0 else b)
        return out.status
    buf_counted(out, name_a)
    return dotted_join(TAG_CAUSAL, rest_a, rest_b, out)


cdef int user_order(Span a, Span b, int* order) noexcept nogil:
    return order_by_join(&user_join, a, b, order)


cdef int within_limits(Span old, Span delta) noexcept nogil:
    """Would old with delta still be small enough to be read and joined in one go?"""
    cdef Buf joined
    cdef Context context
    cdef Span store
    cdef Cursor c = cursor(span(NULL, 0))
    cdef uint64_t count = 0
    cdef int status
    buf_init(&joined)
    status = dotted_join(TAG_CAUSAL, old, delta, &joined)
    if status == OK:
        status = joined.status
    if status == OK:
        status = dotted_open(span(joined.ptr, joined.len), &context, &store)
    if status == OK:
        status = store_open(store, &count, &c)
    # One sibling alone is what reading and joining leads to: whatever its size, it may be written.
    if status == OK and count > 1 and (count > SIBLINGS_MAX or store.len > STATE_MAX):
        status = OVER_LIMIT
    buf_free(&joined)
    return status


cdef int parse_set(Span arg, Span* name, Buf* inner) noexcept nogil:
    """The name, and the argument for the siblings beneath it."""
    cdef Cursor c = cursor(arg)
    cdef Cursor at
    cdef Context context
    cdef Span seen
    cdef Span value
    cdef uint8_t[2] nothing
    if cur_counted(&c, name) != OK or name.len == 0 or name.len > NAME_MAX:
        return CORRUPT
    if cur_counted(&c, &seen) != OK or cur_left(&c) == 0:
        return CORRUPT
    if seen.len == 0:
        nothing[0] = nothing[1] = 0
        seen = span(nothing, 2)
    at = cursor(seen)
    if context_parse(&at, &context) != OK or cur_left(&at):
        return CORRUPT
    value = cur_rest(&c)
    if value.ptr[0] != 0:
        return CORRUPT
    buf_counted(inner, seen)
    buf_span(inner, value)
    return inner.status


cdef int user_set(Span old, const Op* op, Buf* delta) noexcept nogil:
    cdef Span name, there, rest
    cdef Op inner = op[0]
    cdef Buf arg, change
    cdef int status
    buf_init(&arg)
    buf_init(&change)
    status = user_open(old, &there, &rest)
    if status == OK:
        status = parse_set(op.arg, &name, &arg)
    if status == OK and old.len and not span_equal(name, there):
        status = WRONG_TYPE
    if status == OK:
        inner.arg = span(arg.ptr, arg.len)
        status = dotted_mutate(TAG_CAUSAL, rest, &inner, &change)
    if status == OK:
        status = change.status
    if status == OK:
        status = within_limits(rest, span(change.ptr, change.len))
    if status == OK:
        buf_counted(delta, name)
        buf_span(delta, span(change.ptr, change.len))
        status = delta.status
    buf_free(&arg)
    buf_free(&change)
    return status


cdef int user_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    cdef Span name, rest
    cdef Buf change
    cdef int status
    if op.actor == 0:
        return BAD_OPERATION
    if op.code == OP_SET:
        return user_set(old, op, delta)
    if op.code != OP_CLEAR:
        return BAD_OPERATION
    status = user_open(old, &name, &rest)
    if status != OK:
        return status
    buf_init(&change)
    status = dotted_mutate(TAG_CAUSAL, rest, op, &change)
    if status == OK and change.len:
        buf_counted(delta, name)
        buf_span(delta, span(change.ptr, change.len))
        status = delta.status
    buf_free(&change)
    return status


cdef bint user_is_empty(Span state) noexcept nogil:
    cdef Span name, rest
    return user_open(state, &name, &rest) != OK or dotted_is_empty(rest)


cdef void register() noexcept:
    cdef LatticeType t
    t.tag = TAG_USER
    t.flags = LATTICE_DOTTED
    t.kind = "lattice"
    t.verify = &user_verify
    t.join = &user_join
    t.order = &user_order
    t.mutate = &user_mutate
    t.is_empty = &user_is_empty
    lattice_register(&t)


register()
