# cython: language_level=3
"""Collections that are trees: the record's side of them.

Owns    when a state is a tree (REC_TREE), and the life of its root in a shard.
Callers shard.pyx, records.pyx and cut.pyx with the shard taken; large_cell also readers that have
        pinned the root.

A record with REC_TREE holds a cell whose state is 8 bytes: the offset of a published TreeRoot. The
cell's bytes for everyone else are those of the flat form, made by large_cell.

Invariants
    each record with REC_TREE owns one reference to its root, given back when the record is freed
    a root that a hazard names is released later (limbo)
    TREE_FROM <= bytes of a state  =>  it becomes a tree; below TREE_UNTIL it is flat again
"""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.cell cimport Cell
from annapy._core.codec cimport Buf, Span
from annapy._core.registry cimport LatticeType, Op
from annapy._core.shard cimport Shard
from annapy._core.table cimport Record
from annapy._core.tree cimport TREE_FROM

cdef inline uint64_t large_root(const Cell* cell) noexcept nogil:
    return (<const uint64_t*>cell.state.ptr)[0]

cdef bint large_wanted(const LatticeType* lattice, size_t state_len) noexcept nogil
cdef int large_build(Shard* shard, Span flat, uint64_t* root) noexcept nogil
# A published tree, of which the caller owns one reference.
cdef int large_apply(Shard* shard, const LatticeType* lattice, const Op* op,
                     uint64_t* root) noexcept nogil
# *root becomes the published version after the operation, with a reference of its own, or stays.
cdef int large_cell(const uint8_t* base, const uint8_t* cell, size_t cell_len,
                    Buf* out) noexcept nogil
# Appends the cell with its state flat.
cdef void large_release(Shard* shard, uint64_t root) noexcept nogil
