# cython: language_level=3
"""Parse, check, write, join and order whole cells; cell.pxd has the layout and its invariants.

    (generation, tag) compares lexicographically; the lesser cell is dropped whole.
    On equal (generation, tag):  state x expiry x fields, each joined by itself:
        state    by the tag's lattice; of an unknown tag, the set of the states seen
        expiry   the later stamp; on a tie the later deadline
        fields   union of the types; the label with the later stamp, of others the greater bytes
Each factor is a lattice, so their product is, and so is the lexicographic sum over the total order
of (generation, tag): join here is associative, commutative and idempotent if every state's is.
"""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from annapy._core.codec cimport (
    CORRUPT, MISSING, OK, OVER_LIMIT, Buf, Cursor, Span, buf_counted, buf_fail, buf_free, buf_init,
    buf_put, buf_reserve, buf_span, buf_u16, buf_u64, buf_varint, cur_counted, cur_left, cur_rest,
    cur_take, cur_u8, cur_u16, cursor, load_u32, load_u64, span, span_compare, store_u32, unlikely,
)
from annapy._core.registry cimport LatticeType, lattice_of

cdef enum:
    FLAGS_KNOWN = CELL_GENERATION | CELL_EXPIRY | CELL_FIELDS | CELL_SIBLINGS
    BATCH_SIZE = 8
    PAYLOAD_SIZE = 16

assert sizeof(Stamp) == STAMP_SIZE


# --- fields -----------------------------------------------------------------------------------

cdef inline int field_next(Cursor* c, uint8_t* type, Span* value) noexcept nogil:
    cdef uint16_t length = 0
    if cur_u8(c, type) != OK or cur_u16(c, &length) != OK:
        return CORRUPT
    return cur_take(c, length, value)


cdef bint field_is_canonical(uint8_t type, Span value) noexcept nogil:
    """Known types have known sizes; of unknown ones nothing is asked."""
    if type == FIELD_BATCH:
        return value.len == BATCH_SIZE
    if type == FIELD_LABEL:
        return value.len >= STAMP_SIZE
    if type == FIELD_PAYLOAD:
        return value.len == PAYLOAD_SIZE
    return type != 0


cdef int fields_verify(Cursor* c, uint16_t n, Span* run) noexcept nogil:
    cdef const uint8_t* start = c.at
    cdef uint8_t type = 0
    cdef uint8_t last = 0
    cdef Span value
    cdef uint16_t i
    if n == 0:
        return CORRUPT
    for i in range(n):
        if (field_next(c, &type, &value) != OK or type <= last
                or not field_is_canonical(type, value)):
            return CORRUPT
        last = type
    run[0] = span(start, <size_t>(c.at - start))
    return OK


cdef int fields_find(Span fields, uint8_t type, Span* value) noexcept nogil:
    cdef Cursor c = cursor(fields)
    cdef uint8_t found = 0
    while cur_left(&c):
        if field_next(&c, &found, value) != OK or found > type:
            return MISSING
        if found == type:
            return OK
    return MISSING


cdef uint16_t fields_count(Span fields) noexcept nogil:
    cdef Cursor c = cursor(fields)
    cdef uint8_t type = 0
    cdef uint16_t n = 0
    cdef Span value
    while cur_left(&c) and field_next(&c, &type, &value) == OK:
        n += 1
    return n


cdef int field_compare(uint8_t type, Span a, Span b) noexcept nogil:
    """A total order on the values of one field type: the greater one is the join."""
    cdef Stamp x, y
    cdef int c
    if type == FIELD_LABEL:
        memcpy(&x, a.ptr, STAMP_SIZE)
        memcpy(&y, b.ptr, STAMP_SIZE)
        c = stamp_compare(&x, &y)
        if c:
            return c
    return span_compare(a, b)


cdef inline void field_put(Buf* out, uint8_t type, Span value) noexcept nogil:
    buf_put(out, &type, 1)
    buf_u16(out, <uint16_t>value.len)
    buf_span(out, value)


