# cython: language_level=3
"""The lattices as Python sees them: functions over bytes objects, no state, no classes.

Owns    the translation of statuses into the errors of annapy.errors, and of Python's numbers and
        strings into an operation's argument bytes.
Callers annapy.lattice and the tests. Stores go through the engine and never come here per call.
Threads any; the GIL is held, but released for joins of more than RELEASE_MIN bytes.

Importing this module completes the registry: it imports every joins_* module.
Unless said otherwise a function takes canonical states as `bytes` and trusts them: what came from
outside goes through verify or cell_verify first. All are O(size of the input).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from annapy._core.cell cimport (
    CELL_SIBLINGS, Cell, Stamp, cell_join as _cell_join, cell_order as _cell_order, cell_parse,
    cell_resolve as _cell_resolve, cell_verify as _cell_verify, cell_write, stamp_is_zero,
    TAG_CAUSAL, TAG_CLOCK, TAG_FLAG, TAG_GCOUNTER, TAG_GSET, TAG_HLL, TAG_LWW, TAG_MAP,
    TAG_MAXARRAY, TAG_MAXFLOAT, TAG_MAXINT, TAG_MINFLOAT, TAG_MININT, TAG_MULTICAUSAL,
    TAG_MVREGISTER, TAG_NONE, TAG_ORDERED_SET, TAG_ORMAP, TAG_ORSET, TAG_PNCOUNTER, TAG_PRIORITY,
    TAG_SUMARRAY, TAG_USER,
)
from annapy._core.clock cimport (
    Context, context_contains as _context_contains, context_join as _context_join,
    context_next as _context_next, context_of, context_of_dots as _context_of_dots,
    context_order as _context_order, context_parse, dots_sort,
)
from annapy._core.codec cimport (
    BAD_OPERATION, BUSY, CORRUPT, MISSING, NO_MEMORY, NOT_A_NUMBER, OK, OVER_LIMIT, OVERFLOWED,
    SUPERSEDED, WRONG_SHAPE, WRONG_TYPE, Buf, Cursor, Span, buf_free, buf_init, cur_left, cursor,
    load_f64, load_u64, span, span_of_bytes, store_f64, store_u64,
)
from annapy._core.hashing cimport hash64
from annapy._core.registry cimport (
    LATTICE_COLLECTION, LATTICE_DOTTED, LatticeType, Op, lattice_of,
    OP_ADD, OP_CLEAR, OP_ENABLE, OP_MERGE, OP_NONE, OP_OBSERVE, OP_OFFER, OP_REMOVE, OP_SET,
    OP_UPDATE,
)

import annapy._core.joins_scalar
import annapy._core.joins_set
import annapy._core.joins_causal
import annapy._core.joins_user
import annapy._core.joins_map
import annapy._core.joins_ormap
import annapy._core.joins_array
import annapy._core.joins_sketch

cdef enum:
    RELEASE_MIN = 1 << 16

TAGS = {
    "none": TAG_NONE, "maxint": TAG_MAXINT, "minint": TAG_MININT, "maxfloat": TAG_MAXFLOAT,
    "minfloat": TAG_MINFLOAT, "flag": TAG_FLAG, "register": TAG_LWW, "priority": TAG_PRIORITY,
    "gcounter": TAG_GCOUNTER, "counter": TAG_PNCOUNTER, "gset": TAG_GSET, "orset": TAG_ORSET,
    "ordered_set": TAG_ORDERED_SET, "map": TAG_MAP, "ormap": TAG_ORMAP, "clock": TAG_CLOCK,
    "mvregister": TAG_MVREGISTER, "causal": TAG_CAUSAL, "multicausal": TAG_MULTICAUSAL,
    "maxarray": TAG_MAXARRAY, "sumarray": TAG_SUMARRAY, "hll": TAG_HLL, "lattice": TAG_USER,
}
KINDS = {tag: kind for kind, tag in TAGS.items()}
OPS = {
    "none": OP_NONE, "set": OP_SET, "add": OP_ADD, "remove": OP_REMOVE, "observe": OP_OBSERVE,
    "enable": OP_ENABLE, "offer": OP_OFFER, "update": OP_UPDATE, "clear": OP_CLEAR,
    "merge": OP_MERGE,
}


# --- statuses ---------------------------------------------------------------------------------

cdef object error_of(int status, str what):
    """The exception for a status. Cold: annapy.errors is imported here and not at the top."""
    from annapy import errors
    if status == CORRUPT:
        return errors.CorruptCellError(f"{what}: the bytes are not its canonical encoding")
    if status == NO_MEMORY:
        return errors.CapacityError(f"{what}: out of memory")
    if status == OVERFLOWED:
        return OverflowError(f"{what}: the result would not fit 64 bits; nothing was changed")
    if status == WRONG_TYPE:
        return errors.LatticeTypeError(f"{what}: another lattice is there")
    if status == OVER_LIMIT:
        return ValueError(f"{what}: past a limit (see annapy.limits); nothing was changed")
    if status == NOT_A_NUMBER:
        return ValueError(f"{what}: NaN has no place in an order; nothing was changed")
    if status == WRONG_SHAPE:
        return ValueError(f"{what}: the array has another shape or dtype; nothing was changed")
    if status == BAD_OPERATION:
        return TypeError(f"{what}: it has no such operation, or not with this argument")
    if status == MISSING:
        return KeyError(what)
    if status == BUSY:
        return TimeoutError(f"{what}: not in time")
    return RuntimeError(f"{what}: unexpected status {status}")


cdef str name_of(int tag):
    return KINDS.get(tag, f"lattice with tag {tag}")


cdef object finish(Buf* out, int status, object what):
    """The buffer as bytes, freed in every case; `what` is a tag or a noun for the message."""
    cdef object result = None
    if status == OK:
        status = out.status
    try:
        if status == OK:
            result = PyBytes_FromStringAndSize(<const char*>out.ptr, <Py_ssize_t>out.len)
    finally:
        buf_free(out)
    if result is None:
        raise error_of(status, name_of(what) if isinstance(what, int) else what)
    return result


cdef const LatticeType* require(int tag) except NULL:
    cdef const LatticeType* lattice = lattice_of(<uint8_t>tag) if 0 <= tag < 256 else NULL
    if lattice == NULL:
        raise error_of(WRONG_TYPE, f"no lattice is registered under tag {tag}")
    return lattice


# --- states -----------------------------------------------------------------------------------

def join(int tag, bytes a not None, bytes b not None):
    """The least upper bound of two states."""
    cdef const LatticeType* lattice = require(tag)
    cdef Span x = span_of_bytes(a)
    cdef Span y = span_of_bytes(b)
    cdef Buf out
    cdef int status
    if y.len == 0:
        return a
    if x.len == 0:
        return b
    buf_init(&out)
    if x.len + y.len > RELEASE_MIN:
        with nogil:
            status = lattice.join(x, y, &out)
    else:
        status = lattice.join(x, y, &out)
    return finish(&out, status, tag)


def order(int tag, bytes a not None, bytes b not None):
    """bit 0: a <= b, bit 1: b <= a; 3: equal, 0: concurrent."""
    cdef int result = 0
    cdef int status = require(tag).order(span_of_bytes(a), span_of_bytes(b), &result)
    if status != OK:
        raise error_of(status, name_of(tag))
    return result


def verify(int tag, bytes state not None, int depth=0):
    """Raises CorruptCellError unless the bytes are a canonical state."""
    cdef int status = require(tag).verify(span_of_bytes(state), depth)
    if status != OK:
        raise error_of(status, f"state of a {name_of(tag)}, {len(state)} bytes")


def is_empty(int tag, bytes state not None):
    """Is nothing observable left: the bottom, or only causal context?"""
    return bool(require(tag).is_empty(span_of_bytes(state)))


def is_dotted(int tag):
    """Is it deleted by observed-remove inside its generation?"""
    return (require(tag).flags & LATTICE_DOTTED) != 0


def is_collection(int tag):
    """Is its state a prefix and sorted entries?"""
    return (require(tag).flags & LATTICE_COLLECTION) != 0


cdef int stamp_of(object stamp, Stamp* out) except -1:
    out.hlc = out.actor = out.client = 0
    if stamp is not None:
        hlc, actor, client = stamp
        out.hlc = hlc
        out.actor = actor
        out.client = client
    return 0


cdef bytes mutate_to(int tag, bytes state, int code, bytes arg, uint64_t actor, object stamp,
                     bint whole):
    cdef const LatticeType* lattice = require(tag)
    cdef Op op
    cdef Buf delta, out
    cdef Span old = span_of_bytes(state)
    cdef int status
    op.code = <uint8_t>code
    op.tag = <uint8_t>tag
    op.flags = 0
    op.depth = 0
    op.arg = span_of_bytes(arg)
    op.actor = actor
    stamp_of(stamp, &op.stamp)
    buf_init(&delta)
    status = lattice.mutate(old, &op, &delta)
    if status == SUPERSEDED:             # nothing changes: the delta is the bottom
        status = OK
        delta.len = 0
    if not whole or status != OK or delta.status != OK:
        return finish(&delta, status, tag)
    buf_init(&out)
    status = lattice.join(old, span(delta.ptr, delta.len), &out)
    buf_free(&delta)
    return finish(&out, status, tag)


def mutate(int tag, bytes state not None, int code, bytes arg not None=b"", uint64_t actor=0,
           stamp=None):
    """The delta of one operation: a state, to be joined wherever `state` has arrived.

    code: one of OPS; actor: in whose name dots and columns are minted; stamp: (hlc, actor, client).
    """
    return mutate_to(tag, state, code, arg, actor, stamp, False)


def apply(int tag, bytes state not None, int code, bytes arg not None=b"", uint64_t actor=0,
          stamp=None):
    """The state after one operation: join(state, mutate(state, ...))."""
    return mutate_to(tag, state, code, arg, actor, stamp, True)


# --- cells ------------------------------------------------------------------------------------

cdef object stamp_or_none(const Stamp* s):
    return None if stamp_is_zero(s) else (s.hlc, s.actor, s.client)


def cell_split(bytes cell not None):
    """(tag, state, generation, deadline in ms, expiry stamp, fields) of a verified cell.

    A stamp is (hlc, actor, client) or None; fields is the run of (type, length, bytes).
    """
    cdef Cell c
    if cell_parse(span_of_bytes(cell), &c) != OK or c.flags & CELL_SIBLINGS:
        raise error_of(CORRUPT, f"cell of {len(cell)} bytes")
    return (
        c.tag,
        PyBytes_FromStringAndSize(<const char*>c.state.ptr, <Py_ssize_t>c.state.len),
        stamp_or_none(&c.generation),
        c.deadline_ms,
        stamp_or_none(&c.expiry_stamp),
        PyBytes_FromStringAndSize(<const char*>c.fields.ptr, <Py_ssize_t>c.fields.len)
        if c.fields.len else b"",
    )


def make_cell(int tag, bytes state not None=b"", generation=None, uint64_t deadline_ms=0,
              expiry_stamp=None, bytes fields not None=b""):
    """A whole cell around a state. `fields` is a run as cell_split returns it."""
    cdef Cell c
    cdef Buf out
    if not 0 <= tag < 256:
        raise ValueError(f"a tag is one byte, not {tag}")
    c.tag = <uint8_t>tag
    c.flags = 0
    stamp_of(generation, &c.generation)
    stamp_of(expiry_stamp, &c.expiry_stamp)
    c.deadline_ms = deadline_ms
    c.fields = span_of_bytes(fields)
    c.state = span_of_bytes(state)
    buf_init(&out)
    cell_write(&out, &c)
    return finish(&out, OK, "cell")


def cell_verify(bytes cell not None):
    """Raises CorruptCellError unless header and state are canonical."""
    if _cell_verify(span_of_bytes(cell)) != OK:
        raise error_of(CORRUPT, f"cell of {len(cell)} bytes")


def cell_resolve(bytes cell not None):
    """A foreign cell, checked, with the siblings joined that a node without its type kept."""
    cdef Buf out
    buf_init(&out)
    return finish(&out, _cell_resolve(span_of_bytes(cell), &out), f"cell of {len(cell)} bytes")


def cell_join(bytes a not None, bytes b not None):
    """The least upper bound of two verified cells."""
    cdef Buf out
    buf_init(&out)
    return finish(&out, _cell_join(span_of_bytes(a), span_of_bytes(b), &out), "join of cells")


def cell_order(bytes a not None, bytes b not None):
    """bit 0: a <= b, bit 1: b <= a."""
    cdef int result = 0
    if _cell_order(span_of_bytes(a), span_of_bytes(b), &result) != OK:
        raise error_of(CORRUPT, "order of cells")
    return result


# --- contexts ---------------------------------------------------------------------------------

cdef int open_context(bytes data, Context* c) except -1:
    cdef Cursor at = cursor(span_of_bytes(data))
    if context_of(span_of_bytes(data), c) != OK:
        raise error_of(CORRUPT, "causal context")
    if data and (context_parse(&at, c) != OK or cur_left(&at)):
        raise error_of(CORRUPT, "causal context")
    return 0


def context_join(bytes a not None, bytes b not None):
    """The union of two encoded causal contexts. CorruptCellError if one is not canonical."""
    cdef Context x, y
    cdef Buf out
    open_context(a, &x)
    open_context(b, &y)
    buf_init(&out)
    return finish(&out, _context_join(&x, &y, &out), "causal context")


def context_order(bytes a not None, bytes b not None):
    """bit 0: a is a subset of b, bit 1: b of a."""
    cdef Context x, y
    cdef int result = 0
    open_context(a, &x)
    open_context(b, &y)
    _context_order(&x, &y, &result)
    return result


def context_contains(bytes data not None, uint64_t actor, uint64_t seq):
    """Is the dot in it?"""
    cdef Context c
    open_context(data, &c)
    return bool(_context_contains(&c, actor, seq))


def context_next(bytes data not None, uint64_t actor):
    """The sequence number of the actor's next dot."""
    cdef Context c
    cdef uint64_t seq = 0
    open_context(data, &c)
    if _context_next(&c, actor, &seq) != OK:
        raise error_of(OVERFLOWED, "causal context")
    return seq


