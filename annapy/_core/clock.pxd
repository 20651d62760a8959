# cython: language_level=3
"""Causal contexts (version vector plus exception dots) and hybrid logical clocks, over bytes.

Owns    the encoding of a context, its algebra, and the packing of an HLC. Pure functions.
Source  dotted version vectors with exceptions: Almeida et al. 2014; HLC: Kulkarni et al. 2014.

    context = varint n · (actor u64, upto u64) * n · varint m · (actor u64, seq u64) * m

Invariants (what context_parse accepts)
    an actor is never 0; upto >= 1; actors strictly ascend in the vector
    exception dots strictly ascend by (actor, seq) and each has seq > upto(actor) + 1:
        a dot that extends its actor's prefix is folded into the vector, so equal sets of dots
        have equal bytes
    the empty context is written as two zero bytes; context_of(empty span) is empty as well, and
        whoever embeds contexts decides which of the two spellings it accepts
A *dot* in memory and in every state is 16 bytes: actor u64, seq u64, little-endian.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from annapy._core.codec cimport Buf, Cursor, Span, load_u64
from annapy._core.stamp cimport STAMP_SIZE, Stamp

cdef enum:
    DOT_SIZE = 16

cdef struct Dot:
    uint64_t actor
    uint64_t seq

cdef struct Context:           # parsed; everything is borrowed from the bytes it was parsed from
    const uint8_t* vector      # (actor, upto) * vector_n
    size_t vector_n
    const uint8_t* dots        # exception dots * dots_n
    size_t dots_n


cdef inline void dot_load(const uint8_t* p, Dot* d) noexcept nogil:
    memcpy(d, p, DOT_SIZE)

cdef inline int dot_compare(const uint8_t* a, const uint8_t* b) noexcept nogil:
    """By actor, then by sequence, as numbers."""
    cdef uint64_t x = load_u64(a)
    cdef uint64_t y = load_u64(b)
    if x == y:
        x = load_u64(a + 8)
        y = load_u64(b + 8)
    return (x > y) - (x < y)

cdef inline void context_clear(Context* c) noexcept nogil:
    c.vector = NULL
    c.vector_n = 0
    c.dots = NULL
    c.dots_n = 0

cdef inline bint context_is_empty(const Context* c) noexcept nogil:
    return c.vector_n == 0 and c.dots_n == 0

cdef inline void context_of_sorted_dots(Context* c, const uint8_t* dots, size_t n) noexcept nogil:
    """A view of sorted, unique dots as a context, not folded: valid as an argument of
    context_join and context_order's left side only; context_join(empty, it) canonicalises it."""
    c.vector = NULL
    c.vector_n = 0
    c.dots = dots
    c.dots_n = n

cdef int context_parse(Cursor* c, Context* out) noexcept nogil
# Foreign bytes: checks every invariant above and consumes exactly the context. OK or CORRUPT.

cdef int context_read(Cursor* c, Context* out) noexcept nogil
# The same for verified bytes: O(1), only bounds are checked.

cdef int context_of(Span bytes, Context* out) noexcept nogil
# A verified span that is a whole context (a collection's prefix), or empty. O(1).

cdef bint context_contains(const Context* c, uint64_t actor, uint64_t seq) noexcept nogil
# O(log n).

cdef uint64_t context_upto(const Context* c, uint64_t actor) noexcept nogil
# The end of the actor's contiguous prefix, 0 if none.

cdef uint64_t context_last(const Context* c, uint64_t actor) noexcept nogil
# The actor's greatest sequence number, exceptions included, 0 if none.

cdef int context_next(const Context* c, uint64_t actor, uint64_t* seq) noexcept nogil
# The sequence number of the actor's next dot. OVERFLOWED past 64 bits.

cdef int context_join(const Context* a, const Context* b, Buf* out) noexcept nogil
# Appends the union, canonical. Linear. Returns the buffer's status.

cdef int context_add(const Context* c, uint64_t actor, uint64_t seq, Buf* out) noexcept nogil
# Appends c with one more dot.

cdef int context_of_dots(const uint8_t* dots, size_t n, Buf* out) noexcept nogil
# Appends the context that holds exactly these sorted, unique dots: what a delta carries.

cdef int context_write(const Context* c, Buf* out) noexcept nogil
# Appends c as it is.

cdef int context_order(const Context* a, const Context* b, int* order) noexcept nogil
# bit 0: a is a subset of b, bit 1: b of a. Linear.

cdef bint context_covers(const Context* c, const uint8_t* dots, size_t n) noexcept nogil
# Are all these dots in c?

cdef bint dots_are_sorted(const uint8_t* dots, size_t n) noexcept nogil
# Strictly ascending, no zero actor, no zero sequence: what verify functions ask of dots.

cdef size_t dots_sort(uint8_t* dots, size_t n) noexcept nogil
# Sorts in place and drops repetitions; how many are left.


# --- stamps and the hybrid logical clock ------------------------------------------------------

cdef inline void stamp_load(const uint8_t* p, Stamp* s) noexcept nogil:
    memcpy(s, p, STAMP_SIZE)

cdef inline void stamp_store(uint8_t* p, const Stamp* s) noexcept nogil:
    memcpy(p, s, STAMP_SIZE)

cdef inline uint64_t hlc_pack(uint64_t ms, uint64_t logical) noexcept nogil:
    return ms << 16 | (logical & 0xFFFF)

cdef inline uint64_t hlc_ms(uint64_t hlc) noexcept nogil:
    return hlc >> 16

cdef inline uint64_t hlc_tick(uint64_t last, uint64_t now_ms) noexcept nogil:
    """The next reading after `last` and everything observed into it, at wall time `now_ms`.
    65,536 readings within one millisecond run into the next one: still strictly increasing."""
    cdef uint64_t wall = now_ms << 16
    return wall if wall > last else last + 1