cdef void fields_join(Span a, Span b, Buf* out) noexcept nogil:
    """Appends the run of the union. Verified input."""
    cdef Cursor ca = cursor(a)
    cdef Cursor cb = cursor(b)
    cdef uint8_t ta = 0
    cdef uint8_t tb = 0
    cdef Span va = span(NULL, 0)
    cdef Span vb = va
    cdef bint more_a = cur_left(&ca) and field_next(&ca, &ta, &va) == OK
    cdef bint more_b = cur_left(&cb) and field_next(&cb, &tb, &vb) == OK
    while more_a or more_b:
        if more_a and more_b and ta == tb:
            field_put(out, ta, va if field_compare(ta, va, vb) >= 0 else vb)
            more_a = cur_left(&ca) and field_next(&ca, &ta, &va) == OK
            more_b = cur_left(&cb) and field_next(&cb, &tb, &vb) == OK
        elif more_a and (not more_b or ta < tb):
            field_put(out, ta, va)
            more_a = cur_left(&ca) and field_next(&ca, &ta, &va) == OK
        else:
            field_put(out, tb, vb)
            more_b = cur_left(&cb) and field_next(&cb, &tb, &vb) == OK


cdef bint fields_below(Span a, Span b) noexcept nogil:
    """Is every field of a in b, and not greater there?"""
    cdef Cursor c = cursor(a)
    cdef uint8_t type = 0
    cdef Span mine, theirs
    while cur_left(&c):
        if field_next(&c, &type, &mine) != OK:
            return False
        if fields_find(b, type, &theirs) != OK or field_compare(type, mine, theirs) > 0:
            return False
    return True


# --- parsing and writing ----------------------------------------------------------------------

cdef int siblings_verify(Span state) noexcept nogil:
    """Two or more states, strictly ascending: the set of them has one spelling."""
    cdef Cursor c = cursor(state)
    cdef Span last, next
    if cur_counted(&c, &last) != OK or cur_left(&c) == 0:
        return CORRUPT
    while cur_left(&c):
        if cur_counted(&c, &next) != OK or span_compare(last, next) >= 0:
            return CORRUPT
        last = next
    return OK


cdef int cell_parse(Span bytes, Cell* cell) noexcept nogil:
    cdef Cursor c
    cdef Span part
    cdef uint16_t n = 0
    if (bytes.len < HEADER_SIZE or bytes.len > CELL_SIZE_MAX or bytes.ptr[0] != CELL_FORMAT
            or bytes.ptr[2] & ~FLAGS_KNOWN or bytes.ptr[3] != 0
            or load_u32(bytes.ptr + 4) != bytes.len - HEADER_SIZE):
        return CORRUPT
    cell.tag = bytes.ptr[1]
    cell.flags = bytes.ptr[2]
    cell.generation.hlc = cell.generation.actor = cell.generation.client = 0
    cell.expiry_stamp.hlc = cell.expiry_stamp.actor = cell.expiry_stamp.client = 0
    cell.deadline_ms = 0
    cell.fields = span(NULL, 0)
    c = cursor(span(bytes.ptr + HEADER_SIZE, bytes.len - HEADER_SIZE))
    if cell.flags & CELL_GENERATION:
        if cur_take(&c, STAMP_SIZE, &part) != OK:
            return CORRUPT
        memcpy(&cell.generation, part.ptr, STAMP_SIZE)
        if stamp_is_zero(&cell.generation):
            return CORRUPT
    if cell.flags & CELL_EXPIRY:
        if cur_take(&c, EXPIRY_SIZE, &part) != OK:
            return CORRUPT
        cell.deadline_ms = load_u64(part.ptr)
        memcpy(&cell.expiry_stamp, part.ptr + 8, STAMP_SIZE)
        if stamp_is_zero(&cell.expiry_stamp):
            return CORRUPT
    if cell.flags & CELL_FIELDS:
        if cur_u16(&c, &n) != OK or fields_verify(&c, n, &cell.fields) != OK:
            return CORRUPT
    cell.state = cur_rest(&c)
    if cell.flags & CELL_SIBLINGS and siblings_verify(cell.state) != OK:
        return CORRUPT
    if cell.tag == TAG_NONE and cell.state.len:
        return CORRUPT
    return OK


cdef int cell_verify(Span bytes) noexcept nogil:
    cdef Cell cell
    cdef const LatticeType* lattice
    if cell_parse(bytes, &cell) != OK:
        return CORRUPT
    lattice = lattice_of(cell.tag)
    if lattice == NULL:
        return OK
    if cell.flags & CELL_SIBLINGS:
        return CORRUPT
    return lattice.verify(cell.state, 0)