def context_make(dots):
    """The context that holds exactly these (actor, seq) pairs, in any order."""
    cdef bytearray flat = bytearray()
    cdef Buf out
    cdef size_t n
    for actor, seq in dots:
        if actor <= 0 or seq <= 0:
            raise ValueError(f"a dot's actor and sequence start at 1, not ({actor}, {seq})")
        flat += actor.to_bytes(8, "little") + seq.to_bytes(8, "little")
    n = dots_sort(<uint8_t*><char*>flat, len(flat) // 16)
    buf_init(&out)
    return finish(&out, _context_of_dots(<const uint8_t*><char*>flat, n, &out), "causal context")


def context_split(bytes data not None):
    """({actor: end of its prefix}, [(actor, seq) exceptions]) of an encoded context."""
    cdef Context c
    cdef size_t i
    open_context(data, &c)
    vector = {
        load_u64(c.vector + 16 * i): load_u64(c.vector + 16 * i + 8) for i in range(c.vector_n)
    }
    return vector, [
        (load_u64(c.dots + 16 * i), load_u64(c.dots + 16 * i + 8)) for i in range(c.dots_n)
    ]


# --- numbers ----------------------------------------------------------------------------------

def actor_id(actor):
    """The 64-bit id of an actor: an int as it is, a str or bytes by its hash (seed 0).

    ValueError for 0, OverflowError for what 64 bits don't hold, TypeError for another type.
    """
    cdef Py_ssize_t n = 0
    cdef const char* p
    cdef uint64_t x
    if isinstance(actor, str):
        p = PyUnicode_AsUTF8AndSize(actor, &n)
    elif isinstance(actor, bytes):
        p = PyBytes_AS_STRING(actor)
        n = PyBytes_GET_SIZE(actor)
    elif isinstance(actor, int) and not isinstance(actor, bool):
        x = actor
        if x == 0:
            raise ValueError("0 is not an actor: pass a name, or a number from 1 to 2**64 - 1")
        return x
    else:
        raise TypeError(f"an actor is a str, bytes or int, not {type(actor).__name__}")
    x = hash64(p, <size_t>n, 0)
    return x if x else 1                  # 0 is reserved


def i64(x):
    """Eight bytes of a signed integer. OverflowError past 64 bits, TypeError for another type."""
    cdef uint8_t[8] out
    cdef int64_t n
    if isinstance(x, float):
        raise TypeError("an integer is needed, not float")
    try:
        n = x
    except OverflowError:
        raise OverflowError(f"{x} does not fit 64 signed bits; nothing was changed") from None
    store_u64(out, <uint64_t>n)
    return PyBytes_FromStringAndSize(<const char*>out, 8)


def f64(x):
    """Eight bytes of a float; -0 becomes +0. ValueError for NaN."""
    cdef uint8_t[8] out
    cdef double value = x
    if value != value:
        raise error_of(NOT_A_NUMBER, "float")
    store_f64(out, value + 0.0)
    return PyBytes_FromStringAndSize(<const char*>out, 8)


def to_i64(bytes data not None):
    """The signed integer at the start of a state."""
    if len(data) < 8:
        raise error_of(CORRUPT, "integer")
    return <int64_t>load_u64(span_of_bytes(data).ptr)


def to_f64(bytes data not None):
    """The float at the start of a state."""
    if len(data) < 8:
        raise error_of(CORRUPT, "float")
    return load_f64(span_of_bytes(data).ptr)


def pairs(bytes state not None):
    """{actor: n} of a gcounter's or clock's state."""
    cdef Span s = span_of_bytes(state)
    cdef size_t i
    return {load_u64(s.ptr + 16 * i): load_u64(s.ptr + 16 * i + 8) for i in range(s.len // 16)}


def triples(bytes state not None):
    """{actor: (plus, minus)} of a pncounter's state."""
    cdef Span s = span_of_bytes(state)
    cdef size_t i
    return {
        load_u64(s.ptr + 24 * i): (load_u64(s.ptr + 24 * i + 8), load_u64(s.ptr + 24 * i + 16))
        for i in range(s.len // 24)
    }


def total(int tag, bytes state not None):
    """The value of a counter's state (gcounter or pncounter): an int of any size."""
    cdef Span s = span_of_bytes(state)
    cdef size_t i
    cdef uint64_t low = 0
    cdef int64_t high = 0                 # sum = high * 2**64 + low
    cdef uint64_t x
    cdef size_t width = 16 if tag == TAG_GCOUNTER else 24
    for i in range(s.len // width):
        x = load_u64(s.ptr + width * i + 8)
        low += x
        high += low < x
        if width == 24:
            x = load_u64(s.ptr + width * i + 16)
            high -= low < x
            low -= x
    if high == 0:
        return low
    return (<object>high << 64) + low
