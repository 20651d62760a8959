# cython: language_level=3
"""Tag to lattice: the one table through which the core joins, checks and changes states.

Owns      the table of LatticeType, and Op: the form in which every change of a state is expressed.
Written   once per tag, at import of the joins_* modules, under the import lock.
Read      from any thread, without a lock: entries never change once set.

A *state* is the part of a cell after its header. All functions are nogil, pure over bytes, and
append their result to `out`; on failure `out` is void and a negative Status is returned.

    verify(state)              OK iff the bytes are a canonical state (foreign bytes come here)
    join(a, b, out)            least upper bound; a and b are verified
    order(a, b, &o)            bit 0: a <= b, bit 1: b <= a (both: equal, neither: concurrent)
    mutate(old, op, out)       the *delta* of an operation, a state itself; new = join(old, delta).
                               The empty span is the bottom state of every lattice, everywhere.
    is_empty(state)            nothing observable is left (bottom, or only causal context)
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.codec cimport Buf, Span
from annapy._core.stamp cimport Stamp

cdef enum OpCode:
    OP_NONE = 0
    OP_SET = 1        # lww: arg = encoded value · causal kinds: arg = counted context, then value
    OP_ADD = 2        # counters: arg = i64 · sets, hll: arg = members · sumarray: arg = array
    OP_REMOVE = 3     # orset: arg = members · ormap: arg = fields (as members)
    OP_OBSERVE = 4    # maxint minint: i64 · maxfloat minfloat: f64 · maxarray: array
    OP_ENABLE = 5     # flag: no argument
    OP_OFFER = 6      # priority: arg = f64 priority, then the encoded value
    OP_UPDATE = 7     # map, ormap: counted field, u8 nested tag, u8 nested opcode, nested arg
    OP_CLEAR = 8      # dotted types: observed-remove of everything
    OP_MERGE = 9      # arg = a whole cell to join

# `members` is: varint count, then count times (varint length, bytes). In an op they come in any
# order and may repeat; in a state they are sorted by memcmp (shorter first) and unique.

cdef struct Op:
    uint8_t code
    uint8_t tag            # the lattice that the caller means
    uint16_t flags
    uint32_t depth         # nesting, 0 at the top
    Span arg
    Stamp stamp            # minted by the caller
    uint64_t actor         # in whose name dots and columns are minted: the owner's

ctypedef int (*verify_fn)(Span state, int depth) noexcept nogil
ctypedef int (*join_fn)(Span a, Span b, Buf* out) noexcept nogil
ctypedef int (*order_fn)(Span a, Span b, int* order) noexcept nogil
ctypedef int (*mutate_fn)(Span old, const Op* op, Buf* delta) noexcept nogil
ctypedef bint (*empty_fn)(Span state) noexcept nogil

cdef enum:
    LATTICE_DOTTED = 1      # deleted by observed-remove inside its generation
    LATTICE_COLLECTION = 2  # state = counted prefix, varint count, sorted entries (see joins_set)

cdef struct LatticeType:
    uint8_t tag
    uint8_t flags
    const char* kind        # the public name: "counter", "orset", ...
    verify_fn verify
    join_fn join
    order_fn order
    mutate_fn mutate
    empty_fn is_empty

cdef void lattice_register(const LatticeType* lattice) noexcept nogil
cdef const LatticeType* lattice_of(uint8_t tag) noexcept nogil     # NULL: unknown here, opaque
