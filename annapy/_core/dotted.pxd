# cython: language_level=3
"""What all dotted types share: a causal context over a dot store, joined and changed in one way.

Owns    the frame `counted causal context · store`, Minter, and the table of dot stores.
Callers joins_set (orset), joins_map (ormap), joins_causal (siblings) register a DotStore each and
        get verify, join and mutate of whole states from here. All nogil, pure over bytes.

    state   = varint context length · context · store
    store   = varint n · n things, each with at least one dot       n = 0: the one byte 00

A dot store holds what is alive: things that carry dots. The context beside it covers these and all
dots that were seen and are gone. A store does not own its context, so it can stand inside another
one: an orset in an ormap is a bare store, and the map's context speaks for both.

    join((s, c), (s2, c2)) = ((s and s2) + (s not in c2) + (s2 not in c), c + c2)

Invariants
    every dot in a store is covered by the context that it is read under
    an actor mints in ascending order, from beyond the context: (a, n) is minted once
    a delta's context holds exactly the dots that the operation minted, superseded or removed
    the bottom is the empty span; an empty context is never spelled out
Source  Almeida, Shoker, Baquero, "Delta state replicated data types" (2018), section 7.
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memmove

from annapy._core.clock cimport (
    DOT_SIZE, Context, context_contains, context_covers, dots_are_sorted,
)
from annapy._core.codec cimport (
    OK, Buf, Cursor, Span, buf_reserve, cur_varint, cursor, load_u64, varint_size, varint_store,
)
from annapy._core.registry cimport Op


cdef struct Minter:            # one operation on one state: what it may use, what it leaves behind
    const Context* context     # of the whole state, the outermost
    uint64_t actor
    uint64_t next              # sequence of the next dot; 0: there is none left
    Buf dots                   # minted, superseded and removed ones: the delta's context to be


# Given the tag, since one store serves many. Stores come with their count in front, and so does
# what is appended to `out`. A Status each.
ctypedef int (*store_verify_fn)(uint8_t tag, Span store, const Context* context,
                                int depth) noexcept nogil
ctypedef int (*store_join_fn)(uint8_t tag, Span a, const Context* ca, Span b, const Context* cb,
                              Buf* out) noexcept nogil
ctypedef int (*store_mutate_fn)(uint8_t tag, Span old, const Op* op, Minter* minter,
                                Buf* out) noexcept nogil
ctypedef int (*store_dots_fn)(uint8_t tag, Span store, Buf* dots) noexcept nogil

cdef struct DotStore:
    store_verify_fn verify
    store_join_fn join
    store_mutate_fn mutate     # every operation but OP_CLEAR, which needs no more than `dots`
    store_dots_fn dots         # appends all dots of the store, actor and sequence, 16 bytes each

cdef void dotted_register(uint8_t tag, const DotStore* store) noexcept nogil
cdef const DotStore* dotted_of(uint8_t tag) noexcept nogil      # NULL: not dotted

cdef int dotted_open(Span state, Context* context, Span* store) noexcept nogil
# Splits a verified state; the bottom opens as an empty context and an empty store.

cdef int dotted_verify(uint8_t tag, Span state, int depth) noexcept nogil
cdef int dotted_join(uint8_t tag, Span a, Span b, Buf* out) noexcept nogil
cdef int dotted_mutate(uint8_t tag, Span old, const Op* op, Buf* delta) noexcept nogil
cdef bint dotted_is_empty(Span state) noexcept nogil
# The LatticeType functions, given the tag.

cdef int store_mutate(const DotStore* type, uint8_t tag, Span old, const Op* op, Minter* minter,
                      Buf* out) noexcept nogil
# The operation on a bare store, OP_CLEAR included.

# Stores that are lists: each thing starts with its one dot, dots ascend. `next` leaves the thing's
# bytes in `whole`; `same` appends what becomes of two things with one dot and different bytes.
ctypedef int (*thing_next_fn)(uint8_t tag, Cursor* c, Span* whole) noexcept nogil
ctypedef int (*thing_same_fn)(uint8_t tag, Span a, Span b, Buf* out) noexcept nogil

cdef int list_join(uint8_t tag, thing_next_fn next, thing_same_fn same, Span a, const Context* ca,
                   Span b, const Context* cb, Buf* out) noexcept nogil
cdef int list_dots(uint8_t tag, thing_next_fn next, Span store, Buf* dots) noexcept nogil

cdef int minter_dot(Minter* minter, uint64_t* seq) noexcept nogil
# The next dot of the minter's actor; OVERFLOWED past 64 bits, with nothing minted.
cdef void minter_drop(Minter* minter, const uint8_t* dots, size_t n) noexcept nogil
# These n dots are superseded or removed.

cdef inline Span store_empty() noexcept nogil:
    cdef Span s
    s.ptr = <const uint8_t*>"\0"
    s.len = 1
    return s

cdef inline int store_open(Span store, uint64_t* count, Cursor* things) noexcept nogil:
    things[0] = cursor(store)
    return cur_varint(things, count)

cdef inline bint dot_seen(const Context* context, const uint8_t* dot) noexcept nogil:
    return context_contains(context, load_u64(dot), load_u64(dot + 8))

cdef inline bint dots_valid(Span dots, const Context* context) noexcept nogil:
    """A sorted run of at least one dot, all covered."""
    cdef size_t n = dots.len // DOT_SIZE
    return (n > 0 and dots.len % DOT_SIZE == 0 and dots_are_sorted(dots.ptr, n)
            and context_covers(context, dots.ptr, n))

# A count stands before what it counts. `count_begin` leaves room for the widest that may come,
# `count_end` writes the real one and closes what gap is left.

cdef inline size_t count_begin(Buf* out, uint64_t count_max) noexcept nogil:
    cdef size_t at = out.len
    cdef size_t room = varint_size(count_max)
    if buf_reserve(out, room) != NULL:
        out.len += room
    return at

cdef inline void count_end(Buf* out, size_t at, uint64_t count_max, uint64_t count) noexcept nogil:
    cdef size_t room = varint_size(count_max), need = varint_size(count)
    if out.status != OK:
        return
    varint_store(out.ptr + at, count)
    if need < room:
        memmove(out.ptr + at + need, out.ptr + at + room, out.len - at - room)
        out.len -= room - need
