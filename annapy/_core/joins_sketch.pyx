# cython: language_level=3
"""HyperLogLog: how many distinct members were seen, in 16 KiB at most.

Owns    the state: its checks, join, order, delta and estimate. Pure functions over bytes.

    offset  size
    0       1     p      precision, 4 to 16; m = 2^p registers
    1       1     form   0 sparse, 1 dense
    2       3k    sparse (u16 index, u8 rank)*     indices ascend, ranks > 0, 1 <= k <= m / 4
    2       m     dense  one rank a register       more than m / 4 are not 0

A member's hash is hash64(its encoding, seed 0), part of the format. The register is its top p
bits; the rank is one more than the zeros that follow them, at most 65 - p.

Invariants
    the empty state is the bottom; equal states have equal bytes: the form follows from k
    the join is the maximum per register. Of two precisions the lower wins: the finer sketch is
        folded, exactly as if its members had been seen at the coarser precision, so a lower
        precision lies above and the laws hold
Source  Flajolet, Fusy, Gandouet, Meunier 2007, "HyperLogLog"; Ertl 2017, "New cardinality
        estimation algorithms for HyperLogLog sketches" (the improved raw estimator).
"""
from libc.math cimport INFINITY, log, sqrt
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from annapy._core.cell cimport TAG_HLL
from annapy._core.codec cimport (
    BAD_OPERATION, CORRUPT, OK, Buf, Cursor, Span, buf_clear, buf_free, buf_init, buf_put,
    buf_reserve, buf_span, buf_u8, cur_counted, cur_left, cur_varint, cursor, load_u16, span,
    span_equal, span_of_bytes, store_u16,
)
from annapy._core.hashing cimport hash64
from annapy._core.registry cimport OP_ADD, LatticeType, Op, lattice_register

cdef extern from *:
    """
    /* out = max(out, ranks), and how many are not 0: two loops, each of which gcc vectorises. */
    static inline void annapy_ranks_max(unsigned char *restrict out,
                                        const unsigned char *restrict ranks, size_t m) {
        for (size_t i = 0; i < m; i++) out[i] = out[i] > ranks[i] ? out[i] : ranks[i];
    }
    static inline size_t annapy_ranks_count(const unsigned char *ranks, size_t m) {
        size_t n = 0;
        for (size_t i = 0; i < m; i++) n += ranks[i] != 0;
        return n;
    }
    """
    void ranks_max "annapy_ranks_max"(uint8_t* out, const uint8_t* ranks, size_t m) noexcept nogil
    size_t ranks_count "annapy_ranks_count"(const uint8_t* ranks, size_t m) noexcept nogil
    int leading_zeros "__builtin_clzll"(unsigned long long x) noexcept nogil

cdef enum:
    PRECISION = 14
    PRECISION_MIN = 4
    PRECISION_MAX = 16
    HEAD = 2
    SPARSE = 0
    DENSE = 1
    ITEM = 3                  # index, rank

cdef struct Sketch:           # a parsed state; the ranks are borrowed from it
    int p
    int form
    const uint8_t* at         # items or registers
    size_t n                  # how many


cdef inline Sketch sketch_of(Span state) noexcept nogil:
    """Of a verified state that is not empty."""
    cdef Sketch s
    s.p = state.ptr[0]
    s.form = state.ptr[1]
    s.at = state.ptr + HEAD
    s.n = (state.len - HEAD) / ITEM if s.form == SPARSE else state.len - HEAD
    return s


cdef inline size_t sparse_max(int p) noexcept nogil:
    return (<size_t>1 << p) >> 2


