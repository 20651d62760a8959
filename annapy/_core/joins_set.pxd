# cython: language_level=3
"""The framing that all collections share, the merge that joins them, and the sets.

Owns    the layout below; `coll_*` read and write it, here and nowhere else. joins_set.pyx has the
        merge, GSet, OrderedSet and ORSet; joins_map.pyx and the trees build on the framing.
Callers shard owners, the Python face, the tree: all nogil, pure over bytes, no state of their own.

    state   = varint prefix length · prefix · varint count · entry{count}
    entry   = varint key length · varint payload length · key · payload

              gset, ordered_set   map                      orset            ormap
    prefix    empty               empty                    causal context   causal context
    payload   empty               u8 tag · nested state    sorted dots      see joins_map.pyx

Invariants
    keys strictly ascend (memcmp, the shorter first); nothing follows the last entry
    the bottom is the empty span: an empty prefix with no entry is never spelled out
    given the two prefixes, entries join independently of each other: a join may be done on any
    subset of keys and put back entry by entry, which is what makes large collections cheap
    every dot of a payload is covered by the state's causal context
"""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from annapy._core.codec cimport (
    CORRUPT, OK, Buf, Cursor, Span, buf_reserve, buf_span, buf_varint, cur_counted, cur_left,
    cur_varint, cursor, likely, span, span_compare, varint_store,
)
from annapy._core.registry cimport join_fn


cdef struct Coll:            # an opened state; spans are borrowed from it
    Span prefix
    uint64_t count
    Cursor entries           # from the first entry to the end of the state


cdef struct Entry:           # one entry, borrowed: [start, next) are its bytes
    const uint8_t* start
    const uint8_t* next
    Span key
    Span payload


cdef extern from *:
    """
    #include <string.h>
    static inline uint64_t annapy_load_big(const uint8_t *p) {
        uint64_t x;
        memcpy(&x, p, 8);
        return __builtin_bswap64(x);
    }
    """
    uint64_t load_big "annapy_load_big"(const uint8_t* p) noexcept nogil


# --- reading --------------------------------------------------------------------------------

cdef inline int coll_open(Span state, Coll* c) noexcept nogil:
    """Head only. The empty span opens as an empty collection."""
    cdef Cursor at = cursor(state)
    c.prefix = span(state.ptr, 0)
    c.count = 0
    c.entries = at
    if state.len == 0:
        return OK
    if cur_counted(&at, &c.prefix) != OK or cur_varint(&at, &c.count) != OK:
        return CORRUPT
    c.entries = at
    return OK

cdef inline int coll_next(Cursor* c, Entry* e) noexcept nogil:
    """The next entry; the caller has looked that there is one (c.at < c.end)."""
    cdef uint64_t key_len = 0, payload_len = 0
    e.start = c.at
    if likely(cur_left(c) >= 2 and (c.at[0] | c.at[1]) < 0x80):
        key_len = c.at[0]
        payload_len = c.at[1]
        c.at += 2
    elif cur_varint(c, &key_len) != OK or cur_varint(c, &payload_len) != OK:
        return CORRUPT
    if key_len > cur_left(c) or payload_len > cur_left(c) - key_len:
        return CORRUPT
    e.key = span(c.at, <size_t>key_len)
    e.payload = span(c.at + key_len, <size_t>payload_len)
    c.at += key_len + payload_len
    e.next = c.at
    return OK

cdef inline int coll_step(Cursor* c, Entry* e, Span* last, uint64_t n) noexcept nogil:
    """The next entry of foreign bytes: its key must be greater than the last one's, for n > 0."""
    if coll_next(c, e) != OK or (n and span_compare(last[0], e.key) >= 0):
        return CORRUPT
    last[0] = e.key
    return OK

cdef inline int coll_seek(Cursor* c, Span key, Entry* e) noexcept nogil:
    """The entry of `key`, at the cursor or after it: 1 and the cursor past it, or 0 and the cursor
    at the first greater key; CORRUPT. Keys asked for in ascending order take one pass."""
    cdef Cursor at
    cdef int order
    while c.at < c.end:
        at = c[0]
        if coll_next(&at, e) != OK:
            return CORRUPT
        order = span_compare(e.key, key)
        if order > 0:
            return 0
        c[0] = at
        if order == 0:
            return 1
    return 0

cdef inline int key_compare(const Entry* a, const uint8_t* a_end, const Entry* b,
                            const uint8_t* b_end) noexcept nogil:
    """memcmp order, the shorter first; eight bytes at a time while both inputs have eight."""
    cdef const uint8_t* p = a.key.ptr
    cdef const uint8_t* q = b.key.ptr
    cdef size_t n = a.key.len if a.key.len < b.key.len else b.key.len
    cdef uint64_t x, y
    while n and a_end - p >= 8 and b_end - q >= 8:
        x = load_big(p)
        y = load_big(q)
        if n < 8:
            x >>= 64 - 8 * n
            y >>= 64 - 8 * n
        if x != y:
            return -1 if x < y else 1
        if n <= 8:
            n = 0
            break
        p += 8
        q += 8
        n -= 8
    while n:
        if p[0] != q[0]:
            return -1 if p[0] < q[0] else 1
        p += 1
        q += 1
        n -= 1
    if a.key.len == b.key.len:
        return 0
    return -1 if a.key.len < b.key.len else 1


# --- writing --------------------------------------------------------------------------------

cdef inline void coll_head(Buf* out, Span prefix, uint64_t count) noexcept nogil:
    """Prefix and count; the caller then appends `count` entries in ascending order."""
    buf_varint(out, prefix.len)
    buf_span(out, prefix)
    buf_varint(out, count)

cdef inline void coll_entry(Buf* out, Span key, Span payload) noexcept nogil:
    cdef uint8_t* to = buf_reserve(out, 20 + key.len + payload.len)
    if to == NULL:
        return
    to = varint_store(to, key.len)
    to = varint_store(to, payload.len)
    if key.len:
        memcpy(to, key.ptr, key.len)
    to += key.len
    if payload.len:
        memcpy(to, payload.ptr, payload.len)
    out.len = <size_t>(to + payload.len - out.ptr)

# --- the merge ------------------------------------------------------------------------------

cdef enum Verdict:
    DROP = 0             # the entry does not survive
    KEEP = 1             # it survives as it is (of two: as it is in the first)
    REPLACE = 2          # it survives with the payload left in `payload`

# What becomes of an entry that only one operand has (side 0: the first), or that both have with
# different payloads. Returns a Verdict, or a negative Status.
ctypedef int (*only_fn)(void* self, int side, const Entry* e, Buf* payload) noexcept nogil
ctypedef int (*both_fn)(void* self, const Entry* a, const Entry* b, Buf* payload) noexcept nogil

cdef struct Merge:
    void* self
    only_fn only         # NULL: it stays
    both_fn both         # NULL: entries with equal keys are equal

cdef int merge_entries(Cursor a, uint64_t count_a, Cursor b, uint64_t count_b, const Merge* m,
                       Buf* out) noexcept nogil
# Appends `varint count · entries` of the join to `out`. A Status.

cdef int members_sorted(Span arg, Span** members, size_t* count) noexcept nogil
# An operation's `members`, sorted and made unique; the caller frees *members (may be NULL).

cdef int order_by_join(join_fn join, Span a, Span b, int* order) noexcept nogil
# The order that every lattice has: a <= b iff their join is b. Costs a join.

cdef bint coll_is_empty(Span state) noexcept nogil
