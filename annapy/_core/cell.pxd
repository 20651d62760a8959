# cython: language_level=3
"""The cell: header, tags, stamps. The bytes that are the same in memory, mail, wire and disk.

Owns    the header's layout and the tags' numbers. Joins of whole cells are in cell.pyx; the stamp
        is in stamp.pxd (the registry stands between the two) and is also named from here.

    offset  size
    0       1     format      1
    1       1     tag         which lattice (TAG_*)
    2       1     flags       CELL_GENERATION | CELL_EXPIRY | CELL_FIELDS | CELL_SIBLINGS
    3       1     reserved    0
    4       4     body        bytes that follow the 8-byte header
    8       20    generation  stamp               iff CELL_GENERATION (a zero stamp is left out)
    ..      8+20  expiry      deadline ms, stamp  iff CELL_EXPIRY     (a zero stamp is left out)
    ..      2+n   fields      u16 n, then (u8 type, u16 length, bytes)*, types ascending
                                                  iff CELL_FIELDS     (no fields: left out)
    ..            state       the lattice's canonical state, to the end of the body; iff
                              CELL_SIBLINGS: two or more (varint length, state), states ascending

Invariants
    equal cells have equal bytes: whatever is zero or empty is absent, never spelled out
    a deadline of 0 with a stamp means "made permanent at that stamp"
    TAG_NONE => the state is empty: a deletion, which is nothing but its generation
    CELL_SIBLINGS => whoever joined did not know the tag: it kept both states. Who knows the tag
        calls cell_resolve before anything else (cell_verify refuses the flag on a known tag)
    HEADER_SIZE <= size of a cell <= CELL_SIZE_MAX
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.codec cimport Buf, Span
from annapy._core.stamp cimport STAMP_SIZE, Stamp, stamp_compare, stamp_is_zero

cdef enum:
    CELL_FORMAT = 1
    HEADER_SIZE = 8
    EXPIRY_SIZE = 28
    CELL_GENERATION = 1
    CELL_EXPIRY = 2
    CELL_FIELDS = 4
    CELL_SIBLINGS = 8
    NESTING_MAX = 8            # maps within maps

cdef enum:
    CELL_SIZE_MAX = 0x40000000  # 1 GiB

# Field types (skippable).
cdef enum:
    FIELD_BATCH = 1            # batch id, u64
    FIELD_LABEL = 2            # stamp, then the label that `evict(tag=)` names, UTF-8
    FIELD_PAYLOAD = 3          # content id of a device payload, 16 bytes

# The number decides between concurrent creations with two types: the higher tag wins.
cdef enum Tag:
    TAG_NONE = 0
    TAG_MAXINT = 1
    TAG_MININT = 2
    TAG_MAXFLOAT = 3
    TAG_MINFLOAT = 4
    TAG_FLAG = 5
    TAG_LWW = 6
    TAG_PRIORITY = 7
    TAG_GCOUNTER = 8
    TAG_PNCOUNTER = 9
    TAG_GSET = 10
    TAG_ORSET = 11
    TAG_ORDERED_SET = 12
    TAG_MAP = 13
    TAG_ORMAP = 14
    TAG_CLOCK = 15             # VectorClock
    TAG_MVREGISTER = 16        # Causal, as s.mvregister: siblings, a dot each
    TAG_CAUSAL = 17            # Causal
    TAG_MULTICAUSAL = 18
    TAG_MAXARRAY = 19
    TAG_SUMARRAY = 20
    TAG_HLL = 21
    TAG_USER = 22              # a user-defined lattice: named, encoded states as dotted siblings


cdef struct Cell:              # a parsed header; every span is borrowed from the cell's bytes
    uint8_t tag
    uint8_t flags
    Stamp generation           # zero: generation 0
    uint64_t deadline_ms       # 0: permanent
    Stamp expiry_stamp         # zero: never had a deadline
    Span fields                # the (type, length, bytes)* run, without its u16
    Span state


cdef int cell_parse(Span bytes, Cell* cell) noexcept nogil
# Header only, canonical form checked; the state is not looked into. OK or CORRUPT.

cdef int cell_verify(Span bytes) noexcept nogil
# Header and state. OK, CORRUPT. Unknown tags are opaque and pass if their header does.

cdef void cell_write_header(Buf* out, const Cell* cell, size_t state_len) noexcept nogil
# Header, generation, expiry, fields; the caller then appends `state_len` bytes of state.

cdef void cell_write(Buf* out, const Cell* cell) noexcept nogil
# The whole cell, cell.state included.

cdef int cell_join(Span a, Span b, Buf* out) noexcept nogil
# Appends the join of two verified cells: (generation, tag) lexicographically, then state x expiry,
# fields per type (the label by its stamp, else the greater bytes).

cdef int cell_order(Span a, Span b, int* order) noexcept nogil
# bit 0: a <= b, bit 1: b <= a.

cdef int cell_resolve(Span bytes, Buf* out) noexcept nogil
# Appends a foreign cell with its siblings joined, if it has any and the tag is known; else a copy.
# OK, CORRUPT (then nothing is to be believed of `bytes`).

cdef int fields_find(Span fields, uint8_t type, Span* value) noexcept nogil
# The bytes of one field of a verified run: OK or MISSING.