cdef int hll_verify(Span state, int depth) noexcept nogil:
    cdef size_t i, m
    cdef int p, rank_max, last = -1
    cdef const uint8_t* at = state.ptr + HEAD
    if state.len == 0:
        return OK
    if state.len < HEAD or state.ptr[0] < PRECISION_MIN or state.ptr[0] > PRECISION_MAX:
        return CORRUPT
    p = state.ptr[0]
    m = <size_t>1 << p
    rank_max = 65 - p
    if state.ptr[1] == DENSE:
        if state.len != HEAD + m or ranks_count(at, m) <= sparse_max(p):
            return CORRUPT
        for i in range(m):
            if at[i] > rank_max:
                return CORRUPT
        return OK
    if state.ptr[1] != SPARSE or state.len == HEAD or (state.len - HEAD) % ITEM:
        return CORRUPT
    if (state.len - HEAD) / ITEM > sparse_max(p):
        return CORRUPT
    while at < state.ptr + state.len:
        if load_u16(at) <= last or load_u16(at) >= m or at[2] == 0 or at[2] > rank_max:
            return CORRUPT
        last = load_u16(at)
        at += ITEM
    return OK


# --- building ---------------------------------------------------------------------------------

cdef inline void raise_rank(uint8_t* ranks, size_t index, int rank) noexcept nogil:
    if ranks[index] < rank:
        ranks[index] = <uint8_t>rank


cdef void absorb(uint8_t* ranks, int p, const Sketch* s) noexcept nogil:
    """Joins a sketch into dense registers of precision p <= s.p."""
    cdef size_t i, index, rest
    cdef int rank, dropped = s.p - p
    if s.form == DENSE and dropped == 0:
        ranks_max(ranks, s.at, s.n)
        return
    for i in range(s.n):
        if s.form == DENSE:
            index = i
            rank = s.at[i]
            if rank == 0:
                continue
        else:
            index = load_u16(s.at + ITEM * i)
            rank = s.at[ITEM * i + 2]
        if dropped:
            rest = index & ((<size_t>1 << dropped) - 1)
            index >>= dropped
            # The bits that leave the index are the first that the rank now counts.
            rank = dropped - 63 + leading_zeros(rest) if rest else dropped + rank
        raise_rank(ranks, index, rank)


cdef uint8_t* dense_begin(Buf* out, int p) noexcept nogil:
    """Zeroed registers behind the head; dense_end makes a state of them. NULL: no memory."""
    cdef size_t m = <size_t>1 << p
    cdef uint8_t* to = buf_reserve(out, HEAD + m + ITEM * sparse_max(p))
    if to == NULL:
        return NULL
    memset(to + HEAD, 0, m)
    return to + HEAD


cdef void dense_end(Buf* out, int p, uint8_t* ranks) noexcept nogil:
    """The form that the registers call for; nothing at all if they are all zero."""
    cdef size_t i, m = <size_t>1 << p
    cdef size_t n = ranks_count(ranks, m)
    cdef uint8_t* head = ranks - HEAD
    cdef uint8_t* item = ranks + m                  # room that dense_begin has made
    if n == 0:
        return
    head[0] = <uint8_t>p
    head[1] = DENSE
    if n > sparse_max(p):
        out.len += HEAD + m
        return
    head[1] = SPARSE
    for i in range(m):
        if ranks[i]:
            store_u16(item, <uint16_t>i)
            item[2] = ranks[i]
            item += ITEM
    memmove(ranks, ranks + m, ITEM * n)
    out.len += HEAD + ITEM * n