cdef void cell_write_header(Buf* out, const Cell* cell, size_t state_len) noexcept nogil:
    cdef uint8_t* head = buf_reserve(out, HEADER_SIZE + STAMP_SIZE + EXPIRY_SIZE)
    cdef uint8_t* p
    cdef uint8_t flags = cell.flags & CELL_SIBLINGS
    cdef size_t fields_len = cell.fields.len + 2 if cell.fields.len else 0
    cdef size_t body
    if head == NULL:
        return
    p = head + HEADER_SIZE
    if not stamp_is_zero(&cell.generation):
        flags |= CELL_GENERATION
        memcpy(p, &cell.generation, STAMP_SIZE)
        p += STAMP_SIZE
    if not stamp_is_zero(&cell.expiry_stamp):
        flags |= CELL_EXPIRY
        memcpy(p, &cell.deadline_ms, 8)
        memcpy(p + 8, &cell.expiry_stamp, STAMP_SIZE)
        p += EXPIRY_SIZE
    if fields_len:
        flags |= CELL_FIELDS
    body = <size_t>(p - head) - HEADER_SIZE + fields_len + state_len
    if unlikely(state_len > CELL_SIZE_MAX or body + HEADER_SIZE > CELL_SIZE_MAX):
        buf_fail(out, OVER_LIMIT)
        return
    head[0] = CELL_FORMAT
    head[1] = cell.tag
    head[2] = flags
    head[3] = 0
    store_u32(head + 4, <unsigned int>body)
    out.len += <size_t>(p - head)
    if fields_len:
        buf_u16(out, fields_count(cell.fields))
        buf_span(out, cell.fields)


cdef void cell_write(Buf* out, const Cell* cell) noexcept nogil:
    cell_write_header(out, cell, cell.state.len)
    buf_span(out, cell.state)


# --- siblings of an unknown tag ---------------------------------------------------------------

cdef inline bint sibling_next(Cursor* c, bint many, Span* state) noexcept nogil:
    """The next of a cell's states: of a plain cell, its one state."""
    if many:
        return cur_left(c) != 0 and cur_counted(c, state) == OK
    if c.at == NULL:
        return False
    state[0] = cur_rest(c)
    c.at = NULL
    return True


cdef int siblings_union(const Cell* a, const Cell* b, Cell* joined, Buf* out) noexcept nogil:
    """Appends the sorted set of both cells' states; a set of one is a plain state."""
    cdef uint8_t nothing = 0
    cdef bint many_a = a.flags & CELL_SIBLINGS != 0
    cdef bint many_b = b.flags & CELL_SIBLINGS != 0
    # A plain empty state still is one state: its cursor must not be NULL.
    cdef Cursor ca = cursor(a.state if a.state.len else span(&nothing, 0))
    cdef Cursor cb = cursor(b.state if b.state.len else span(&nothing, 0))
    cdef Span sa = span(NULL, 0)
    cdef Span sb = sa
    cdef bint more_a = sibling_next(&ca, many_a, &sa)
    cdef bint more_b = sibling_next(&cb, many_b, &sb)
    cdef int c
    if not many_a and not many_b and span_compare(sa, sb) == 0:
        buf_span(out, sa)
        return out.status
    joined.flags |= CELL_SIBLINGS
    while more_a or more_b:
        c = -1 if not more_b else 1 if not more_a else span_compare(sa, sb)
        buf_counted(out, sa if c <= 0 else sb)
        if c <= 0:
            more_a = sibling_next(&ca, many_a, &sa)
        if c >= 0:
            more_b = sibling_next(&cb, many_b, &sb)
    return out.status


cdef int siblings_resolve(const LatticeType* lattice, Span list, Buf* out) noexcept nogil:
    """Appends the join of a list of foreign states."""
    cdef Cursor c = cursor(list)
    cdef Span next
    cdef Buf have, joined
    cdef int status = OK
    buf_init(&have)
    buf_init(&joined)
    while status == OK and cur_left(&c):
        status = cur_counted(&c, &next)
        if status == OK:
            status = lattice.verify(next, 0)
        if status == OK:
            joined.len = 0
            status = lattice.join(span(have.ptr, have.len), next, &joined)
        if status == OK:
            have, joined = joined, have
    if status == OK:
        buf_put(out, have.ptr, have.len)
        status = out.status
    buf_free(&have)
    buf_free(&joined)
    return status


cdef int cell_resolve(Span bytes, Buf* out) noexcept nogil:
    cdef Cell cell
    cdef const LatticeType* lattice
    cdef Buf state
    cdef int status
    if cell_parse(bytes, &cell) != OK:
        return CORRUPT
    lattice = lattice_of(cell.tag)
    if lattice == NULL or not cell.flags & CELL_SIBLINGS:
        status = cell_verify(bytes)
        if status == OK:
            buf_span(out, bytes)
            status = out.status
        return status
    buf_init(&state)
    status = siblings_resolve(lattice, cell.state, &state)
    if status == OK:
        cell.flags &= ~CELL_SIBLINGS
        cell.state = span(state.ptr, state.len)
        cell_write(out, &cell)
        status = out.status
    buf_free(&state)
    return status


