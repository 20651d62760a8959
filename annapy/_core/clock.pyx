# cython: language_level=3
"""The algebra of causal contexts. See clock.pxd for the encoding and its invariants.

Why one merge does everything: union, adding a dot and canonicalising a bare list of dots are all
the union of two contexts, so the folding rule stands in exactly one place (context_join).
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memmove

from annapy._core.codec cimport (
    CORRUPT, OK, OVERFLOWED, Buf, Cursor, Span, buf_put, buf_reserve, buf_varint, cur_left,
    cur_varint, cursor, likely, load_u64, store_u64, unlikely, varint_size, varint_store,
)

cdef enum:
    SCAN_MAX = 8     # below it a linear scan beats a binary search


cdef int read_pairs(Cursor* c, const uint8_t** pairs, size_t* n) noexcept nogil:
    cdef uint64_t count = 0
    if cur_varint(c, &count) != OK or count > cur_left(c) // DOT_SIZE:
        return CORRUPT
    pairs[0] = c.at
    n[0] = <size_t>count
    c.at += <size_t>count * DOT_SIZE
    return OK


cdef int context_read(Cursor* c, Context* out) noexcept nogil:
    if read_pairs(c, &out.vector, &out.vector_n) != OK:
        return CORRUPT
    return read_pairs(c, &out.dots, &out.dots_n)


cdef int context_of(Span bytes, Context* out) noexcept nogil:
    cdef Cursor c = cursor(bytes)
    context_clear(out)
    if bytes.len == 0:
        return OK
    if context_read(&c, out) != OK or c.at != c.end:
        return CORRUPT
    return OK


cdef int context_parse(Cursor* c, Context* out) noexcept nogil:
    cdef size_t i = 0
    cdef size_t at = 0
    cdef uint64_t actor, last = 0, upto
    if context_read(c, out) != OK:
        return CORRUPT
    for i in range(out.vector_n):
        actor = load_u64(out.vector + i * DOT_SIZE)
        if actor <= last or load_u64(out.vector + i * DOT_SIZE + 8) == 0:
            return CORRUPT
        last = actor
    if not dots_are_sorted(out.dots, out.dots_n):
        return CORRUPT
    for i in range(out.dots_n):
        actor = load_u64(out.dots + i * DOT_SIZE)
        while at < out.vector_n and load_u64(out.vector + at * DOT_SIZE) < actor:
            at += 1
        upto = 0
        if at < out.vector_n and load_u64(out.vector + at * DOT_SIZE) == actor:
            upto = load_u64(out.vector + at * DOT_SIZE + 8)
        # seq - 1 cannot wrap: dots_are_sorted refused a sequence of 0.
        if load_u64(out.dots + i * DOT_SIZE + 8) - 1 <= upto:
            return CORRUPT
    return OK


cdef uint64_t context_upto(const Context* c, uint64_t actor) noexcept nogil:
    cdef size_t low = 0
    cdef size_t high = c.vector_n
    cdef size_t middle
    cdef uint64_t x
    if high <= SCAN_MAX:
        for low in range(high):
            if load_u64(c.vector + low * DOT_SIZE) == actor:
                return load_u64(c.vector + low * DOT_SIZE + 8)
        return 0
    while low < high:
        middle = (low + high) // 2
        x = load_u64(c.vector + middle * DOT_SIZE)
        if x == actor:
            return load_u64(c.vector + middle * DOT_SIZE + 8)
        if x < actor:
            low = middle + 1
        else:
            high = middle
    return 0


cdef size_t dots_lower(const uint8_t* dots, size_t n, uint64_t actor, uint64_t seq) noexcept nogil:
    """How many of the sorted dots are less than (actor, seq)."""
    cdef size_t low = 0
    cdef size_t high = n
    cdef size_t middle
    cdef uint64_t x
    while low < high:
        middle = (low + high) // 2
        x = load_u64(dots + middle * DOT_SIZE)
        if x < actor or (x == actor and load_u64(dots + middle * DOT_SIZE + 8) < seq):
            low = middle + 1
        else:
            high = middle
    return low


cdef bint context_contains(const Context* c, uint64_t actor, uint64_t seq) noexcept nogil:
    cdef size_t at
    if seq <= context_upto(c, actor):
        return True
    if c.dots_n == 0:
        return False
    at = dots_lower(c.dots, c.dots_n, actor, seq)
    return (at < c.dots_n and load_u64(c.dots + at * DOT_SIZE) == actor
            and load_u64(c.dots + at * DOT_SIZE + 8) == seq)


cdef uint64_t context_last(const Context* c, uint64_t actor) noexcept nogil:
    cdef size_t at
    if c.dots_n:
        # The dot before the first one of any later actor.
        at = dots_lower(c.dots, c.dots_n, actor, <uint64_t>-1)
        if at < c.dots_n and load_u64(c.dots + at * DOT_SIZE) == actor:
            return <uint64_t>-1
        if at and load_u64(c.dots + (at - 1) * DOT_SIZE) == actor:
            return load_u64(c.dots + (at - 1) * DOT_SIZE + 8)
    return context_upto(c, actor)


cdef int context_next(const Context* c, uint64_t actor, uint64_t* seq) noexcept nogil:
    cdef uint64_t last = context_last(c, actor)
    if last == <uint64_t>-1:
        return OVERFLOWED
    seq[0] = last + 1
    return OK


# --- union ------------------------------------------------------------------------------------

cdef inline uint64_t head_actor(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """The actor at the head of a run of pairs; the greatest number at its end."""
    return load_u64(p) if p < end else <uint64_t>-1


cdef inline const uint8_t* least_dot(const uint8_t* a, const uint8_t* a_end,
                                     const uint8_t* b, const uint8_t* b_end) noexcept nogil:
    if a == a_end:
        return b
    if b == b_end:
        return a
    return a if dot_compare(a, b) <= 0 else b


cdef struct Union:             # the cursors of one merge
    const uint8_t* va
    const uint8_t* va_end
    const uint8_t* vb
    const uint8_t* vb_end
    const uint8_t* da
    const uint8_t* da_end
    const uint8_t* db
    const uint8_t* db_end
    uint8_t* vector            # where the next pair goes
    uint8_t* dots


cdef void union_actor(Union* u, uint64_t actor) noexcept nogil:
    """Everything of one actor: the greater prefix, then the dots, folded as they extend it."""
    cdef uint64_t upto = 0
    cdef uint64_t seq
    cdef uint64_t written = 0
    cdef const uint8_t* dot
    if u.va < u.va_end and load_u64(u.va) == actor:
        upto = load_u64(u.va + 8)
        u.va += DOT_SIZE
    if u.vb < u.vb_end and load_u64(u.vb) == actor:
        if load_u64(u.vb + 8) > upto:
            upto = load_u64(u.vb + 8)
        u.vb += DOT_SIZE
    while u.da < u.da_end or u.db < u.db_end:
        dot = least_dot(u.da, u.da_end, u.db, u.db_end)
        if load_u64(dot) != actor:
            break
        seq = load_u64(dot + 8)
        if dot == u.da:
            u.da += DOT_SIZE
        else:
            u.db += DOT_SIZE
        if seq <= upto or seq == written:
            continue
        if seq == upto + 1:              # no gap: dots ascend, so nothing was written before it
            upto = seq
            continue
        store_u64(u.dots, actor)
        store_u64(u.dots + 8, seq)
        u.dots += DOT_SIZE
        written = seq
    if upto:
        store_u64(u.vector, actor)
        store_u64(u.vector + 8, upto)
        u.vector += DOT_SIZE


cdef int context_join(const Context* a, const Context* b, Buf* out) noexcept nogil:
    cdef Union u
    cdef uint64_t actor, other
    cdef size_t most = (a.vector_n + b.vector_n + a.dots_n + b.dots_n) * DOT_SIZE
    cdef size_t vector_len, dots_len
    # The vector is built 10 bytes in (room for its count), the dots behind the vector's worst
    # case and another 10; both then move left. No count is known before the merge is done.
    cdef uint8_t* base = buf_reserve(out, most * 2 + 20)
    cdef uint8_t* vector0
    cdef uint8_t* dots0
    cdef uint8_t* p
    if base == NULL:
        return out.status
    vector0 = base + 10
    dots0 = vector0 + most + 10
    u.va, u.va_end = a.vector, a.vector + a.vector_n * DOT_SIZE
    u.vb, u.vb_end = b.vector, b.vector + b.vector_n * DOT_SIZE
    u.da, u.da_end = a.dots, a.dots + a.dots_n * DOT_SIZE
    u.db, u.db_end = b.dots, b.dots + b.dots_n * DOT_SIZE
    u.vector, u.dots = vector0, dots0
    while u.va < u.va_end or u.vb < u.vb_end or u.da < u.da_end or u.db < u.db_end:
        actor = head_actor(u.va, u.va_end)
        other = head_actor(u.vb, u.vb_end)
        actor = other if other < actor else actor
        other = head_actor(u.da, u.da_end)
        actor = other if other < actor else actor
        other = head_actor(u.db, u.db_end)
        actor = other if other < actor else actor
        union_actor(&u, actor)
    vector_len = <size_t>(u.vector - vector0)
    dots_len = <size_t>(u.dots - dots0)
    p = varint_store(base, vector_len // DOT_SIZE)
    memmove(p, vector0, vector_len)
    p = varint_store(p + vector_len, dots_len // DOT_SIZE)
    memmove(p, dots0, dots_len)
    out.len += <size_t>(p + dots_len - base)
    return OK


cdef int context_add(const Context* c, uint64_t actor, uint64_t seq, Buf* out) noexcept nogil:
    cdef uint8_t[DOT_SIZE] dot
    cdef Context one
    store_u64(dot, actor)
    store_u64(dot + 8, seq)
    context_of_sorted_dots(&one, dot, 1)
    return context_join(c, &one, out)


cdef int context_of_dots(const uint8_t* dots, size_t n, Buf* out) noexcept nogil:
    cdef Context empty, these
    context_clear(&empty)
    context_of_sorted_dots(&these, dots, n)
    return context_join(&empty, &these, out)


cdef int context_write(const Context* c, Buf* out) noexcept nogil:
    buf_varint(out, c.vector_n)
    buf_put(out, c.vector, c.vector_n * DOT_SIZE)
    buf_varint(out, c.dots_n)
    buf_put(out, c.dots, c.dots_n * DOT_SIZE)
    return out.status


# --- order ------------------------------------------------------------------------------------

cdef bint context_subset(const Context* a, const Context* b) noexcept nogil:
    """Is every dot of a in b? b is canonical, so a prefix of a can only lie in a prefix of b."""
    cdef size_t i, at = 0
    cdef const uint8_t* p
    for i in range(a.vector_n):
        p = a.vector + i * DOT_SIZE
        while at < b.vector_n and load_u64(b.vector + at * DOT_SIZE) < load_u64(p):
            at += 1
        if (at == b.vector_n or load_u64(b.vector + at * DOT_SIZE) != load_u64(p)
                or load_u64(b.vector + at * DOT_SIZE + 8) < load_u64(p + 8)):
            return False
    return context_covers(b, a.dots, a.dots_n)


cdef int context_order(const Context* a, const Context* b, int* order) noexcept nogil:
    order[0] = context_subset(a, b) | context_subset(b, a) << 1
    return OK


cdef bint context_covers(const Context* c, const uint8_t* dots, size_t n) noexcept nogil:
    cdef const uint8_t* dot = dots
    cdef const uint8_t* end = dots + n * DOT_SIZE
    while dot < end:
        if not context_contains(c, load_u64(dot), load_u64(dot + 8)):
            return False
        dot += DOT_SIZE
    return True


# --- lists of dots ----------------------------------------------------------------------------

cdef bint dots_are_sorted(const uint8_t* dots, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if load_u64(dots + i * DOT_SIZE) == 0 or load_u64(dots + i * DOT_SIZE + 8) == 0:
            return False
        if i and dot_compare(dots + (i - 1) * DOT_SIZE, dots + i * DOT_SIZE) >= 0:
            return False
    return True


cdef int dot_compare_void(const void* a, const void* b) noexcept nogil:
    return dot_compare(<const uint8_t*>a, <const uint8_t*>b)


cdef size_t dots_sort(uint8_t* dots, size_t n) noexcept nogil:
    cdef size_t i, kept = 1
    if n < 2:
        return n
    if not dots_are_sorted(dots, n):
        qsort(dots, n, DOT_SIZE, dot_compare_void)
    for i in range(1, n):
        if dot_compare(dots + i * DOT_SIZE, dots + (kept - 1) * DOT_SIZE) != 0:
            if kept != i:
                memcpy(dots + kept * DOT_SIZE, dots + i * DOT_SIZE, DOT_SIZE)
            kept += 1
    return kept