cdef int join_sparse(const Sketch* a, const Sketch* b, Buf* out) noexcept nogil:
    """Of one precision. May turn dense."""
    cdef const uint8_t* p = a.at
    cdef const uint8_t* q = b.at
    cdef const uint8_t* p_end = p + ITEM * a.n
    cdef const uint8_t* q_end = q + ITEM * b.n
    cdef size_t start = out.len, i, n
    cdef uint16_t x, y
    cdef uint8_t* ranks
    cdef uint8_t* to = buf_reserve(out, HEAD + ITEM * (a.n + b.n))
    if to == NULL:
        return out.status
    to[0] = <uint8_t>a.p
    to[1] = SPARSE
    to += HEAD
    while p < p_end or q < q_end:
        x = load_u16(p) if p < p_end else 0xFFFF
        y = load_u16(q) if q < q_end else 0xFFFF
        if q >= q_end or (p < p_end and x < y):
            memcpy(to, p, ITEM)
            p += ITEM
        elif p >= p_end or y < x:
            memcpy(to, q, ITEM)
            q += ITEM
        else:
            memcpy(to, p if p[2] >= q[2] else q, ITEM)
            p += ITEM
            q += ITEM
        to += ITEM
    n = (to - out.ptr - start - HEAD) / ITEM
    if n <= sparse_max(a.p):
        out.len += HEAD + ITEM * n
        return OK
    ranks = dense_begin(out, a.p)                   # over the items: they are read again from a, b
    if ranks == NULL:
        return out.status
    absorb(ranks, a.p, a)
    absorb(ranks, a.p, b)
    dense_end(out, a.p, ranks)
    return OK


# --- the lattice ------------------------------------------------------------------------------

cdef int hll_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Sketch x, y
    cdef uint8_t* ranks
    cdef int p
    if a.len == 0 or b.len == 0:
        buf_span(out, a if a.len else b)
        return out.status
    x = sketch_of(a)
    y = sketch_of(b)
    if x.p == y.p and x.form == SPARSE and y.form == SPARSE:
        return join_sparse(&x, &y, out)
    if x.p == y.p:
        # One side is dense, and stays so: nothing has to be counted.
        buf_span(out, a if x.form == DENSE else b)
        if out.status == OK:
            absorb(out.ptr + out.len - (<size_t>1 << x.p), x.p, &y if x.form == DENSE else &x)
        return out.status
    p = x.p if x.p < y.p else y.p
    ranks = dense_begin(out, p)
    if ranks == NULL:
        return out.status
    absorb(ranks, p, &x)
    absorb(ranks, p, &y)
    dense_end(out, p, ranks)
    return OK


cdef int hll_order(Span a, Span b, int* order) noexcept nogil:
    cdef Buf joined
    cdef Span s
    cdef int status
    buf_init(&joined)
    status = hll_join(a, b, &joined)
    s = span(joined.ptr, joined.len)
    order[0] = span_equal(s, b) | span_equal(s, a) << 1
    buf_free(&joined)
    return status


cdef int rank_at(const Sketch* s, size_t index) noexcept nogil:
    """The rank of one register."""
    cdef size_t low = 0, high = s.n, middle
    if s.form == DENSE:
        return s.at[index]
    while low < high:
        middle = (low + high) >> 1
        if load_u16(s.at + ITEM * middle) < index:
            low = middle + 1
        else:
            high = middle
    if low < s.n and load_u16(s.at + ITEM * low) == index:
        return s.at[ITEM * low + 2]
    return 0


cdef inline int rank_of(uint64_t h, int p) noexcept nogil:
    """The set bit below the hash's last one bounds the rank at 65 - p."""
    return leading_zeros(h << p | <uint64_t>1 << (p - 1)) + 1


cdef int hll_add(Span old, int p, Span arg, Buf* delta) noexcept nogil:
    """The registers that `arg`, a run of members, raises. p: precision if `old` is empty."""
    cdef Cursor c = cursor(arg)
    cdef Sketch s
    cdef Span member
    cdef uint8_t* ranks = NULL
    cdef uint64_t count = 0, i, h
    cdef int rank
    s.p, s.form, s.at, s.n = p, SPARSE, NULL, 0
    if old.len:
        s = sketch_of(old)
    if cur_varint(&c, &count) != OK:
        return BAD_OPERATION
    if count != 1:
        ranks = dense_begin(delta, s.p)
        if ranks == NULL:
            return delta.status
    for i in range(count):
        if cur_counted(&c, &member) != OK:
            return BAD_OPERATION
        h = hash64(member.ptr, member.len, 0)
        rank = rank_of(h, s.p)
        if rank <= rank_at(&s, h >> (64 - s.p)):
            continue
        if count != 1:
            raise_rank(ranks, h >> (64 - s.p), rank)
            continue
        buf_u8(delta, <uint8_t>s.p)
        buf_u8(delta, SPARSE)
        h >>= 64 - s.p
        buf_put(delta, &h, 2)
        buf_u8(delta, <uint8_t>rank)
    if cur_left(&c):
        return BAD_OPERATION
    if count != 1:
        dense_end(delta, s.p, ranks)
    return delta.status