# --- join and order ---------------------------------------------------------------------------

cdef int place_compare(const Cell* a, const Cell* b) noexcept nogil:
    """(generation, tag), lexicographically."""
    cdef int c = stamp_compare(&a.generation, &b.generation)
    if c:
        return c
    return (a.tag > b.tag) - (a.tag < b.tag)


cdef int expiry_compare(const Cell* a, const Cell* b) noexcept nogil:
    cdef int c = stamp_compare(&a.expiry_stamp, &b.expiry_stamp)
    if c:
        return c
    return (a.deadline_ms > b.deadline_ms) - (a.deadline_ms < b.deadline_ms)


cdef int same_place_join(const Cell* a, const Cell* b, Buf* out) noexcept nogil:
    """The product of the factors, for two cells of one generation and tag."""
    cdef const LatticeType* lattice = lattice_of(a.tag)
    cdef Cell joined = a[0]
    cdef Buf state, fields
    cdef int status
    buf_init(&state)
    buf_init(&fields)
    joined.flags = 0
    if lattice != NULL:
        # Unresolved siblings are not a state: a join would misread them.
        status = CORRUPT if (a.flags | b.flags) & CELL_SIBLINGS else OK
        if status == OK:
            status = lattice.join(a.state, b.state, &state)
    elif a.tag == TAG_NONE:
        status = OK
    else:
        status = siblings_union(a, b, &joined, &state)
    if expiry_compare(a, b) < 0:
        joined.deadline_ms = b.deadline_ms
        joined.expiry_stamp = b.expiry_stamp
    if a.fields.len or b.fields.len:
        fields_join(a.fields, b.fields, &fields)
    if status == OK:
        status = fields.status
    if status == OK:
        joined.fields = span(fields.ptr, fields.len)
        joined.state = span(state.ptr, state.len)
        cell_write(out, &joined)
        status = out.status
    buf_free(&state)
    buf_free(&fields)
    return status


cdef int cell_join(Span a, Span b, Buf* out) noexcept nogil:
    cdef Cell x, y
    cdef int c
    if cell_parse(a, &x) != OK or cell_parse(b, &y) != OK:
        return CORRUPT
    c = place_compare(&x, &y)
    if c == 0:
        return same_place_join(&x, &y, out)
    buf_span(out, a if c > 0 else b)
    return out.status


cdef bint siblings_below(const Cell* a, const Cell* b) noexcept nogil:
    """Is the set of a's states a subset of b's?"""
    cdef uint8_t nothing = 0
    cdef bint many_a = a.flags & CELL_SIBLINGS != 0
    cdef bint many_b = b.flags & CELL_SIBLINGS != 0
    cdef Cursor ca = cursor(a.state if a.state.len else span(&nothing, 0))
    cdef Cursor cb = cursor(b.state if b.state.len else span(&nothing, 0))
    cdef Span sa = span(NULL, 0)
    cdef Span sb = sa
    cdef int c
    while sibling_next(&ca, many_a, &sa):
        c = 1
        while c > 0:
            if not sibling_next(&cb, many_b, &sb):
                return False
            c = span_compare(sa, sb)
        if c < 0:
            return False
    return True


cdef int cell_order(Span a, Span b, int* order) noexcept nogil:
    cdef Cell x, y
    cdef const LatticeType* lattice
    cdef int c
    if cell_parse(a, &x) != OK or cell_parse(b, &y) != OK:
        return CORRUPT
    c = place_compare(&x, &y)
    if c:
        order[0] = 1 if c < 0 else 2
        return OK
    lattice = lattice_of(x.tag)
    if lattice != NULL:
        if (x.flags | y.flags) & CELL_SIBLINGS:
            return CORRUPT
        c = lattice.order(x.state, y.state, order)
        if c != OK:
            return c
    else:
        order[0] = siblings_below(&x, &y) | siblings_below(&y, &x) << 1
    c = expiry_compare(&x, &y)
    if c:
        order[0] &= 1 if c < 0 else 2
    order[0] &= fields_below(x.fields, y.fields) | fields_below(y.fields, x.fields) << 1
    return OK