cdef int hll_mutate(Span old, const Op* op, Buf* delta) noexcept nogil:
    """OP_ADD of members. The bottom if no register rises."""
    if op.code != OP_ADD:
        return BAD_OPERATION
    return hll_add(old, PRECISION, op.arg, delta)


cdef bint hll_is_empty(Span state) noexcept nogil:
    return state.len == 0


# --- the estimate -----------------------------------------------------------------------------

cdef double sigma(double x) noexcept nogil:
    """x + sum over k >= 1 of x^(2^k) 2^(k - 1): what the empty registers contribute."""
    cdef double y = 1, z = x, last = -1
    if x == 1:
        return INFINITY
    while z != last:
        last = z
        x *= x
        z += x * y
        y += y
    return z


cdef double tau(double x) noexcept nogil:
    """What the saturated registers contribute."""
    cdef double y = 1, z = 1 - x, last = -1
    if x == 0 or x == 1:
        return 0
    while z != last:
        last = z
        x = sqrt(x)
        y *= 0.5
        z -= (1 - x) * (1 - x) * y
    return z / 3


cdef uint64_t hll_estimate(Span state) noexcept nogil:
    cdef Sketch s
    cdef size_t counts[66]
    cdef size_t i
    cdef double m, z
    cdef int k, q
    if state.len == 0:
        return 0
    s = sketch_of(state)
    q = 64 - s.p
    m = <double>(<size_t>1 << s.p)
    memset(counts, 0, sizeof(counts))
    for i in range(s.n):
        counts[s.at[i] if s.form == DENSE else s.at[ITEM * i + 2]] += 1
    if s.form == SPARSE:
        counts[0] = (<size_t>1 << s.p) - s.n
    z = m * tau(1 - counts[q + 1] / m)
    for k in range(q, 0, -1):
        z = 0.5 * (z + counts[k])
    z += m * sigma(counts[0] / m)
    z = m * m / (2 * log(2) * z) + 0.5
    return <uint64_t>z if z < 18446744073709551615.0 else <uint64_t>-1    # all ranks at their end


# --- registration -----------------------------------------------------------------------------

cdef void declare() noexcept:
    cdef LatticeType t
    t.tag = TAG_HLL
    t.flags = 0
    t.kind = b"hll"
    t.verify = hll_verify
    t.join = hll_join
    t.order = hll_order
    t.mutate = hll_mutate
    t.is_empty = hll_is_empty
    lattice_register(&t)


declare()


# --- for the Python face ----------------------------------------------------------------------

def estimate(bytes state not None):
    """How many distinct members a verified state has seen."""
    return hll_estimate(span_of_bytes(state))


def delta(bytes state not None, int precision, bytes arg not None):
    """What adding members changes; `precision` counts only at the bottom."""
    cdef Buf out
    cdef int status
    if not PRECISION_MIN <= precision <= PRECISION_MAX:
        raise ValueError(f"a precision is {PRECISION_MIN} to {PRECISION_MAX}, not {precision}")
    buf_init(&out)
    try:
        status = hll_add(span_of_bytes(state), precision, span_of_bytes(arg), &out)
        if status == BAD_OPERATION:
            raise TypeError("not a run of members")
        if status != OK:
            raise MemoryError("no memory for a sketch")
        return (<char*>out.ptr)[:out.len]
    finally:
        buf_free(&out)
